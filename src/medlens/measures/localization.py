"""Localisation: does a map lie where it should? Of a number for each cell, and a mask on the image.

Cells are boxes (cells, 4), left, top, right, bottom, in pixels of the image that the mask (height, width) belongs to; a box may
reach outside it, and is NaN for a cell without a place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from medlens.measures.overlap import best_iou, iou

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def covered_shares(boxes: Floats, mask: Mask) -> Floats:
    """(cells,) in 0..1: the share of each box that the mask covers, exact to fractions of pixels. What lies outside the image is
    not covered; a box without a place neither."""
    summed = np.pad(mask, ((1, 0), (1, 0))).astype(float).cumsum(0).cumsum(1)
    left, top, right, bottom = np.nan_to_num(boxes, nan=0.0).T
    within = lambda x, y: _between(summed, np.clip(y, 0, mask.shape[0]), np.clip(x, 0, mask.shape[1]))
    inside = within(right, bottom) - within(left, bottom) - within(right, top) + within(left, top)
    return inside / np.maximum((right - left) * (bottom - top), 1e-12)


def _between(summed: Floats, y: Floats, x: Floats) -> Floats:
    """The sum of a mask up to (y, x), linear between pixels' edges."""
    y0, x0 = np.minimum(y.astype(int), summed.shape[0] - 2), np.minimum(x.astype(int), summed.shape[1] - 2)
    dy, dx = y - y0, x - x0
    upper = summed[y0, x0] * (1 - dx) + summed[y0, x0 + 1] * dx
    lower = summed[y0 + 1, x0] * (1 - dx) + summed[y0 + 1, x0 + 1] * dx
    return upper * (1 - dy) + lower * dy


def pointing(values: Floats, boxes: Floats, mask: Mask, tolerance: float) -> float:
    """The pointing game: 1 where the middle of the strongest cell lies within `tolerance` pixels of the mask, else 0; of cells that
    are equally strong, their mean, so that a map without a maximum scores what chance does. Source: Zhang et al. 2016, Top-down
    Neural Attention by Excitation Backprop."""
    strongest = np.flatnonzero(values == np.nanmax(values))
    apart = np.asarray(distance_transform_edt(~mask)) if mask.any() else np.full(mask.shape, np.inf)
    found = []
    for cell in strongest:
        left, top, right, bottom = boxes[cell]
        y, x = (top + bottom) / 2, (left + right) / 2
        inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
        found.append(bool(inside and apart[int(y), int(x)] <= tolerance))
    return float(np.mean(found))


def iou_ratio(values: Floats, shares: Floats, share: float) -> float:
    """IoU of the strongest `share` of the cells with the mask (by area, shares as in `covered_shares`), over the best that any
    choice of cells reaches."""
    chosen = np.zeros(len(values), bool)
    chosen[np.argsort(-values, kind="stable")[: max(1, round(share * len(values)))]] = True
    return iou(chosen, shares) / best_iou(shares)


def energy(values: Floats, shares: Floats) -> float:
    """The share of the map's positive part that lies in the mask; NaN for a map without any. Source: Wang et al. 2020,
    Score-CAM."""
    positive = np.maximum(values, 0)
    return float((positive * shares).sum() / positive.sum()) if positive.sum() > 0 else float("nan")
