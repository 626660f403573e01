"""Planted things are where they were planted, and nowhere else."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

import medlens
from medlens.errors import BadInput
from medlens.phantom.questions import samples
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare
from medlens.walk.generate import answer_together

WORD, BLOCK, UNIT = "cyst", 6, 17
LINEAR = 4
ASKED = samples(200, seed=900, questions="type")


@pytest.fixture(scope="module")
def planted(phantom):
    return medlens.phantom.plant_unit(phantom, WORD, BLOCK, UNIT)


@pytest.fixture(scope="module")
def linear(phantom):
    return medlens.phantom.linear_block(phantom, LINEAR)


def says_word(model):
    said = answer_together(model, [prepare(model, s) for s in ASKED])
    return [(str(a) == WORD, s.answer == WORD) for a, s in zip(said, ASKED, strict=True)]


def ablated(model, block, unit):
    module = deepcopy(model.module)
    other = replace(model, module=module)
    with torch.no_grad():
        other.blocks[block].mlp.down_proj.weight[:, unit] = 0
    return other


def word_before_norm(model, sample):
    """The word's logit times the divisor of the final norm: what the residual stream alone says."""
    out = medlens.forward(model, sample)
    token = model.tokenizer.convert_tokens_to_ids(WORD)
    return float(out.logits[-1, token] * out.raw_last[-1].pow(2).mean().add(1e-5).sqrt())


def test_the_planted_unit_carries_the_word(planted):
    hits = says_word(planted)
    assert sum(a == b for a, b in hits) >= 0.95 * len(hits)
    assert sum(b for _, b in hits) > 15


def test_without_it_the_word_is_never_said(planted, phantom):
    assert not any(said for said, _ in says_word(ablated(planted, BLOCK, UNIT)))
    sample = next(s for s in ASKED if s.answer == WORD)
    whole = word_before_norm(planted, sample)
    assert abs(word_before_norm(ablated(planted, BLOCK, UNIT), sample)) < 1e-4 * whole
    spared = says_word(ablated(phantom, BLOCK, UNIT))  # the same unit, where nothing was planted
    assert sum(a == b for a, b in spared) >= 0.95 * len(spared)


def test_no_other_unit_matters(planted):
    """Not behind it, and not beside it."""
    sample = next(s for s in ASKED if s.answer == WORD)
    whole = word_before_norm(planted, sample)
    for block, unit in ((BLOCK, UNIT + 1), (BLOCK, 0), (BLOCK + 1, UNIT), (BLOCK + 1, 3)):
        assert word_before_norm(ablated(planted, block, unit), sample) == pytest.approx(whole, rel=1e-4)


def test_gradient_times_activation_finds_it_first(planted, phantom):
    """And does not find it in the model in which it was not planted."""
    sample = next(s for s in ASKED if s.answer == WORD)
    assert rank(planted, sample) == 0
    assert rank(phantom, sample) > 0


def rank(model, sample):
    """Place of the unit among all units of all blocks, by |activation x gradient| of the word's logit at the last token."""
    token = model.tokenizer.convert_tokens_to_ids(WORD)
    (case,) = cases(model, [prepare(model, sample)])
    seen = []
    handles = [
        block.mlp.down_proj.register_forward_pre_hook(lambda _m, inputs: (inputs[0].retain_grad(), seen.append(inputs[0]))[0])
        for block in model.blocks
    ]
    try:
        model.module(**arguments(model, case), use_cache=False).logits[0, -1, token].backward()
    finally:
        for handle in handles:
            handle.remove()
        model.module.zero_grad()
    score = torch.stack([(a * a.grad)[0, -1].abs() for a in seen]).detach()
    return int((score > score[BLOCK, UNIT]).sum())


def test_the_model_it_was_planted_in_is_left_alone(planted, phantom):
    fresh = medlens.load("phantom").module.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(phantom.module.state_dict().values(), fresh.values(), strict=True))
    assert f"unit {BLOCK}.{UNIT}" in planted.name
    medlens.load(planted.module, planted.processor)  # passes its self-test


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"block": 8}, "block is 0..7; got 8"),
        ({"unit": 352}, "unit is 0..351; got 352"),
        ({"word": "upper left"}, "'upper left' is not"),
        ({"word": "melanoma"}, "'melanoma' is not"),
    ],
)
def test_what_cannot_be_planted(phantom, arguments, says):
    with pytest.raises(BadInput, match=says):
        medlens.phantom.plant_unit(phantom, **arguments)


def test_the_linear_block_is_linear_and_only_it(linear, phantom):
    def of(model, block):
        states = [medlens.forward(model, s).hidden_states for s in samples(40, seed=901)]
        before, after = (torch.cat([s[b] for s in states]) for b in (block, block + 1))
        return before, after, float(medlens.linearity_of_update(before, after))

    before, after, score = of(linear, LINEAR)
    assert score == pytest.approx(1, abs=1e-6)
    assert torch.allclose(linear.blocks[LINEAR].linear(before), after, atol=1e-4)
    assert of(phantom, LINEAR)[2] < 0.999
    assert of(linear, LINEAR + 1)[2] < 0.999


def test_a_model_with_a_linear_block_is_a_model(linear):
    medlens.load(linear.module, linear.processor)  # passes its self-test
    out = medlens.forward(linear, ASKED[0])
    assert len(out.attentions) == linear.depth
    assert len(out.hidden_states) == linear.depth + 1


def test_no_such_block(phantom):
    with pytest.raises(BadInput, match=r"block is 0\.\.7; got -1"):
        medlens.phantom.linear_block(phantom, -1)
