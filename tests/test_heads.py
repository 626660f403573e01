"""Attention heads: shares of attention and patching, against plain forwards with hooks of this file's own; and models that see
nothing."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import medlens
from medlens import hooks
from medlens._neurons.concepts import concepts_of, places_of
from medlens._neurons.effects import FEW
from medlens._neurons.heads import Heads, image_shares
from medlens._neurons.prove import Bench
from medlens.errors import BadInput, BadModel
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare, walk
from medlens.walk.heads import heads_of, heads_scaled, heads_swapped
from medlens.walk.units import Names

WIDTH = 32  # of a head of the phantom: 128 / 4


@pytest.fixture(scope="module")
def asked():
    """Images enough for two halves: ten with a mass, ten without one."""
    drawn = medlens.phantom.samples(170, 11, "type")
    return [s for s in drawn if s.answer == "mass"][:10] + [s for s in drawn if s.answer != "mass"][:10]


def looked_at(model, asked, folder, blocks=None):
    prompts = [prepare(model, s) for s in asked]
    concepts, _ = concepts_of(model, prompts, "mass", "finding")
    places = places_of(prompts, concepts, 0)
    benches = [
        Bench(model, prompts, concepts, places, Names(), folder, 0, lambda: None, half) for half in ("discovery", "test")
    ]  # fmt: skip
    heads = Heads(model, *benches, FEW, 0, lambda: None)
    if blocks is not None:  # the others take as long, and are no different
        heads.every = [head for head in heads.every if head[0] in blocks]
    return heads, *heads.of(concepts[0]), concepts[0]


@pytest.fixture(scope="module")
def found(phantom, asked, tmp_path_factory):
    return looked_at(phantom, asked, tmp_path_factory.mktemp("heads"), blocks=(1, 3))


def plain(model, sample, patch=None):
    """Log-odds of "mass", and what enters `o_proj` of each block; patch: (block, head, (T, d)), which head to take from there."""
    word, entered, handles = model.tokenizer.convert_tokens_to_ids("mass"), [], []

    def note(block):
        def hook(_, inputs):
            given = inputs[0].clone()
            if patch is not None and patch[0] == block:
                own = slice(WIDTH * patch[1], WIDTH * (patch[1] + 1))
                given[..., own] = patch[2][..., own]
            entered.append(given)
            return (given, *inputs[1:])

        return hook

    for b, block in enumerate(model.blocks):
        handles.append(block.self_attn.o_proj.register_forward_pre_hook(note(b)))
    with torch.no_grad():
        called = arguments(model, cases(model, [prepare(model, sample)])[0])
        p = model.module(**called, use_cache=False).logits[0, -1].double().softmax(-1)
    for handle in handles:
        handle.remove()
    return float(torch.logit(p[word])), entered


def test_patching_is_that_of_plain_forwards(phantom, found):
    """Every pair of the test half, one head, both ways, through transformers' own forward."""
    heads, rows, _, concept = found
    row = next(r for r in rows if (r["layer"], r["head"]) == (1, 1))
    bench, put, taken, gap = heads.test, [], [], []
    for k in bench.which(concept, True):
        clean = bench.prompts[k].sample
        donor = bench._again.walkers[bench.donors["mass", k]].prompts[0].sample
        (own, entered), (other, others) = plain(phantom, clean), plain(phantom, donor)
        put.append(plain(phantom, donor, (1, 1, entered[1]))[0] - other)
        taken.append(plain(phantom, clean, (1, 1, others[1]))[0] - own)
        gap.append(own - other)
    n = len(put)
    assert n == row["images"] == 5
    assert row["patch_in"] == pytest.approx(sum(put) / n, rel=1e-3, abs=1e-4)
    assert row["patch_out"] == pytest.approx(sum(taken) / n, rel=1e-3, abs=1e-4)
    assert row["patch_in_share"] == pytest.approx(sum(put) / sum(gap), rel=1e-3)


def test_shares_are_those_of_whole_attention(phantom, found):
    heads, _, _, _ = found
    sample = heads.test.prompts[1].sample
    whole = medlens.forward(phantom, sample)
    image = [i for i, g in enumerate(whole.tokens.groups) if g == "image"]
    text = [i for i, g in enumerate(whole.tokens.groups) if g == "text" and i > image[-1]]
    assert text
    for block in (0, 5):
        weights = whole.attentions[block].double()
        assert torch.allclose(heads.shares[1, block, :, 0], weights[:, -1, image].sum(-1), atol=1e-5)
        assert torch.allclose(heads.shares[1, block, :, 1], weights[:, text][:, :, image].sum(-1).mean(-1), atol=1e-5)


def test_the_best_are_chosen_on_discovery_images_and_compared_with_every_other_choice(found):
    _, rows, (put, taken), _ = found
    by_discovery = sorted(rows, key=lambda r: -r["discovery"])
    assert [r["rank"] for r in by_discovery] == list(range(1, 9))
    assert [r["top"] for r in by_discovery] == [True] + 7 * [False]
    assert (put["change"], taken["change"]) == ("put in", "resample")
    best, others = by_discovery[0], [r for r in rows if r["layer"] == by_discovery[0]["layer"] and not r["top"]]
    for row, name, strongest, sign in ((put, "patch_in", max, 1), (taken, "patch_out", min, -1)):
        assert row["value"] == pytest.approx(best[name], abs=1e-5)  # a set of one head is that head
        assert row["random_most"] == pytest.approx(strongest(r[name] for r in others), abs=1e-5)
        as_much = sum(sign * r[name] >= sign * best[name] for r in others)
        assert (row["draws"], row["p"]) == (3, (1 + as_much) / 4)
    assert put["value"] > max(1, put["random"])


def test_sets_are_of_the_same_blocks_and_of_others(found):
    heads = found[0]
    heads._draw, before = np.random.default_rng(1), heads._draw
    for top, draws, count in (([(1, 0), (1, 2), (3, 1)], 3, 3), ([(1, 0), (1, 2), (3, 1)], 5, 3), ([(1, 0), (3, 1)], 5, 5)):
        sets = list(heads._others(top, draws))
        assert len(sets) == count
        for other in sets:
            assert sorted(b for b, _ in other) == sorted(b for b, _ in top)
            assert len(set(other)) == len(top)
            assert not set(other) & set(top)
    heads._draw = before


def test_a_model_that_sees_nothing_has_nothing_to_restore(asked, tmp_path):
    _, rows, effects, _ = looked_at(medlens.load("phantom:textonly"), asked, tmp_path, blocks=(1,))
    assert all(r["patch_in_share"] is None for r in rows)
    assert all(e["low"] <= 0 <= e["high"] or abs(e["value"]) < 0.1 for e in effects)
    assert max(abs(r["patch_in"]) for r in rows) < 0.1


def test_scaled_to_zero_is_without_the_columns(phantom, asked):
    edited = replace(phantom, module=copy.deepcopy(phantom.module))
    edited.blocks[3].self_attn.o_proj.weight.data[:, 2 * WIDTH : 3 * WIDTH] = 0
    case = cases(phantom, [prepare(phantom, asked[0])])[0]
    with hooks.inputs_of(phantom.norm) as seen:
        with heads_scaled(phantom, [(3, 2)]):
            walk(phantom, [case], [])
        walk(phantom, [case], [])
    with hooks.inputs_of(edited.norm) as expected:
        walk(edited, [case], [])
    assert torch.allclose(seen[0], expected[0], atol=1e-5)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)


def test_streamed_as_resident(phantom, asked):
    streamed = medlens.load("phantom", memory=1)
    both = [image_shares(m, [prepare(m, s) for s in asked[:2]], lambda: None) for m in (phantom, streamed)]
    assert both[0].shape == (2, 8, 4, 2)
    assert torch.allclose(*both, atol=1e-5)


def test_heads_that_are_not_there(phantom, monkeypatch):
    assert heads_of(phantom, 0) == 4
    with pytest.raises(BadInput, match=r"head 3\.4: block 3 of phantom has heads 0 to 3"), heads_scaled(phantom, [(3, 4)]):
        pass
    with pytest.raises(BadInput, match="blocks 0 to 7; got 8"), heads_swapped(phantom, [(8, 0)]):
        pass
    monkeypatch.setattr(phantom.blocks[2].self_attn, "head_dim", None)
    with pytest.raises(BadModel, match="block 2 does not say how wide a head is"):
        heads_of(phantom, 2)
