"""How a chart of the report becomes a figure: as wide as a column of a journal, or a slide, with letters of the right size."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import vl_convert

from medlens.report.charts import CONFIG, Chart

POINTS_PER_MM = 72 / 25.4
PIXELS_PER_POINT = 96 / 72  # of an SVG's own units: what it draws without being told a size
SIZES = r'(<svg[^>]*?) width="[\d.]+(?:mm)?" height="[\d.]+(?:mm)?"'
TRIES = 3
FIRST = 11.0  # pixels of the letters at the first try
FONT = "Arial, Helvetica, Liberation Sans, sans-serif"  # what is asked for; the last but one has the widths of the first


@dataclass(frozen=True)
class Style:
    """single, double: widths of a figure in mm, the second where letters would not be readable in the first; highest: the most.
    letters: of the text, in points; least, most: what a reader accepts. dots: per inch, of a PNG. apart: each panel is a figure of
    its own.
    """

    single: float
    double: float
    highest: float
    letters: float
    least: float
    most: float
    dots: int
    apart: bool = False


STYLES = {
    "nature": Style(single=89, double=183, highest=247, letters=6, least=5, most=7, dots=600),
    "slides": Style(single=280, double=280, highest=150, letters=18, least=14, most=24, dots=200, apart=True),
}


@dataclass(frozen=True)
class Drawn:
    """An SVG of `width` by `height` mm whose letters have `letters` points."""

    svg: str
    width: float
    height: float
    letters: float

    def bytes_of(self, kind: str, dots: int) -> bytes:
        """As pdf, svg or png. The converter takes an SVG's pixels (96 to the inch) for points (72)."""
        if kind == "pdf":
            return vl_convert.svg_to_pdf(sized(self.svg, self.width * POINTS_PER_MM, self.height * POINTS_PER_MM))
        if kind == "png":
            return vl_convert.svg_to_png(self.svg, scale=1 / PIXELS_PER_POINT, ppi=dots)
        return self.svg.encode()


def drawn(chart: Chart, style: Style) -> Drawn:
    """A chart in a style. Letters are drawn anew where they come out too small or too large: how wide they are moves how wide the
    chart is, so that their size is only known afterwards."""
    return _fitted(lambda pixels: vl_convert.vegalite_to_svg(_lettered(chart, pixels)), style)


def redrawn(svg: str, style: Style) -> Drawn:
    """The same of a picture that is an SVG already; its letters, whatever their sizes, become all of one size."""
    return _fitted(lambda pixels: re.sub(r'font-size="[\d.]+"', f'font-size="{pixels:.1f}"', svg), style)


def _fitted(draw: Callable[[float], str], style: Style) -> Drawn:
    svg = draw(pixels := FIRST)
    readable = FIRST * style.single * POINTS_PER_MM / _size(svg)[0] >= style.least
    for _ in range(TRIES):
        scale = _scale(svg, style.single if readable else style.double, style.highest)
        if style.least <= pixels * scale <= style.most:
            break
        svg = draw(pixels := style.letters / scale)
    wide, high = _size(svg)
    scale = _scale(svg, style.single if readable else style.double, style.highest)
    width, height = (side * scale / POINTS_PER_MM for side in (wide, high))
    return Drawn(sized(svg, width, height, "mm"), width, height, pixels * scale)


def _scale(svg: str, width: float, height: float) -> float:
    """Points a pixel, so that the picture is this wide in mm, and not higher."""
    wide, high = _size(svg)
    return min(width * POINTS_PER_MM / wide, height * POINTS_PER_MM / high)


def sized(svg: str, width: float, height: float, unit: str = "") -> str:
    """The same SVG in another size."""
    return re.sub(SIZES, rf'\1 width="{width:.2f}{unit}" height="{height:.2f}{unit}"', svg, count=1)


def _size(svg: str) -> tuple[float, float]:
    wide, high = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return float(wide), float(high)


def _lettered(chart: Chart, pixels: float) -> Chart:
    """With all letters of this size."""
    named = {"labelFontSize": pixels, "titleFontSize": pixels, "labelFont": FONT, "titleFont": FONT}
    config = {
        **CONFIG,
        "font": FONT,
        "axis": {**CONFIG["axis"], **named},
        "legend": named,
        "title": {**CONFIG["title"], "fontSize": pixels},
        "text": {"font": FONT, "fontSize": pixels},
    }
    return {**_without_sizes(chart), "config": config}


def _without_sizes(part: Any) -> Any:
    """The chart without letter sizes of its own. Rows of data are left as they are."""
    if isinstance(part, Mapping):
        return {key: value if key == "data" else _without_sizes(value) for key, value in part.items() if key != "fontSize"}
    return [_without_sizes(one) for one in part] if isinstance(part, list) else part
