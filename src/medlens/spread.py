"""How sure numbers are that were computed again without each fold: arithmetic on floats, which needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
