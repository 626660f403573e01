import numpy as np
import pytest
from scipy.stats import binomtest

from medlens.stats.intervals import wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 10), (950, 1000), (1, 1), (0, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(hits, n, confidence):
    theirs = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    assert wilson(hits / n, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_covers():
    rng = np.random.default_rng(0)
    covered = [low <= 0.9 <= high for low, high in (wilson(rng.binomial(50, 0.9) / 50, 50) for _ in range(4000))]
    assert 0.92 < np.mean(covered) < 0.98
