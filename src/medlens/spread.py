"""How sure numbers are, computed again without each fold or of groups: arithmetic on floats, which needs no torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit


def jackknife_error(left_out: ArrayLike) -> NDArray[np.float64]:
    """Standard error of an estimate from its values without each of the K folds, (K, ...): sqrt((K-1)/K sum (value - mean)^2).

    Source: Tukey 1958; Efron and Stein 1981. NaN where a value is NaN. Needs K of at least 2.
    """
    values = np.asarray(left_out, dtype=np.float64)
    return np.sqrt((len(values) - 1) * values.var(axis=0))


def student(freedom: ArrayLike, level: float) -> NDArray[np.float64]:
    """The quantile of Student's t, with so many degrees of freedom, that is exceeded with probability `level`."""
    return np.asarray(stdtrit(freedom, 1 - level))


def welch(errors: Sequence[float], folds: Sequence[int]) -> tuple[float, float]:
    """Standard error of a difference of two independent estimates, and its degrees of freedom (Welch 1947; Satterthwaite 1946)."""
    squares = [error**2 for error in errors]
    total = sum(squares)
    if total == 0:
        return 0.0, float(min(folds) - 1)
    return math.sqrt(total), total**2 / sum(s**2 / (k - 1) for s, k in zip(squares, folds, strict=True))


def wilson(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` independent units (Wilson 1927, JASA 22:209): sensible at 0 and 1 too.

    Where units come in groups, give the number of groups: that is the widest the interval can honestly be.
    """
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def clustered(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float, float]:
    """The mean of values in 0..1 with its 95 % interval, where values of one cluster (an image) are not independent.

    The variance is that of the cluster totals about the mean (Liang and Zeger 1986); it gives the number of independent units that
    would be as uncertain, and those Wilson's interval. Without any variance the units are the clusters.
    """
    mean, totals = sum(values) / len(values), defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        totals[cluster] += value - mean
    units = len(totals)
    if units < 2:
        return (mean, 0.0, 1.0)
    variance = units / (units - 1) * sum(total**2 for total in totals.values()) / len(values) ** 2
    return (mean, *wilson(mean, mean * (1 - mean) / variance if variance > 0 else units))
