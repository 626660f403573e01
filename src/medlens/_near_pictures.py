"""The image as the model sees it, with a word on each patch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 72  # px of a patch, at least: room for a word of nine letters
FONT = 14
MARGIN = 26  # for the caption
SURE, FAINT = (0, 114, 178), (90, 90, 90)  # Okabe and Ito 2008: blue where a word is nearer than the null, grey elsewhere

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def picture(seen: np.ndarray, words: Sequence[str], sure: Sequence[bool], caption: str) -> Image.Image:
    """seen: (height, width, 3) in 0..1, tiled by a square grid of as many patches as there are words. sure: which words stand on a
    coloured ground."""
    side = round(len(words) ** 0.5)
    wide = side * CELL
    page = Image.new("RGB", (wide, wide + MARGIN), "white")
    page.paste(Image.fromarray((seen * 255).round().astype(np.uint8)).resize((wide, wide), Image.Resampling.NEAREST), (0, MARGIN))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(FONT)
    pen.text((4, 4), caption, "black", font)
    for k, (word, is_sure) in enumerate(zip(words, sure, strict=True)):
        row, column = divmod(k, side)
        left, top = column * CELL, MARGIN + row * CELL
        pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline=(120, 120, 120))
        _word(pen, word, (left + CELL // 2, top + CELL // 2), font, SURE if is_sure else FAINT)
    return page


def _word(pen: ImageDraw.ImageDraw, word: str, at: tuple[int, int], font: Font, ground: tuple[int, int, int]) -> None:
    while len(word) > 1 and pen.textlength(word, font) > CELL - 6:
        word = word.rstrip("…")[:-1] + "…"
    x0, y0, x1, y1 = pen.textbbox(at, word, font=font, anchor="mm")
    pen.rectangle((x0 - 2, y0 - 2, x1 + 2, y1 + 2), fill=ground)
    pen.text(at, word, "white", font, anchor="mm")
