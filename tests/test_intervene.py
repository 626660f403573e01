"""Units scaled and set while a context lasts: against edited weights, and against another image's activations."""

import pytest
import torch

import medlens
from medlens import hooks
from medlens.errors import BadInput
from medlens.walk.intervene import down, units_scaled, units_set

UNITS = [(6, 17), (6, 3), (0, 351)]


@pytest.fixture(scope="module")
def sample():
    return medlens.phantom.samples(3, seed=1)[2]


def hooks_on(module):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in module.modules())


def test_scaling_is_what_scaled_weights_do(phantom, sample, tmp_path):
    other = medlens.load(medlens.edit("phantom", {f"{b}.{u}": -2.0 for b, u in UNITS}, tmp_path / "new"))
    with units_scaled(phantom, UNITS, -2.0):
        changed = medlens.forward(phantom, sample).logits
    assert torch.allclose(changed, medlens.forward(other, sample).logits, atol=1e-4)
    assert not torch.allclose(changed, medlens.forward(phantom, sample).logits, atol=1e-2)


def test_streamed_as_resident(phantom, sample):
    streamed = medlens.load("phantom", memory=1)
    with units_scaled(phantom, UNITS), units_scaled(streamed, UNITS):
        assert torch.equal(medlens.forward(phantom, sample).logits, medlens.forward(streamed, sample).logits)


def activations(model, sample):
    with hooks.inputs_of(down(model, 6)) as seen:
        medlens.forward(model, sample)
    return seen[-1][0]


def test_set_to_its_own_values_it_changes_nothing(phantom, sample):
    own = activations(phantom, sample)
    with units_set(phantom, [(6, 17), (6, 3)], {(6, u): own[:, u] for u in (17, 3)}):
        same = medlens.forward(phantom, sample).logits
    assert torch.allclose(same, medlens.forward(phantom, sample).logits, atol=1e-5)


def test_set_to_a_number(phantom, sample):
    expected = activations(phantom, sample)
    expected[:, 17] = 3.0
    with units_set(phantom, [(6, 17)], {(6, 17): 3.0}):
        assert torch.equal(activations(phantom, sample), expected)


def test_nothing_is_left_behind(phantom, sample):
    before = hooks_on(phantom.module)
    with units_scaled(phantom, UNITS):
        assert hooks_on(phantom.module) == before + 2
    with pytest.raises(RuntimeError, match="stop"), units_scaled(phantom, UNITS):
        raise RuntimeError("stop")
    assert hooks_on(phantom.module) == before


@pytest.mark.parametrize(("unit", "said"), [((8, 0), "blocks 0 to 7"), ((-1, 0), "blocks 0 to 7"), ((1, 352), "units 0 to 351")])
def test_units_that_are_none(phantom, unit, said):
    with pytest.raises(BadInput, match=said), units_scaled(phantom, [unit]):
        pass


def test_a_unit_without_a_value(phantom):
    one_lacking = units_set(phantom, [(1, 1), (1, 2)], {(1, 1): 0.0})
    with pytest.raises(BadInput, match=r"no value for 1 of 2 units, the first of them 1\.2"), one_lacking:
        pass
