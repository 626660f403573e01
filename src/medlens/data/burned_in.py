"""Whether something may be written on a picture: what no header, and no removal of one, takes away."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from medlens.data.images import open_image
from medlens.errors import MedlensWarning
from medlens.types import Sample

WHITE = 250  # grey value from which on a pixel may be of something written
LETTERS = 3  # of about one height, side by side
HEIGHTS = (5, 0.12)  # of a letter: pixels at least; share of the picture's height at most


def warn_of_text(samples: Iterable[Sample]) -> int:
    """Warn of images on which something may be written. Returns how many. samples: one of each image."""
    shown = [open_image(image, sample.id, grey=True).convert("L") for sample in samples for image in sample.images]
    count = sum(may_hold_text(np.asarray(image)) for image in shown)
    if count:
        warnings.warn(
            f"on {count} of {len(shown)} images something may be written, a name perhaps; pseudonyms change no pictures: look at "
            "those in the run before you give it away",
            MedlensWarning, stacklevel=3,
        )  # fmt: skip
    return count


def may_hold_text(grey: np.ndarray) -> bool:
    """Whether white patches as letters are lie in a row: LETTERS or more, of like height, on one line, closer than twice that.

    grey: (height, width) uint8. A look, no reader: it misses what is grey, black, slanted or written by hand, and takes a row of
    bright small things (sutures, contrast in vessels) for text.
    """
    labels, _ = ndimage.label(grey >= WHITE, np.ones((3, 3)))
    letters = []
    for rows, columns in ndimage.find_objects(labels):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if HEIGHTS[0] <= height <= HEIGHTS[1] * grey.shape[0] and width <= 2 * height:
            letters.append((columns.start, columns.stop, rows.start, rows.stop))
    return any(_line(letter, letters) for letter in letters)


def _line(first: tuple[int, ...], letters: list[tuple[int, ...]]) -> bool:
    """Whether a line of LETTERS begins with this one."""
    found, right, (top, bottom) = 1, first[1], first[2:]
    height = bottom - top
    for left, end, upper, lower in sorted(letters):
        like = abs((lower - upper) - height) <= 0.5 * height and abs((upper + lower) - (top + bottom)) <= height
        if like and right <= left <= right + 2 * height:
            found, right = found + 1, end
    return found >= LETTERS
