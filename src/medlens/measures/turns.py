"""How much a block does to its rows, by how far it turns them: the rules by which blocks are dropped."""

from __future__ import annotations

import math

from torch import Tensor

from medlens.stats.turns import TurnSums
from medlens.types import Value


def block_influence(x: Tensor, y: Tensor) -> Value:
    """1 - mean cosine of row i of x and row i of y; x, y (n, d): the same tokens before and after a block. 0..2; 0: only scaled.

    Pairs in which a row has length zero are left out (also of `.n`), and `.note` counts them. Undefined without any other. Raises
    NotFinite, and BadInput unless x and y have the same shape. Source: Men et al. 2024, ShortGPT.
    """
    return block_influence_from_sums(TurnSums.of(x, y))


def angular_distance(x: Tensor, y: Tensor) -> Value:
    """Mean angle between row i of x and row i of y, as a share of pi: 0..1.

    Shapes, errors and what is left out as for `block_influence`. Source: Gromov et al. 2024, The Unreasonable Ineffectiveness of
    the Deeper Layers (who take the last token of each sequence alone).
    """
    return angular_distance_from_sums(TurnSums.of(x, y))


def block_influence_from_sums(sums: TurnSums) -> Value:
    """`block_influence` of the pairs summed in `sums`."""
    return _mean(sums, lambda: 1 - sums.cosines / sums.n)


def angular_distance_from_sums(sums: TurnSums) -> Value:
    """`angular_distance` of the pairs summed in `sums`."""
    return _mean(sums, lambda: sums.angles / (math.pi * sums.n))


def _mean(sums: TurnSums, found) -> Value:
    if sums.n == 0:
        return Value.undefined(0, f"no rows that have a direction ({sums.zeros} of length zero)" if sums.zeros else "0 rows")
    return Value(found(), sums.n, f"{sums.zeros} rows of length zero left out" if sums.zeros else "")
