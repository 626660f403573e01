"""Whether patches on a region say something more often than those beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medlens.stats.intervals import Interval, jackknife
from medlens.types import Value


def covered(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """How much of each patch of a grid a mask (height, width) covers: (rows x columns), row by row, 0 .. 1. Raises ValueError where
    the grid does not divide the mask."""
    height, width = mask.shape
    if height % rows or width % columns:
        raise ValueError(f"{rows} x {columns} patches do not divide a mask of {height} x {width}")
    return mask.reshape(rows, height // rows, columns, width // columns).mean((1, 3)).reshape(-1)


def more_often(
    said: Sequence[np.ndarray], cover: Sequence[np.ndarray], least: float = 0.5, confidence: float = 0.95
) -> tuple[Value, Interval]:
    """The share of patches on a region that say it, minus that of patches that do not touch the region; and its interval.

    said: of each image, which patches say it (P) bool; cover: how much of each the region covers (P). On it is a patch that is
    covered by `least` or more; patches at its rim are left out. Mean over images (each counts once; those without both kinds of
    patch are left out), jackknife over images. Undefined where no image has both.
    """
    each = []
    for hits, part in zip(said, cover, strict=True):
        on, off = np.asarray(part) >= least, np.asarray(part) == 0
        if on.any() and off.any():
            each.append(float(np.mean(hits[on]) - np.mean(hits[off])))
    n = len(each)
    if not n:
        return Value.undefined(0, "no image has patches on the region and beside it"), Interval(
            None, None, "no interval: no images"
        )
    full = Value(sum(each) / n, n)
    return full, jackknife(full, [Value((sum(each) - one) / (n - 1), n - 1) for one in each] if n > 1 else [], confidence)
