"""Massive activations: every one that was planted and no other."""

import numpy as np
import pytest
import torch

from medlens.errors import BadInput
from medlens.measures.massive import Entry, massive


def state(n=40, d=64, seed=0):
    return 0.05 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def by_hand(values, of_sample):
    """Sun 2024, entry by entry; the first sample that has it keeps it."""
    found, known = [], set()
    for k, places in enumerate(of_sample):
        median = np.median([abs(float(v)) for place in places for v in values[place]])
        for place in places:
            for column, value in enumerate(values[place].tolist()):
                if abs(value) > 100 and abs(value) >= 1000 * median and (place, column) not in known:
                    known.add((place, column))
                    found.append((k, place, column, value))
    return sorted(found)


# Two samples of the places 0..9 in common, and their own; then one that is alone.
PACKED = [[*range(10), *range(10, 18)], [*range(10), *range(18, 30)], [*range(30, 40)]]
OWN = [5, 8, 9, *range(10, 18)]  # the first sample, most of whose places are its own


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_all_that_were_planted(dtype):
    x = state().to(dtype)
    planted = {(0, 3): 900.0, (4, 63): -512.0, (12, 0): 101.0, (29, 7): 3008.0, (35, 1): -128.0}
    for (place, column), value in planted.items():
        x[place, column] = value
    x[20, 5] = 99.0  # not above 100
    x[21, 5] = -100.0
    owner = {0: 0, 4: 0, 12: 0, 29: 1, 35: 2}
    got = massive(x, PACKED)
    assert sorted(got) == [Entry(k, p, c, v) for (p, c), v in sorted(planted.items()) for k in [owner[p]]]
    assert sorted(got) == by_hand(x.double(), PACKED)


def test_none():
    x = state()
    assert massive(x, PACKED) == []
    assert massive(x[:0], [[]]) == []
    assert massive(200 + x, PACKED) == []  # large, but so is all of it
    x[3, 3] = 1e4
    assert massive(x, [range(10, 40)]) == []  # at a place that is nobody's


def test_nothing_but_the_largest_is_looked_at_where_there_is_none(monkeypatch):
    monkeypatch.setattr(np, "median", None)
    assert massive(state(), PACKED) == []
    with pytest.raises(TypeError):
        massive(state() + 101, PACKED)


@pytest.mark.parametrize("sign", [1, -1])
def test_at_the_thresholds(sign):
    x = torch.ones(6, 10, dtype=torch.float64)
    x[0, 0] = 1000.0 * sign  # exactly 1000 times
    x[1, 1] = 999.999 * sign
    assert massive(x, [range(6)]) == [(0, 0, 0, 1000.0 * sign)]
    x = torch.full((6, 10), 1e-3, dtype=torch.float64)
    x[2, 2] = 100.0 * sign  # above it, not at it
    x[3, 3] = 100.001 * sign
    assert massive(x, [range(6)]) == [(0, 3, 3, 100.001 * sign)]


def test_the_median_is_that_of_the_whole_sample_and_of_an_even_count_the_middle():
    x = torch.tensor([[0.1, 0.3], [0.5, 400.0]], dtype=torch.float64)  # median 0.4
    assert massive(x, [[0, 1]]) == [(0, 1, 1, 400.0)]
    x[1, 1] = 399.0
    assert massive(x, [[0, 1]]) == []
    # In the view of its own row alone it would not have been, and in that of its column neither.


def test_in_the_prefix_it_counts_if_it_is_so_for_any_sample():
    x = state()
    x[5, 5] = 150.0
    x[10:18] *= 100  # the first sample's own are large: its median too
    got = massive(x, [OWN, PACKED[1]])
    assert got == [(1, 5, 5, 150.0)] == by_hand(x, [OWN, PACKED[1]])
    assert massive(x, PACKED[1:]) == [(0, 5, 5, 150.0)]
    assert massive(x, [OWN]) == []


@pytest.mark.parametrize("seed", range(8))
def test_brute_force(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.exp(5 * torch.randn(40, 16, generator=g)) * torch.randn(40, 16, generator=g).sign() * 0.1
    got = massive(x, PACKED)
    assert sorted(got) == by_hand(x, PACKED)
    assert len(got) == len({entry[1:3] for entry in got})


def test_another_shape_is_refused():
    with pytest.raises(BadInput, match="places"):
        massive(torch.zeros(3), [[0]])
