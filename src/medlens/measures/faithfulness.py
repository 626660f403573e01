"""Faithfulness: does what a map calls important matter to the model?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr


def area(scores: Sequence[float]) -> float:
    """The area under a curve of scores at equal steps from none to all of the cells, by the trapezoid rule: of deletion, where the
    strongest cells go first, the lower the better; of insertion, where they come first, the higher. Source: Petsiuk et al. 2018,
    RISE."""
    curve = np.asarray(scores, dtype=float)
    return float(((curve[1:] + curve[:-1]) / 2).mean())


def schedule(cells: int, steps: int) -> list[int]:
    """How many cells are gone at each step, from 0 to all of them."""
    return [round(cells * k / steps) for k in range(steps + 1)]


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's, of two maps; 0 where one of them says nothing (is the same everywhere)."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)
