"""A contact sheet: what the scanner draws, and the masks it knows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medlens.errors import BadInput, CannotWrite
from medlens.phantom.scanner import MODALITIES, SIDE, Slice, draw

ZOOM = 3
GAP = 10  # px around every picture
CAPTION = 34
COLOURS = {"mass": (230, 159, 0), "cyst": (86, 180, 233), "nodule": (213, 94, 0), "mark": (0, 190, 140)}  # Okabe and Ito 2008
ROWS: dict[str, Callable[[Slice], bool]] = {
    "healthy": lambda s: not s.lesions and s.mark is None,
    "healthy, marked": lambda s: not s.lesions and s.mark is not None,
    "mass": lambda s: [x.kind for x in s.lesions] == ["mass"] and s.mark is None,
    "cyst": lambda s: [x.kind for x in s.lesions] == ["cyst"] and s.mark is None,
    "nodule, marked": lambda s: [x.kind for x in s.lesions] == ["nodule"] and s.mark is not None,
    "two lesions": lambda s: len({x.kind for x in s.lesions}) == 2,
}


def sheet(seed: int = 0) -> Image.Image:
    """One slice of every modality and content, the first of each that the draw `seed` holds: as it is, and with its masks."""
    found = _first_of_each(seed)
    side, margin = ZOOM * SIDE, 120
    wide, high = 2 * side + 3 * GAP, side + CAPTION
    page = Image.new("RGB", (margin + len(MODALITIES) * wide + GAP, 60 + len(ROWS) * high + GAP), "white")
    pen = ImageDraw.Draw(page)
    for column, modality in enumerate(MODALITIES):
        pen.text((margin + column * wide, 34), modality, "black", _font(17))
    _legend(pen, margin)
    for row, name in enumerate(ROWS):
        pen.multiline_text((GAP, 60 + row * high + side // 2 - 12), name.replace(", ", ",\n"), "black", _font(15))
        for column, modality in enumerate(MODALITIES):
            drawn, at = found[name, modality], (margin + column * wide, 60 + row * high)
            page.paste(_plain(drawn), at)
            page.paste(_outlined(drawn), (at[0] + side + GAP // 2, at[1]))
            pen.text((at[0], at[1] + side + 4), _caption(drawn), (90, 90, 90), _font(13))
    return page


def save_sheet(path: Path, seed: int = 0) -> Path:
    """Write the sheet as a PNG. Raises BadInput for another ending, CannotWrite."""
    if path.suffix.lower() != ".png":
        raise BadInput(f"the contact sheet is a PNG; got {path.name}: name it {path.stem}.png")
    try:
        sheet(seed).save(path)
    except OSError as e:
        raise CannotWrite(f"{path} cannot be written: {e.strerror or e}") from e
    return path


def _first_of_each(seed: int) -> dict[tuple[str, str], Slice]:
    found: dict[tuple[str, str], Slice] = {}
    for number in itertools.count():
        drawn = draw(np.random.default_rng([seed, number]))
        for name, fits in ROWS.items():
            if fits(drawn):
                found.setdefault((name, drawn.modality), drawn)
        if len(found) == len(ROWS) * len(MODALITIES):
            return found
    raise AssertionError("unreachable")


def _plain(drawn: Slice) -> Image.Image:
    return Image.fromarray(drawn.pixels).resize((ZOOM * SIDE, ZOOM * SIDE), Image.Resampling.NEAREST).convert("RGB")


def _outlined(drawn: Slice) -> Image.Image:
    """The slice under its masks: tinted inside, with a rim that lies inside the mask too."""
    pixels = np.asarray(_plain(drawn)).copy()
    masks = [(lesion.kind, lesion.mask) for lesion in drawn.lesions]
    masks += [] if drawn.mark is None else [("mark", drawn.mark.mask)]
    for kind, mask in masks:
        large = np.pad(mask.repeat(ZOOM, 0).repeat(ZOOM, 1), 2)
        inner = np.all([np.roll(large, shift, axis) for axis in (0, 1) for shift in (-2, 2)], axis=0)
        pixels[(large & ~inner)[2:-2, 2:-2]] = COLOURS[kind]
        inside = large[2:-2, 2:-2]
        pixels[inside] = (0.75 * pixels[inside] + 0.25 * np.array(COLOURS[kind])).astype(np.uint8)
    return Image.fromarray(pixels)


def _caption(drawn: Slice) -> str:
    said = [f"{lesion.kind} {lesion.place}, {2 * lesion.radius:.0f} px" for lesion in drawn.lesions]
    said += [] if drawn.mark is None else [f"mark {drawn.mark.length} px"]
    return "; ".join(said) or "no lesion"


def _legend(pen: ImageDraw.ImageDraw, at: int) -> None:
    pen.text((at, 8), "The phantom's slices, each beside its masks:", "black", _font(15))
    at += 330
    for kind, colour in COLOURS.items():
        pen.rectangle((at, 10, at + 13, 23), fill=colour)
        pen.text((at + 19, 8), kind, "black", _font(15))
        at += 90


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
