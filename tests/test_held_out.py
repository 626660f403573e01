"""Held-out linearity: against least squares on rows, fold by fold; against its known expectations; and where it must refuse."""

import math

import pytest
import torch

import oracles
from medlens.errors import BadInput, NotFinite
from medlens.measures import held_out
from medlens.measures.held_out import (
    held_out_linearity,
    held_out_linearity_from_folds,
    held_out_linearity_of_update,
    held_out_linearity_of_update_from_folds,
)
from medlens.stats import Folds, PairSums
from medlens.stats.intervals import jackknife
from test_measures import CASES, states

BOTH = {
    "held_out_linearity": (held_out_linearity, held_out_linearity_from_folds),
    "held_out_linearity_of_update": (held_out_linearity_of_update, held_out_linearity_of_update_from_folds),
}
both = pytest.mark.parametrize("name", BOTH)
K = 5


def fold_of(x, k=K):
    return torch.arange(len(x)) % k


def folds_of(x, y, fold, k=K):
    folds = Folds(PairSums, k)
    for j in range(k):
        folds[j].update(x[fold == j], y[fold == j])
    return folds


def oracle(name, x, y, fold):
    return getattr(oracles, name)(x.double().numpy(), y.double().numpy(), fold.numpy())


def close(got, want, tolerance=1e-7):
    """Within 1e-7 of a score about 1; relative where errors dwarf the squares."""
    if math.isnan(want):
        return math.isnan(got) and bool(got.note)
    return abs(got - want) <= tolerance * max(1, abs(want))


@both
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_least_squares_on_rows(name, case):
    x, y = CASES[case]()
    got, want = BOTH[name][0](x, y, fold_of(x)), oracle(name, x, y, fold_of(x))
    assert close(got, want), (got, want)
    assert got.n == len(x)


@both
@pytest.mark.parametrize(("n", "d", "k"), [(60, 4, 5), (61, 14, 3), (300, 30, 10), (64, 20, 2)])
def test_folds_that_are_kept_and_folds_that_are_summed(name, n, d, k):
    x, y = states(n, d, 4, torch.float64)
    fold = torch.arange(n).square() % k % 3 if k == 3 else fold_of(x, k)  # uneven ones too
    folds = folds_of(x, y, fold, k)
    assert close(BOTH[name][1](folds), oracle(name, x, y, fold), 1e-10)
    for j in folds.filled:
        rest = fold != j
        assert close(BOTH[name][1](folds, j), oracle(name, x[rest], y[rest], fold[rest]), 1e-10)


@both
def test_columns_that_vary_in_one_fold_alone(name):
    # Constant among the rows that are fitted, so the map has nothing to say of them; what they do in the fold is error.
    x, y = states(100, 6, 1, torch.float64)
    x[:, 2] = torch.where(fold_of(x) == 3, x[:, 2], 7.0)
    assert close(BOTH[name][0](x, y, fold_of(x)), oracle(name, x, y, fold_of(x)), 1e-10)


@both
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_columns_that_repeat_others_except_in_one_fold(name, scale):
    # Rank-deficient where the map is fitted: the shortest map of scaled columns, and y has parts that it does not use.
    x, y = states(100, 6, 2, torch.float64)
    x[:, 2] = torch.where(fold_of(x) == 3, x[:, 2], scale * x[:, 0])
    assert close(BOTH[name][0](x, y, fold_of(x)), oracle(name, x, y, fold_of(x)), 1e-9)


@both
def test_any_split_over_machines(name):
    x, y = states(90, 7)
    fold, cut = fold_of(x), torch.rand(90, generator=torch.Generator().manual_seed(0)) < 0.3
    folds = folds_of(x[cut], y[cut], fold[cut]).merge(folds_of(x[~cut], y[~cut], fold[~cut]))
    assert close(BOTH[name][1](folds), BOTH[name][0](x, y, fold), 1e-11)


@both
def test_rows_that_come_later_are_counted(name):
    x, y = states(90, 7)
    fold = fold_of(x)
    folds = folds_of(x[:60], y[:60], fold[:60])
    assert close(BOTH[name][1](folds), BOTH[name][0](x[:60], y[:60], fold[:60]), 1e-11)
    for k in range(K):
        folds[k].update(x[60:][fold[60:] == k], y[60:][fold[60:] == k])
    assert close(BOTH[name][1](folds), BOTH[name][0](x, y, fold), 1e-11)


@both
def test_folds_without_rows_are_no_folds(name):
    x, y = states(90, 7)
    folds = folds_of(x, y, 2 * fold_of(x, 3), 6)
    assert folds.filled == [0, 2, 4]
    assert close(BOTH[name][1](folds), oracle(name, x, y, fold_of(x, 3)), 1e-10)


# Known expectations.


def gaussians(n, d, seed):
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "d", "noise"), [(1000, 32, 0.1), (1000, 32, 0.5), (400, 64, 0.3), (3000, 128, 0.02)])
def test_a_linear_map_with_noise(n, d, noise):
    x, rest = gaussians(n, d, n)
    turn = torch.linalg.qr(gaussians(d, d, 1)[0])[0]
    y = math.sqrt(1 - noise) * x @ turn + math.sqrt(noise) * rest
    fitted = n * (1 - 1 / K)
    want = 1 - noise * (fitted - 2) / (fitted - d - 2)
    assert held_out_linearity(x, y, fold_of(x)) == pytest.approx(want, abs=0.01)
    assert held_out_linearity_of_update(x, x + y, fold_of(x)) == pytest.approx(want, abs=0.01)


@pytest.mark.parametrize(("n", "d"), [(1000, 32), (500, 64), (600, 100)])
def test_unrelated_gaussians(n, d):
    x, y = gaussians(n, d, n + d)
    want = -d / (n * (1 - 1 / K) - d - 2)
    assert held_out_linearity(x, y, fold_of(x)) == pytest.approx(want, abs=0.02)
    assert held_out_linearity_of_update(x, x + y, fold_of(x)) == pytest.approx(want, abs=0.02)


# Its interval.


@both
def test_the_interval_reruns_the_cross_validation_without_each_fold(name, monkeypatch):
    fits = []
    fitted_to = held_out._fitted_to
    monkeypatch.setattr(held_out, "_fitted_to", lambda sums: fits.append(1) or fitted_to(sums))
    x, y = states(150, 6)
    fold, of_folds = fold_of(x), BOTH[name][1]
    folds = folds_of(x, y, fold)
    interval = jackknife(of_folds(folds), [of_folds(folds, j) for j in folds.filled])
    assert len(fits) == K + K * (K - 1) // 2  # the fit without j and k serves both
    for other in BOTH.values():
        other[1](folds)
    assert len(fits) == K + K * (K - 1) // 2  # and both measures
    left_out = [oracle(name, x[fold != j], y[fold != j], fold[fold != j]) for j in range(K)]
    assert interval[:2] == pytest.approx(oracles.jackknife(oracle(name, x, y, fold), left_out, 2.776445), rel=1e-6)


# Refusals.


@both
def test_undefined_with_its_reason(name):
    x, y = states(60, 8)
    of_arrays, of_folds = BOTH[name]
    for got, why in (
        (of_arrays(x, y, [0] * 60), "1 fold"),
        (of_arrays(x[:0], y[:0], []), "0 folds"),
        (of_arrays(x[:11], y[:11], fold_of(x[:11])), "8 rows to fit 8 columns"),  # folds of 3, 2, 2, 2, 2
        (of_folds(folds_of(x[:13], y[:13], fold_of(x[:13])), 0), "7 rows to fit 8 columns"),
        (of_arrays(x, x if name.endswith("update") else torch.ones_like(x), fold_of(x)), "does not vary"),
    ):
        assert math.isnan(got)
        assert why in got.note
    assert not math.isnan(of_arrays(x[:13], y[:13], fold_of(x[:13])))  # 10 rows are left of the largest fold's 13


@both
def test_refusals(name):
    x, y = states(60, 8)
    of_arrays = BOTH[name][0]
    for fold in ([0] * 59, [0] * 61):
        with pytest.raises(BadInput, match="folds"):
            of_arrays(x, y, fold)
    with pytest.raises(BadInput):
        of_arrays(x, y[:, :3], fold_of(x))
    x[3, 3] = math.nan
    with pytest.raises(NotFinite):
        of_arrays(x, y, fold_of(x))


@both
def test_folds_may_have_any_name(name):
    x, y = states(60, 8)
    want = BOTH[name][0](x, y, fold_of(x))
    assert BOTH[name][0](x, y, [f"fold {k}" for k in fold_of(x).tolist()]) == want
    assert BOTH[name][0](x, y, fold_of(x).numpy()) == want
