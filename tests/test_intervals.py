import numpy as np
import pytest
import torch
from scipy.stats import binomtest, ttest_1samp

import oracles
from medlens.measures import MEASURES
from medlens.stats import Folds, Moments
from medlens.stats.intervals import jackknife, wilson
from medlens.types import Value


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 10), (950, 1000), (1, 1), (0, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(hits, n, confidence):
    theirs = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    assert wilson(hits / n, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_covers():
    rng = np.random.default_rng(0)
    covered = [low <= 0.9 <= high for low, high in (wilson(rng.binomial(50, 0.9) / 50, 50) for _ in range(4000))]
    assert 0.92 < np.mean(covered) < 0.98


@pytest.mark.parametrize(("k", "quantile"), [(2, 12.7062), (3, 4.30265), (5, 2.77645), (10, 2.26216)])
def test_jackknife_is_that_of_the_book(k, quantile):
    values = [Value(float(v)) for v in np.random.default_rng(k).standard_normal(k)]
    low, high, note = jackknife(Value(0.3), values)
    assert (low, high) == pytest.approx(oracles.jackknife(0.3, values, quantile), rel=1e-5)
    assert note == ""


def test_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(3).standard_normal(8)
    left_out = [Value(np.delete(values, k).mean()) for k in range(8)]
    theirs = ttest_1samp(values, 0).confidence_interval(0.9)
    got = jackknife(Value(values.mean()), left_out, confidence=0.9)
    assert got[:2] == pytest.approx((theirs.low, theirs.high), rel=1e-12)


def test_jackknife_says_why_there_is_none():
    some, none = Value(0.4, 9), Value.undefined(9, "the rows do not vary")
    for full, left_out, why in (
        (some, [], "0 folds"),
        (some, [some], "1 fold"),
        (none, [some] * 3, "vary"),
        (some, [some, none], "vary"),
    ):
        low, high, note = jackknife(full, left_out)
        assert low is None
        assert high is None
        assert why in note


def test_jackknife_covers_the_mean_of_a_measure():
    # Participation ratio of 200 rows; its own mean at that design is the truth. 300 draws: standard error of the share 0.013.
    g, inside = torch.Generator().manual_seed(0), []
    scale = torch.tensor([3.0, 2.0, 1.0, 1.0])
    ratio = MEASURES["participation_ratio"].of_sums
    for _ in range(300):
        folds = Folds(Moments, 5)
        for k in range(5):
            folds[k].update(torch.randn(40, 4, generator=g) * scale)
        inside.append((ratio(folds.total()), jackknife(ratio(folds.total()), [ratio(folds.without(k)) for k in range(5)])))
    truth = np.mean([value for value, _ in inside])
    assert 0.91 < np.mean([i.low <= truth <= i.high for _, i in inside]) < 0.98
