"""Boxes as masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medlens.picture import opened

Box = tuple[float, float, float, float]  # x, y of the upper left corner, width, height; in pixels


def box_mask(shape: tuple[int, int], box: Box) -> np.ndarray:
    """(height, width) bool: pixels whose centres are in the box."""
    x, y, w, h = box
    rows, columns = np.arange(shape[0])[:, None] + 0.5, np.arange(shape[1])[None, :] + 0.5
    return (x <= columns) & (columns < x + w) & (y <= rows) & (rows < y + h)


def box_on(image: Path, box: Box) -> np.ndarray:
    """The same, as large as the image, of which the header is read."""
    with opened(image, f"image {image.name}") as picture:
        width, height = picture.size
    return box_mask((height, width), box)
