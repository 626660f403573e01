"""Pieces of pictures, as SVG: words on coloured ground, tables of them, a scale of colours, a title."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import NamedTuple

import vl_convert
from PIL import Image

# viridis at eleven even steps (Smith and van der Walt 2015): even to the eye, also without colour vision
VIRIDIS = (
    (68, 1, 84), (72, 35, 116), (64, 67, 135), (52, 94, 141), (41, 120, 142), (32, 144, 140), (34, 167, 132), (68, 190, 112),
    (121, 209, 81), (189, 222, 38), (253, 231, 37),
)  # fmt: skip
LETTER = 0.58  # width of a letter, in font sizes
SOFT, DARK = "#5a5a5a", "#1c1c1c"
SPACES = "▁Ġ"


class Cell(NamedTuple):
    """A word on a ground: level 0 .. 1 chooses the colour; hint is said when it is pointed at."""

    word: str
    level: float
    hint: str = ""


def plain(word: str) -> str:
    """A token as a reader reads it: without its mark of a space in front, and what cannot be seen written out."""
    bare = word.lstrip(SPACES) if word.strip(SPACES) else " " * len(word)
    return visible(bare) if bare.strip(" ") else repr(bare)


def visible(words: str) -> str:
    """With what cannot be seen, or is no character of XML, written out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in words)


def short(word: str, width: float, size: float) -> str:
    """As much of a word as fits."""
    fits = max(int(width / (LETTER * size)), 2)
    return word if len(word) <= fits else word[: fits - 1] + "…"


def colour(level: float) -> str:
    """Of a level between 0 and 1."""
    at = min(max(level, 0.0), 1.0) * (len(VIRIDIS) - 1)
    k = min(int(at), len(VIRIDIS) - 2)
    mixed = (round(a + (b - a) * (at - k)) for a, b in zip(VIRIDIS[k], VIRIDIS[k + 1], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def ink(level: float) -> str:
    """Of words on that colour: black or white, whichever has the contrast (at least 4.5 to 1; they are equal near 0.43)."""
    return "#000000" if level > 0.43 else "#ffffff"


def text(x: float, y: float, words: str, size: float, fill: str = DARK, anchor: str = "start", weight: str = "normal") -> str:
    """Words, centred on the height y."""
    return (
        f'<text x="{x:.1f}" y="{y + 0.35 * size:.1f}" font-size="{size:.1f}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(visible(words))}</text>'
    )


def cell(x: float, y: float, width: float, height: float, of: Cell, size: float) -> str:
    """A word on its ground."""
    ground = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour(of.level)}"/>'
    word = text(x + width / 2, y + height / 2, short(plain(of.word), width - 4, size), size, ink(of.level), "middle")
    return f"<g><title>{escape(visible(of.hint))}</title>{ground}{word}</g>" if of.hint else ground + word


def table(
    x: float, y: float, rows: Sequence[tuple[str, str]], columns: Sequence[str], cells: Sequence[Sequence[Cell]],
    wide: float, high: float, left: float, size: float = 15,
) -> str:  # fmt: skip
    """Cells in rows and columns. rows: what is said on their left, and its colour; left: the room for that."""
    found = [text(x + left + (k + 0.5) * wide, y + 0.5 * high, name, size, SOFT, "middle") for k, name in enumerate(columns)]
    for i, ((name, fill), line) in enumerate(zip(rows, cells, strict=True)):
        top = y + (i + 1) * high
        found.append(text(x + left - 10, top + high / 2, short(name, left - 14, size), size, fill, "end"))
        found += [cell(x + left + k * wide, top, wide - 2, high - 2, of, size) for k, of in enumerate(line)]
    return "".join(found)


def scale(x: float, y: float, ends: tuple[str, str], title: str, width: float = 260, turned: bool = False) -> str:
    """The scale of colours. turned: the brightest stands for the lower end."""
    steps = 52
    bars = [
        f'<rect x="{x + k * width / steps:.1f}" y="{y:.1f}" width="{width / steps + 0.5:.1f}" height="14" '
        f'fill="{colour((1 - k / (steps - 1)) if turned else k / (steps - 1))}"/>'
        for k in range(steps)
    ]
    named = text(x, y + 26, ends[0], 13, SOFT) + text(x + width, y + 26, ends[1], 13, SOFT, "end")
    return "".join(bars) + named + text(x + width + 14, y + 7, title, 14, SOFT)


def picture(x: float, y: float, width: float, height: float, image: Image.Image) -> str:
    """An image that lies inside the file."""
    box = f'x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none"'
    return f'<image {box} image-rendering="optimizeSpeed" href="{data_of(image)}"/>'


def data_of(image: Image.Image, least: int = 512) -> str:
    """As a data URI; small ones larger, pixel by pixel, so that no viewer blurs them."""
    factor = max(1, -(-least // max(image.size)))
    buffer = BytesIO()
    image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def sheet(width: float, height: float, body: str, title: str, line: str) -> str:
    """A whole picture: body on white, 84 below the top, where the title and one line stand."""
    fits = int((width - 40) / (0.5 * 15))
    line = line if len(line) <= fits else line[: fits - 1] + "…"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="#ffffff"/>{text(20, 30, title, 20, weight="bold")}'
        f"{text(20, 60, line, 15, SOFT)}{body}</svg>"
    )


def as_png(svg: str) -> bytes:
    """The same as PNG, at one and a half times the pixels."""
    drawn = Image.open(BytesIO(vl_convert.svg_to_png(svg, scale=1.5))).convert("RGB")
    buffer = BytesIO()
    drawn.save(buffer, "PNG")
    return buffer.getvalue()
