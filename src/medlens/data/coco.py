"""COCO's annotations (Lin et al. 2014, arXiv:1405.0312; format: cocodataset.org): boxes, polygons, run lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from medlens.data.boxes import box_mask
from medlens.data.sizes import check_size
from medlens.errors import BadData, BadImage
from medlens.jsontext import parse
from medlens.picture import check_largest
from medlens.types import Region

DAMAGED = (KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError)  # what a file of another form makes


def coco_regions(path: Path, image: str) -> list[Region]:
    """A region for each annotation of the image of that name, named by its category. Raises BadData where the file has no such
    image, or none of its annotations can be drawn.
    """
    whole = _parsed(path, path.stat().st_mtime_ns)
    try:
        found = [i for i in whole["images"] if image in (i["file_name"], i["file_name"].replace("\\", "/").split("/")[-1])]
        if len(found) != 1:
            raise BadData(f"{path.name} names {len(found)} images {image}; expected one with that `file_name`")
        names = {c["id"]: c["name"] for c in whole.get("categories", [])}
        shape = int(found[0]["height"]), int(found[0]["width"])
        check_size(shape[1], shape[0], f"mask {path.name}: image {image}")
        mine = [a for a in whole["annotations"] if a["image_id"] == found[0]["id"]]
        return [_region(a, names.get(a.get("category_id"), f"category {a.get('category_id')}"), shape) for a in mine]
    except DAMAGED as e:
        raise BadData(f"{path.name} is not in COCO's form (images, annotations, categories): {type(e).__name__} {e}") from e


@lru_cache(maxsize=4)
def _parsed(path: Path, _written: int) -> Any:
    """Once a file, not once a sample that names it."""
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except ValueError as e:
        raise BadData(f"{path.name} is not JSON: {e}") from e


def _region(annotation: dict[str, Any], name: str, shape: tuple[int, int]) -> Region:
    """A segmentation where there is one, else the box."""
    drawn = annotation.get("segmentation") or None
    if isinstance(drawn, dict):
        return Region(name, draw=partial(_drawn, decode_run_lengths, drawn["counts"], tuple(drawn["size"])))
    if drawn is not None:
        return Region(name, draw=partial(_drawn, polygons_mask, shape, drawn))
    return Region(name, draw=partial(_drawn, box_mask, shape, tuple(annotation["bbox"])))


def _drawn(how: Callable[..., np.ndarray], *told: Any) -> np.ndarray:
    try:
        return how(*told)
    except DAMAGED as e:
        raise BadImage(f"an annotation is no box, polygon or run lengths of COCO's form: {type(e).__name__} {e}") from e


def decode_run_lengths(counts: str | bytes | Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool from run lengths of outside, inside, outside, ... down the columns: numbers, or COCO's text of them.
    Raises BadImage where they are not as long as the picture.
    """
    height, width = size
    check_largest(width, height, "a mask in run lengths")
    if isinstance(counts, str | bytes):
        counts = _numbers(counts if isinstance(counts, str) else counts.decode("ascii"))
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise BadImage(f"run lengths cover {sum(counts)} pixels of a mask of {width} x {height}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def _numbers(text: str) -> list[int]:
    """Five bits a character, lowest first, from "0" on; bit 5: more to come; the last one's bit 4: negative. From the fourth number
    on, what is written is the difference to the one before the last.
    """
    numbers: list[int] = []
    value = shift = 0
    for bits in (ord(character) - 48 for character in text):
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (1 << shift) if bits & 16 else 0
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    return numbers


def polygons_mask(shape: tuple[int, int], polygons: Sequence[Sequence[float]]) -> np.ndarray:
    """(height, width) bool: pixels whose centres lie in any of the polygons [x0, y0, x1, y1, ...] (even-odd rule)."""
    whole = np.zeros(shape, bool)
    for polygon in polygons:
        whole |= _polygon(shape, np.asarray(polygon, float).reshape(-1, 2))
    return whole


def _polygon(shape: tuple[int, int], corners: np.ndarray) -> np.ndarray:
    """Each edge turns over what lies left of it, in the rows it crosses."""
    inside = np.zeros(shape, bool)
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crossed = np.flatnonzero((y0 <= rows) != (y1 <= rows))
        if crossed.size:
            at = x0 + (rows[crossed] - y0) * (x1 - x0) / (y1 - y0)
            inside[crossed] ^= columns[None, :] < at[:, None]
    return inside
