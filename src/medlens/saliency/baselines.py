"""Maps that know nothing of the model: what a method must beat."""

from __future__ import annotations

import numpy as np


def baseline(name: str, boxes: np.ndarray, seed: int) -> np.ndarray:
    """(tokens,), from the boxes of the tokens (tokens, 4), on the frame that they cover together: "uniform"; "centre", nearer is
    more; "edges", nearer to an edge is more; "random", drawn. NaN boxes get the least."""
    middle = np.stack([boxes[:, [0, 2]].mean(1), boxes[:, [1, 3]].mean(1)], 1)
    low, high = np.nanmin(boxes[:, :2], 0), np.nanmax(boxes[:, 2:], 0)
    apart = np.abs((middle - low) / (high - low) - 0.5)  # of the frame's sides: 0 in the middle, 0.5 at an edge
    if name == "uniform":
        return np.ones(len(boxes))
    if name == "random":
        return np.random.default_rng(seed).random(len(boxes))
    from_centre = np.hypot(*apart.T)
    values = np.nanmax(from_centre) - from_centre if name == "centre" else apart.max(1)
    return np.where(np.isnan(values), np.nanmin(values), values)
