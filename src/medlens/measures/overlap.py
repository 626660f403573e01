"""Overlap: how well cells of a grid cover a mask, and how well any choice of them could."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Shares = NDArray[np.float64]  # (cells) in 0..1: how much of each cell a mask covers


def iou(chosen: NDArray[np.bool_], shares: Shares) -> float:
    """Intersection over union of chosen cells (cells,) and a mask, by area. 0 where none is chosen."""
    inside = float(shares[chosen].sum())
    return inside / (float(shares.sum()) + int(chosen.sum()) - inside)


def best_iou(shares: Shares) -> float:
    """The largest that any choice of cells reaches: of k cells the k that the mask covers most, because of these the intersection
    is largest, and the union smallest."""
    inside = np.sort(shares)[::-1].cumsum()
    counts = np.arange(1, len(shares) + 1)
    return float((inside / (shares.sum() + counts - inside)).max())
