"""Maps of attribution, beside slow ones written from the papers, by full autograd through transformers' own forward."""

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients

import medlens
from medlens import hooks
from medlens.errors import BadInput
from medlens.saliency import METHODS, Asked, Choices, maps
from medlens.saliency.blank import entered
from medlens.saliency.integrated import integrated_gradients
from medlens.saliency.occlusion import occlusion
from medlens.walk.batch import onward, valued
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare
from medlens.walk.target import EveryLogit, LogOdds, Word, next_word

SHOWN = 16


def said(model, sample, answer=None):
    prompt = prepare(model, sample)
    case = cases(model, [prompt])[0]
    word = model.tokenizer.convert_tokens_to_ids((answer or sample.answer).split()[0])
    return Asked(case, LogOdds(Word(len(prompt.tokens) - 1, word)))


@pytest.fixture(scope="module")
def ill(phantom):
    """Samples with one lesion, and its mask."""
    drawn = [s for s in medlens.phantom.samples(200, 77, "presence") if [r.name != "mark" for r in s.regions].count(True) == 1]
    return [(s, next(r for r in s.regions if r.name != "mark").array()) for s in drawn[:SHOWN]]


@pytest.fixture(scope="module")
def asked(phantom, ill):
    return [said(phantom, sample) for sample, _ in ill]


# ---- oracles


def attentions(model, one):
    """Of transformers' own forward: of each block the weights and the target's gradient with respect to them, (heads, T, T)."""
    module = model.module
    with hooks.attention(module, "eager"), torch.enable_grad():
        out = module(**arguments(model, one.case), output_attentions=True, use_cache=False)
        value = one.target.of(out.logits[0][one.target.behind])
        slopes = torch.autograd.grad(value, out.attentions)
    return [w[0].detach().double() for w in out.attentions], [s[0].double() for s in slopes]


def chefer(model, one):
    weights, slopes = attentions(model, one)
    relevance = torch.eye(len(weights[0][0]), dtype=torch.float64)
    for attention, slope in zip(weights, slopes, strict=True):
        mean = torch.zeros_like(relevance)
        for head in range(len(attention)):
            mean += (slope[head] * attention[head]).clamp(min=0) / len(attention)
        relevance = relevance + mean @ relevance
    return relevance[one.target.behind[0], one.image].numpy()


def published(model, one, block):
    """Head-maximum of the attention probabilities times head-maximum of their gradient."""
    weights, slopes = attentions(model, one)
    places = []
    for column in one.image:
        most = max(float(head[one.reading, column]) for head in weights[block])
        steepest = max(float(head[one.reading, column]) for head in slopes[block])
        places.append(most * steepest)
    return np.array(places)


def sound(model, one, block):
    weights, slopes = attentions(model, one)
    pairs = list(zip(weights[block], slopes[block], strict=True))
    return np.array([np.mean([max(0.0, float((w * s)[one.reading, c])) for w, s in pairs]) for c in one.image])


def test_relevance_is_chefers(phantom, asked):
    found = maps(phantom, asked[:3], ["relevance"])["relevance"]
    for one, own in zip(asked, found, strict=False):
        np.testing.assert_allclose(own, chefer(phantom, one), atol=1e-5)


def test_gradcam_at_every_block(phantom, asked):
    (found,) = maps(phantom, asked[:1], ["gradcam_attention"], layers=[1, 4, 7])["gradcam_attention"]
    for row, block in zip(found, (1, 4, 7), strict=True):
        np.testing.assert_allclose(row, sound(phantom, asked[0], block), atol=1e-5)


def test_the_published_gradcam(phantom, asked):
    case = asked[0].case
    last = len(case.prompts[0].tokens) - 1
    one = Asked(case, EveryLogit(last), row=last - 2)  # as for a token of the question
    (found,) = maps(phantom, [one], ["gradcam_attention"], layers=[3], choices=Choices.published())["gradcam_attention"]
    np.testing.assert_allclose(found[0], published(phantom, one, 3), atol=1e-5)
    assert np.abs(found[0] - sound(phantom, one, 3)).max() > 1e-4


@pytest.mark.parametrize("choice", ["maximum", "signed"])
def test_each_choice_moves_the_map_alone(phantom, asked, choice):
    (own,) = maps(phantom, asked[:1], ["gradcam_attention"], layers=[3])["gradcam_attention"]
    (other,) = maps(phantom, asked[:1], ["gradcam_attention"], layers=[3], choices=Choices(**{choice: True}))["gradcam_attention"]
    assert Choices(**{choice: True}).named == [choice]
    assert np.abs(own - other).max() > 1e-6


def test_raw_attention_is_the_attention(phantom, ill, asked):
    (found,) = maps(phantom, asked[:1], ["raw_attention"])["raw_attention"]
    walked = medlens.forward(phantom, ill[0][0])
    expected = [block.mean(0)[asked[0].reading, asked[0].image] for block in walked.attentions]
    np.testing.assert_allclose(found, torch.stack(expected), atol=1e-6)


def through_transformers(model, one, way):
    """The target as a function of the image tokens' embeddings (B, tokens, d), by transformers' own decoder."""

    def value(embeddings):
        states = way.own.repeat(len(embeddings), 1, 1)
        states[:, one.image] = embeddings
        last = model.decoder(inputs_embeds=states, use_cache=False).last_hidden_state
        return torch.stack([one.target.of(model.module.lm_head(row)) for row in last[:, one.target.behind]])

    return value


def test_captum_agrees_on_integrated_gradients(phantom, asked):
    way = entered(phantom, asked[0])
    ends = way.own[None, asked[0].image], way.blank[None, asked[0].image]
    theirs = IntegratedGradients(through_transformers(phantom, asked[0], way)).attribute(
        ends[0], ends[1], n_steps=16, method="gausslegendre"
    )
    own = integrated_gradients(phantom, asked[0], 16).values
    np.testing.assert_allclose(own, theirs[0].sum(1).detach(), atol=1e-5 * max(1, np.abs(own).max()))


def test_captum_agrees_on_occlusion(phantom, asked):
    way, count = entered(phantom, asked[1]), len(asked[1].image)
    ends = way.own[None, asked[1].image], way.blank[None, asked[1].image]
    token = torch.arange(count)[None, :, None].expand_as(ends[0])
    with torch.no_grad():
        theirs = FeatureAblation(through_transformers(phantom, asked[1], way)).attribute(ends[0], ends[1], feature_mask=token)
    np.testing.assert_allclose(occlusion(phantom, asked[1]), theirs[0, :, 0], atol=1e-4)


def test_integrated_gradients_are_complete(phantom, asked):
    notes = {}
    maps(phantom, asked[:2], ["integrated_gradients"], notes=notes)
    assert len(notes) == 2
    assert all(said.note.startswith("sums to within") for said in notes.values())
    assert integrated_gradients(phantom, asked[0], 2).error > 0.01  # two nodes are not enough, and that is seen


def test_integrated_gradients_are_a_plain_sum_over_the_line(phantom, asked):
    """By full autograd through the whole decoder, one node at a time."""
    one, total = asked[0], 0
    way = entered(phantom, one)
    at, weights = np.polynomial.legendre.leggauss(8)
    for node, weight in zip((at + 1) / 2, weights / 2, strict=True):
        state = way.own.clone()
        state[one.image] = way.blank[one.image] + float(node) * (way.own - way.blank)[one.image]
        state.requires_grad_()
        with torch.enable_grad():
            out = phantom.decoder(inputs_embeds=state[None], use_cache=False).last_hidden_state[0]
            value = one.target.of(phantom.unembed(out[one.target.behind]))
            (slope,) = torch.autograd.grad(value, state)
        total = total + weight * slope
    expected = ((way.own - way.blank) * total)[one.image].sum(1)
    np.testing.assert_allclose(integrated_gradients(phantom, one, 8).values, expected, atol=2e-4)


def test_occlusion_shared_is_occlusion_one_by_one(phantom, asked):
    one = asked[0]
    way, found = entered(phantom, one), occlusion(phantom, one)
    value = lambda state: float(valued(phantom, onward(phantom, way.steps, state[None])[-1], one.target.behind, one.target.of))
    before = value(way.own)
    for k in (0, 7, 8, 33, 63):
        state = way.own.clone()
        state[one.image[k]] = way.blank[one.image[k]]
        assert abs(found[k] - (before - value(state))) < 1e-3


def test_occlusion_with_a_window_shorter_than_the_image(tiny_llava):
    model = tiny_llava(sliding_window=16)
    sample = medlens.phantom.samples(1, 3, "type")[0]
    one = said(model, sample)
    way, found = entered(model, one), occlusion(model, one)
    value = lambda state: float(valued(model, onward(model, way.steps, state[None])[-1], one.target.behind, one.target.of))
    state = way.own.clone()
    state[one.image[-2]] = way.blank[one.image[-2]]
    assert abs(found[-2] - (value(way.own) - value(state))) < 1e-4


def test_streamed_is_resident(phantom, asked, ill):
    streamed = medlens.load("phantom", memory=1)
    other = [said(streamed, ill[0][0])]
    for name in ("gradcam_attention", "relevance", "integrated_gradients", "occlusion"):
        own, same = (maps(m, a, [name], nodes=4)[name][0] for m, a in ((phantom, asked[:1]), (streamed, other)))
        np.testing.assert_allclose(own, same, atol=1e-5)


# ---- do they find what is there?


def hits(values, masks, distance=4.0):
    """Share of maps whose strongest cell's middle lies within so many pixels of the mask."""
    found = []
    for of, mask in zip(values, masks, strict=True):
        row, column = divmod(int(of.argmax()), 8)
        rows, columns = np.nonzero(mask)
        found.append(np.hypot(rows + 0.5 - 8 * row - 4, columns + 0.5 - 8 * column - 4).min() <= distance)
    return np.mean(found)


BOXES = np.array([[8 * (k % 8), 8 * (k // 8), 8 * (k % 8) + 8, 8 * (k // 8) + 8] for k in range(64)], float)


@pytest.mark.slow
def test_they_find_the_lesion_where_there_is_one_to_be_found(phantom, ill, asked):
    masks = [mask for _, mask in ill]
    names = ["relevance", "integrated_gradients", "centre", "edges", "random"]
    share = {name: hits(of, masks) for name, of in maps(phantom, asked, names, boxes=[BOXES] * SHOWN, nodes=8).items()}
    assert min(share["relevance"], share["integrated_gradients"]) >= 0.9
    assert max(share["centre"], share["edges"], share["random"]) <= 0.5
    nothing = medlens.load("phantom:random")
    blind = [said(nothing, sample) for sample, _ in ill]
    assert max(hits(of, masks) for of in maps(nothing, blind, names[:2], nodes=8).values()) <= 0.5


# ---- bad input


def test_bad_input(phantom, asked):
    with pytest.raises(BadInput, match=r"methods are gradcam_attention, .*; got saliency"):
        maps(phantom, asked[:1], ["saliency"])
    with pytest.raises(BadInput, match="blocks 0 to 7; got layer 8"):
        maps(phantom, asked[:1], ["gradcam_attention"], layers=[8])
    with pytest.raises(BadInput, match="centre is a map of places"):
        maps(phantom, asked[:1], ["centre"])
    assert "rolled out" in METHODS["relevance"].words


def hooked(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules())


def test_no_hook_is_left(phantom, asked):
    case, before = asked[0].case, hooked(phantom)
    with pytest.raises(BadInput):
        maps(phantom, [Asked(case, next_word(case, 10**6))], ["relevance"])
    assert hooked(phantom) == before
    assert hooks.attention_of(phantom.module) != "eager"
