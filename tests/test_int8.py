"""int8 blocks: the numbers are the grid's, streamed and resident are one model, and every measure's change is told."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import medlens
from medlens._record import fingerprint
from medlens.errors import BadInput
from medlens.models import int8
from medlens.models.null import reinitialised
from medlens.walk.cases import cases
from medlens.walk.forward import prepare
from medlens.walk.generate import answer_together
from medlens.walk.reverse import reverse
from medlens.walk.room import Room
from medlens.walk.target import next_word

GOLDEN = Path(__file__).parent / "golden" / "llava_med"


@pytest.fixture(scope="module")
def samples():
    return medlens.phantom.samples(12, seed=5)


@pytest.fixture(scope="module")
def plain():
    return medlens.load("phantom")


@pytest.fixture(scope="module")
def small():
    return medlens.load("phantom", dtype="int8")


@pytest.fixture(scope="module")
def streamed():
    return medlens.load("phantom", dtype="int8", memory=1)


def by_hand(weight):
    """Row by row, in float64."""
    rows = []
    for row in weight.detach().double().numpy():
        scale = np.abs(row).max() / 127
        rows.append(np.rint(row / scale) * scale if scale else 0 * row)
    return torch.from_numpy(np.stack(rows)).float()


def test_the_grid_is_symmetric_and_one_a_row():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [1e-3], [40.0], [0.0], [1e-20]])
    small, scale = int8.quantise(weight)
    assert small.dtype == torch.int8
    assert scale.shape == (5, 1)
    assert int(small.abs().max()) == 127
    assert ((int8.rounded(weight) - weight).abs() <= scale / 2 * (1 + 1e-5)).all()
    assert torch.allclose(int8.rounded(weight), by_hand(weight), rtol=1e-5, atol=0)


def test_blocks_are_int8_and_all_else_is_not(small, plain):
    kinds = {type(m) for block in small.blocks for m in block.modules() if isinstance(m, nn.Linear)}
    assert kinds == {int8.QuantisedLinear}
    assert {p.dtype for block in small.blocks for name, p in block.named_parameters() if name.endswith("small")} == {torch.int8}
    assert {p.dtype for name, p in small.module.named_parameters() if not name.endswith("small")} == {torch.float32}
    assert small.parameters == plain.parameters
    assert small.dtype == torch.float32
    assert small.weights is None
    assert "int8" in small.origin["weights"]
    held, before = (sum(p.nbytes for b in m.blocks for p in b.parameters()) for m in (small, plain))
    assert held < before * 0.27


def test_it_is_the_model_with_rounded_weights(small, streamed, plain, samples):
    """Oracle: a float32 model whose weights are rounded in place, row by row."""
    module = copy.deepcopy(plain.module)
    for block in medlens.models.Model("copy", module, plain.processor).blocks:
        for part in block.modules():
            if isinstance(part, nn.Linear):
                part.weight.data = by_hand(part.weight.data)
    oracle = medlens.load(module, plain.processor)
    for sample in samples[:2]:
        want, whole = medlens.forward(oracle, sample).logits, medlens.forward(plain, sample).logits
        ours = medlens.forward(small, sample).logits
        assert torch.allclose(ours, want, atol=2e-3 * float(want.abs().max()))
        assert torch.equal(ours, medlens.forward(streamed, sample).logits)
        assert (whole - want).abs().max() > 5 * (ours - want).abs().max()  # the change is seen, and is the grid's


def test_streamed_is_streamed_and_known_by_the_same_fingerprint(small, streamed, plain):
    assert streamed.weights is not None
    assert all(p.is_meta for block in streamed.blocks for p in block.parameters())
    assert fingerprint(streamed) == fingerprint(small) != fingerprint(plain)


def test_answers_and_gradients(small, streamed, samples):
    asked = [prepare(small, sample) for sample in samples]
    assert answer_together(small, asked) == answer_together(streamed, asked)
    laid = cases(small, asked[:1])
    aims = [[next_word(laid[0], 5)]]
    found = [_gradient(model, laid, aims) for model in (small, streamed)]
    assert torch.equal(*found)
    assert found[0].abs().max() > 0


def _gradient(model, laid, aims):
    kept = []

    class Seen:
        def begin(self, case, target, value, state, gradient): ...
        def inside(self, block, module):
            from contextlib import nullcontext

            return nullcontext([])

        def visit(self, block, case, target, state, gradient, traced):
            kept.append(gradient.clone())

        def leave(self, block): ...

    reverse(model, laid, aims, [Seen()], Room(kept_from=0))
    return kept[-1]


def test_a_null_of_it_is_the_null_of_the_float_model(small, plain, samples):
    drawn = [medlens.forward(reinitialised(model, 3), samples[0]).logits for model in (small, plain)]
    assert torch.equal(*drawn)


def test_other_layouts(tmp_path):
    got = medlens.load(GOLDEN / "seed0" / "checkpoint", vision_tower=GOLDEN / "seed0" / "clip", dtype="int8")
    assert got.checks["logits"] <= 1e-4
    random = medlens.load("phantom:random:3", dtype="int8")
    assert isinstance(random.blocks[0].get_submodule("mlp.down_proj"), int8.QuantisedLinear)


def test_an_object_is_left_as_it_is(plain):
    with pytest.raises(BadInput, match="loaded by its name"):
        medlens.load(plain.module, plain.processor, dtype="int8")
    with pytest.raises(BadInput, match=r"float32, float16, bfloat16, int8; got int4"):
        medlens.load("phantom", dtype="int4")
