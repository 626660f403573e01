"""Where an image's tokens lie on the original image: the exact inverse of the processor's padding, resizing, cropping and tiling.

Every processor here lays one or more grids of tokens on rectangles of the original image (the whole, its padded square, a tile of
it). What differs between families is which rectangles, and in what order. All are in pixels of the original image, as floats:
nothing is rounded to its pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from medlens.errors import BadInput, BadModel
from medlens.models.base import Model
from medlens.models.frame import side_of
from medlens.models.prompt import Look, look


class Rectangle(NamedTuple):
    """Edges in pixels of the original image; what lies outside it was padded."""

    left: float
    top: float
    right: float
    bottom: float

    def cells(self, rows: int, columns: int) -> np.ndarray:
        """(rows x columns, 4): cut evenly, row by row."""
        across, down = np.linspace(self.left, self.right, columns + 1), np.linspace(self.top, self.bottom, rows + 1)
        return np.array([(across[j], down[i], across[j + 1], down[i + 1]) for i in range(rows) for j in range(columns)])

    def tiles(self, rows: int, columns: int) -> list[Rectangle]:
        return [Rectangle(*cell) for cell in self.cells(rows, columns)]


@dataclass(frozen=True)
class Shown:
    """One image as a model is shown it. size: (height, width) of the original. tokens: how many it becomes."""

    model: Model
    seen: Look
    size: tuple[int, int]
    tokens: int

    @property
    def processor(self) -> Any:
        return self.model.processor.image_processor

    @property
    def whole(self) -> Rectangle:
        height, width = self.size
        return Rectangle(0.0, 0.0, float(width), float(height))


def boxes(model: Model, image: Image.Image, seen: Look | None = None) -> np.ndarray:
    """(tokens, 4) float64: left, top, right, bottom of each image token, in pixels of the original image.

    Parts of a box may lie outside the image (where the model pads); all four are NaN for a token without a place (the end of a line
    of tiles). seen: the image as processed, if it is at hand.
    Raises BadModel for a family whose tokens cannot be placed, and where the places do not add up to the image's tokens.
    """
    if model.family not in PLACED:
        why = "has no image tokens in its stream" if model.image_token_id is None else "lays its image tokens in an unknown way"
        raise BadModel(f"{model.name}: {model.family} {why}, so nothing can be drawn on the image; known: {', '.join(PLACED)}")
    seen = seen or look(model, [image])
    ids = model.tokenizer(seen.placeholders[0], add_special_tokens=False)["input_ids"]
    shown = Shown(model, seen, (image.height, image.width), sum(i == model.image_token_id for i in ids))
    placed = PLACED[model.family](shown)
    if len(placed) != shown.tokens:
        raise BadModel(f"{model.name}: the image becomes {shown.tokens} tokens, but its processor makes room for {len(placed)}")
    return placed


def stretched(model: Model, image: Image.Image, tokens: int) -> np.ndarray:
    """(tokens, 4) as if the whole image, and nothing else, had been cut into a square grid: wrong wherever the model pads or crops,
    and here because it was published."""
    side = side_of(model, tokens)
    return Rectangle(0.0, 0.0, float(image.width), float(image.height)).cells(side, side)


def check_mask(mask: np.ndarray, size: tuple[int, int], what: str = "the mask") -> None:
    """Raise BadInput for a mask of another size than its image, both (height, width)."""
    if mask.shape != size:
        said = " x ".join(map(str, mask.shape[::-1]))
        raise BadInput(f"{what} is {said} pixels, its image {size[1]} x {size[0]}; give a mask of the image's own size")


# ---- one rectangle


def _one(shown: Shown) -> np.ndarray:
    """Padded to a square (LLaVA-Med), resized and cropped: one picture, one square grid."""
    pixels = shown.seen.inputs["pixel_values"]
    if tuple(pixels.shape[:2]) != (1, 3):
        raise BadModel(f"{shown.model.name} is shown pixels of shape {tuple(pixels.shape)}; expected one picture of three channels")
    side = side_of(shown.model, shown.tokens)
    return _framed(shown, tuple(pixels.shape[2:])).cells(side, side)


def _framed(shown: Shown, frame: tuple[int, ...]) -> Rectangle:
    """What of the original the model's (height, width) pixels show."""
    pixels, (height, width), left, top = shown.processor, shown.size, 0, 0
    if getattr(pixels, "takes_grey", False) or getattr(pixels, "do_pad", False):
        side = max(height, width)
        left, top = -((side - width) // 2), -((side - height) // 2)
        height = width = side
    down, across = _resized(pixels, height, width)  # (height, width) before the crop
    skipped = [0, 0]
    if getattr(pixels, "do_center_crop", False):
        skipped = [(n - kept) // 2 for n, kept in zip((down, across), frame, strict=True)]
    per_row, per_column = height / down, width / across
    return Rectangle(
        left + skipped[1] * per_column, top + skipped[0] * per_row,
        left + (skipped[1] + frame[1]) * per_column, top + (skipped[0] + frame[0]) * per_row,
    )  # fmt: skip


def _resized(pixels: Any, height: int, width: int) -> tuple[int, int]:
    """As transformers does: to a size, or so that the shorter edge has one (the longer is rounded down)."""
    if not getattr(pixels, "do_resize", True):
        return height, width
    size = dict(pixels.size)
    if short := size.get("shortest_edge"):
        longer = int(short * max(height, width) / min(height, width))
        return (short, longer) if height <= width else (longer, short)
    return size["height"], size["width"]


def _stretched(shown: Shown) -> np.ndarray:
    """Qwen-VL: the whole image on a grid of its own shape; so many patches a side become one token."""
    _, rows, columns = (int(n) for n in shown.seen.inputs["image_grid_thw"][0])
    merged = shown.processor.merge_size
    return shown.whole.cells(rows // merged, columns // merged)


# ---- tiles


def _anyres(shown: Shown) -> np.ndarray:
    """LLaVA-NeXT: the whole image, stretched; then it tiled on a padded canvas, without the lines and columns that are padding
    alone, and behind each line a token without a place."""
    from transformers.image_processing_utils import select_best_resolution

    tiles, _, frame, _ = shown.seen.inputs["pixel_values"].shape[1:]
    height, width = shown.size
    patch = shown.model.processor.patch_size
    side = frame // patch
    base = shown.whole.cells(side, side)
    if tiles == 1:
        return np.concatenate([base, np.full((1, 4), np.nan)])
    canvas = select_best_resolution(shown.size, shown.processor.image_grid_pinpoints)
    scale = min(canvas[0] / height, canvas[1] / width)
    down, across = (min(int(np.ceil(n * scale)), most) for n, most in zip(shown.size, canvas, strict=True))
    top, left = -((canvas[0] - down) // 2) * height / down, -((canvas[1] - across) // 2) * width / across
    laid = Rectangle(left, top, left + canvas[1] * width / across, top + canvas[0] * height / down)
    rows, columns = canvas[0] // patch, canvas[1] // patch
    cells = laid.cells(rows, columns).reshape(rows, columns, 4)
    if width / height > columns / rows:
        cut = (rows - int(round(height * (columns / width), 7))) // 2
        cells = cells[cut : rows - cut]
    else:
        cut = (columns - int(round(width * (rows / height), 7))) // 2
        cells = cells[:, cut : columns - cut]
    ended = np.concatenate([cells, np.full((len(cells), 1, 4), np.nan)], 1)
    return np.concatenate([base, ended.reshape(-1, 4)])


def _split(shown: Shown) -> np.ndarray:
    """Idefics3: stretched to whole tiles, whose rows and columns the prompt names; and the whole image behind them."""
    places = [(int(i), int(j)) for i, j in re.findall(r"<row_(\d+)_col_(\d+)>", shown.seen.placeholders[0])]
    rows, columns = max(places, default=(0, 0))
    return _tiled(shown, shown.whole.tiles(rows, columns) if places else [])


def _canvas(shown: Shown) -> np.ndarray:
    """Aya Vision: stretched to as many tiles as suit its shape; and the whole image behind them, where there is more than one."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    pixels = shown.processor
    columns = rows = 1
    if pixels.crop_to_patches and pixels.max_patches > 1:
        side = (pixels.size["height"], pixels.size["width"])
        columns, rows = get_optimal_tiled_canvas(shown.size, side, pixels.min_patches, pixels.max_patches)
    return _tiled(shown, shown.whole.tiles(rows, columns) if rows * columns > 1 else [])


def _tiled(shown: Shown, tiles: list[Rectangle]) -> np.ndarray:
    """Tiles one behind the other, then the whole; a square grid in each."""
    every = [*tiles, shown.whole]
    side = side_of(shown.model, shown.tokens // len(every))
    return np.concatenate([tile.cells(side, side) for tile in every])


PLACED: dict[str, Callable[[Shown], np.ndarray]] = {
    "llava": _one, "gemma3": _one, "paligemma": _one, "llava_next": _anyres, "idefics3": _split, "aya_vision": _canvas,
    "qwen2_vl": _stretched, "qwen2_5_vl": _stretched,
}  # fmt: skip
