"""Regions from pictures: label maps, and boxes. Drawn when they are needed, so that a data set's masks need not fit in memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from medlens.errors import BadImage
from medlens.types import Region


def labels_of(path: Path, names: Mapping[int, str]) -> list[Region]:
    """A region for each value of a label map but 0, by `names`, or as "label 7". Raises BadImage for what is no label map."""
    values = np.unique(_label_map(path))
    return [Region(names.get(v, f"label {v}"), draw=partial(_is_label, path, v)) for v in values.tolist() if v != 0]


def box_on(image: Path, box: tuple[float, float, float, float]) -> np.ndarray:
    """(height, width) bool of the image: pixels whose centres are in the box x, y, width, height (pixels, from the upper left)."""
    with Image.open(image) as opened:
        width, height = opened.size
    return box_mask((height, width), box)


def box_mask(shape: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """(height, width) bool: pixels whose centres are in the box x, y, width, height (pixels, from the upper left)."""
    x, y, w, h = box
    rows, columns = np.arange(shape[0])[:, None] + 0.5, np.arange(shape[1])[None, :] + 0.5
    return (x <= columns) & (columns < x + w) & (y <= rows) & (rows < y + h)


def _is_label(path: Path, value: int) -> np.ndarray:
    return _label_map(path) == value


def _label_map(path: Path) -> np.ndarray:
    """(height, width) of ints. A colour picture counts as one where its channels agree."""
    try:
        with Image.open(path) as opened:
            values = np.asarray(opened)
    except (OSError, SyntaxError, ValueError) as e:
        raise BadImage(f"label map {path.parent.name}/{path.name} cannot be read as an image") from e
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise BadImage(f"label map {path.parent.name}/{path.name} is a colour picture; expected one value a pixel")
    return values.astype(int)
