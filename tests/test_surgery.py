"""Blocks dropped and made linear while a context lasts: against models that have fewer blocks, and a block that is linear."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import medlens
from medlens.errors import BadInput
from medlens.walk.cases import cases
from medlens.walk.forward import prepare
from medlens.walk.generate import answer, answer_together
from medlens.walk.surgery import blocks_dropped, blocks_linear, fit_map

LINEAR = 4


@pytest.fixture(scope="module")
def asked():
    return medlens.phantom.samples(24, seed=5)


@pytest.fixture(scope="module")
def linear(phantom):
    return medlens.phantom.linear_block(phantom, LINEAR, n=60)


def laid(model, samples):
    """Each alone: questions on one image would otherwise share its tokens."""
    return [cases(model, [prepare(model, s)])[0] for s in samples]


def hooks_on(module):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in module.modules())


def shorter(model, gone):
    """The model without some blocks, by hand."""
    module = copy.deepcopy(model.module)
    new = replace(model, module=module)
    new.decoder.layers = nn.ModuleList([block for b, block in enumerate(new.blocks) if b not in gone])
    for b, block in enumerate(new.blocks):
        block.self_attn.layer_idx = b
    new.text_config.num_hidden_layers = len(new.blocks)
    return new


def spoken(model, sample):
    """By transformers' own generation, and by ours: the ids."""
    own, ours = answer(model, sample, max_new_tokens=4), answer_together(model, [prepare(model, sample)], 4)[0]
    assert own.ids == ours.ids
    return own.ids


@pytest.mark.parametrize("gone", [[3], [0, 5]])
def test_dropped_is_a_model_without_the_blocks(phantom, asked, gone):
    other, before, lengths = shorter(phantom, gone), hooks_on(phantom.module), []
    for sample in asked[:3]:
        with blocks_dropped(phantom, gone):
            logits, said = medlens.forward(phantom, sample).logits, spoken(phantom, sample)
        assert torch.allclose(logits, medlens.forward(other, sample).logits, atol=1e-5)
        assert said == spoken(other, sample)
        lengths.append(len(said))
        assert not torch.allclose(logits, medlens.forward(phantom, sample).logits, atol=1e-2)
    assert max(lengths) > 1  # a second token comes from the cache, which could have gone wrong
    assert hooks_on(phantom.module) == before


def test_streamed_as_resident(phantom, asked):
    streamed = medlens.load("phantom", memory=1)
    with blocks_dropped(phantom, [2]), blocks_dropped(streamed, [2]):
        assert torch.equal(medlens.forward(phantom, asked[0]).logits, medlens.forward(streamed, asked[0]).logits)


def test_a_block_that_is_linear_is_replaced_unseen_and_no_other_is(linear, asked):
    fitted, tested = laid(linear, asked[:12]), asked[20:]
    whole = [medlens.forward(linear, s).logits for s in tested]
    changed = []
    for block in range(linear.depth):
        one = fit_map(linear, fitted, block)
        with blocks_linear(linear, [one]):
            now = [medlens.forward(linear, s).logits for s in tested]
        changed.append(max(float((a - b).abs().max()) for a, b in zip(whole, now, strict=True)))
    assert changed[LINEAR] < 1e-3
    assert min(change for block, change in enumerate(changed) if block != LINEAR) > 1e-2


def test_a_map_is_least_squares(phantom, asked):
    walkers = laid(phantom, asked[:6])
    one = fit_map(phantom, walkers, 2, 3)
    states = [medlens.forward(phantom, s).hidden_states for s in asked[:6]]
    x, y = (torch.cat([of[layer] for of in states]).double() for layer in (2, 4))
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    slow = torch.cat([x, ones], 1) @ torch.linalg.lstsq(torch.cat([x, ones], 1), y, driver="gelsd").solution
    assert one.n == len(x)
    assert not one.note
    assert torch.allclose((one(x) - y).square().sum(), (slow - y).square().sum(), rtol=1e-3)


def test_too_few_tokens_limit_the_rank_and_it_is_said(phantom, asked):
    one = fit_map(phantom, laid(phantom, asked[:1]), 2)
    assert one.n < phantom.width
    assert f"at most rank {one.n - 1}" in one.note
    assert torch.linalg.matrix_rank(one.a) <= one.n - 1
    states = medlens.forward(phantom, asked[0]).hidden_states
    assert torch.allclose(one(states[2]), states[3], atol=1e-2)


def test_bad_input(phantom, asked):
    one = fit_map(phantom, laid(phantom, asked[:1]), 2)
    for wrong, said in (([], "no blocks"), ([8], "blocks 0 to 7; got 8"), (range(8), "leave at least one")):
        with pytest.raises(BadInput, match=said), blocks_dropped(phantom, wrong):
            pass
    with pytest.raises(BadInput, match="by one map"), blocks_linear(phantom, [one, one]):
        pass
