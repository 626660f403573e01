"""How lines become a chart: the same in the report, as PNG and as SVG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import vl_convert

from medlens.report.drawing import KINDS
from medlens.report.lines import Line, domain

WIDTH, HEIGHT = 330, 180
LETTER, LEADING = 5.8, 12  # pixels of a letter and of a line of small print
SOFT = "#5a5a5a"
THEME = {  # the page's names of our colours, and of those that Vega takes where it was told none
    **KINDS, SOFT: "soft", "white": "paper", "#ececec": "grid", "#000": "ink", "black": "ink", "#888": "null", "#ddd": "line",
    "#c9c9c9": "line",
}  # fmt: skip

Chart = dict[str, Any]  # a part of a Vega-Lite specification; altair would check each against its schema, 20 x slower than drawing
LAYER, PIECE = {"field": "layer", "type": "quantitative"}, {"field": "piece", "type": "nominal"}
ONE = pl.DataFrame({"one": [1]})
CONFIG = {
    "background": "white",
    "font": "sans-serif",
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelColor": SOFT,
        "titleColor": SOFT,
        "gridColor": "#ececec",
    },
    "view": {"stroke": None},
    "title": {"fontSize": 14, "anchor": "start", "fontWeight": "normal"},
}


def side_by_side(sides: Mapping[str, Sequence[Line]], axis: str, last: int) -> dict[str, Chart]:
    """A chart of each side's lines, by its name, with one y axis and one size for all. axis: what the layers are; last: of them."""
    everything = [line for lines in sides.values() for line in lines]
    low, high = domain(everything)
    words = {name: _labels(lines, low, high) for name, lines in sides.items()}
    margin = max((len(word) for labels in words.values() for word, _, _ in labels), default=0) * LETTER
    return {name: _chart(lines, words[name], (low, high), axis, last, margin) for name, lines in sides.items() if lines}


def _chart(
    lines: Sequence[Line], labels: list[tuple[str, float, str]], y_range: tuple[float, float], axis: str, last: int, margin: float
) -> Chart:
    x = {**LAYER, "title": axis, "scale": {"domain": [0, last], "nice": False}, "axis": {"tickMinStep": 1, "format": "d"}}
    y = {"title": None, "scale": {"domain": list(y_range), "nice": False, "zero": False}, "axis": {"tickCount": 6}}
    layers = [layer for line in lines for layer in _bands(line, x, y)]
    layers += [layer for line in lines for layer in _marks(line, x, y)]
    layers += [_text(word, WIDTH + 7, at, colour) for word, at, colour in labels] + _legend(lines)
    layers.append(_text("", WIDTH + 7 + margin, 0, SOFT))  # keeps the sides equally wide
    return {"layer": layers, "width": WIDTH, "height": HEIGHT}


def _pieces(frame: pl.DataFrame) -> pl.DataFrame:
    """With a column `piece`: layers that follow on each other. A line is not drawn across what is undefined."""
    return frame.with_columns(piece=(pl.col("layer").diff().fill_null(1) != 1).cum_sum())


def _bands(line: Line, x: Chart, y: Chart) -> list[Chart]:
    """Between low and high, where there are any: a ribbon, and a bar where a layer stands alone."""
    frame = _pieces(line.frame.drop_nulls())
    if frame.is_empty():
        return []
    ends = {"x": x, "y": {**y, "field": "low", "type": "quantitative"}, "y2": {"field": "high"}}
    alone, found = pl.len().over("piece") == 1, []
    if line.ribbon and (ribbon := frame.filter(~alone)).height:
        mark = {"type": "area", "color": line.colour, "opacity": line.ribbon, "clip": True, "description": "interval"}
        found.append(_layer(ribbon, mark, {**ends, "detail": PIECE}))
    if (line.ribbon or line.marks == "diamonds") and (bars := frame.filter(alone)).height:
        mark = {"type": "rule", "color": line.colour, "opacity": 0.45, "strokeWidth": 3, "clip": True, "description": "interval"}
        found.append(_layer(bars, mark, ends))
    return found


def _marks(line: Line, x: Chart, y: Chart) -> list[Chart]:
    frame, at = _pieces(line.frame), {"x": x, "y": {**y, "field": "value", "type": "quantitative"}}
    if line.marks == "diamonds":
        return [_layer(frame, {"type": "point", "shape": "diamond", "color": line.colour, "size": 70, "filled": False}, at)]
    stroke = {"type": "line", "color": line.colour, "strokeWidth": line.width, "clip": True, **_dashed(line)}
    drawn = [_layer(frame, stroke, {**at, "detail": PIECE})]
    alone = frame.filter(pl.len().over("piece") == 1)
    if line.marks == "points":
        drawn.append(_layer(frame, {"type": "point", "color": line.colour, "filled": True, "size": 30, "opacity": 1}, at))
    elif alone.height:  # a line of one point would not be seen
        drawn.append(_layer(alone, {"type": "tick", "color": line.colour, "size": 8, "thickness": line.width, "clip": True}, at))
    return drawn


def _labels(lines: Sequence[Line], low: float, high: float) -> list[tuple[str, float, str]]:
    """What is said at the right ends of lines: the words, the height in pixels, the colour. Pushed apart where they would touch; a
    line that ends outside the chart is named at its edge, with its number."""
    found = []
    for line in lines:
        if line.label:
            value = float(line.frame["value"][-1])
            word = _short(line.label) if low <= value <= high else f"{line.label} {value:.3g} {'↑' if value > high else '↓'}"
            found.append((word, min(max(HEIGHT * (high - value) / (high - low), 0), HEIGHT), line.colour))
    found.sort(key=lambda label: label[1])
    at: list[float] = []
    for _, height, _ in found:
        at.append(max(height, at[-1] + LEADING) if at else height)
    over = max(0.0, at[-1] - HEIGHT - 4) if at else 0.0
    for k in reversed(range(len(at))):
        at[k] = min(at[k] - over, at[k + 1] - LEADING) if k + 1 < len(at) else at[k] - over
    moved = [max(height, 0) if over == 0 else height for height in at]
    return [(word, height, colour) for (word, _, colour), height in zip(found, moved, strict=True)]


def _legend(lines: Sequence[Line]) -> list[Chart]:
    """Above the chart, one line of small print for each: its dashes, and what they stand for."""
    keyed = [line for line in lines if line.key]
    found = []
    for k, line in enumerate(keyed):
        height = -10 - LEADING * (len(keyed) - 1 - k)
        stroke = {"type": "rule", "color": line.colour, "strokeWidth": line.width + 0.3, **_dashed(line)}
        found.append(_layer(ONE, stroke, {"x": {"value": 0}, "x2": {"value": 26}, "y": {"value": height}}))
        found.append(_text(line.key, 32, height, SOFT))
    return found


def _dashed(line: Line) -> Chart:
    return {"strokeDash": list(line.dash)} if line.dash else {}


def _text(words: str, x: float, y: float, colour: str) -> Chart:
    mark = {"type": "text", "align": "left", "baseline": "middle", "fontSize": 11, "color": colour}
    return _layer(ONE, mark, {"x": {"value": x}, "y": {"value": y}, "text": {"value": words}})


def _short(word: str) -> str:
    return word if len(word) <= 22 else word[:21] + "…"


def _layer(frame: pl.DataFrame, mark: Chart, encoding: Chart) -> Chart:
    return {"data": {"values": frame.to_dicts()}, "mark": mark, "encoding": encoding}


def titled(title: str, sides: Mapping[str, Chart]) -> Chart:
    """Side by side, with titles: the chart that is written as PNG and SVG."""
    return {"hconcat": [{**chart, "title": f"{title}: {name}"} for name, chart in sides.items()], "spacing": 30}


def as_svg(chart: Chart) -> str:
    """The chart as SVG for a page: it fills its place (a view box, no fixed size), has the page's colours, light or dark."""
    svg = vl_convert.vegalite_to_svg({**chart, "config": {**CONFIG, "background": None}})
    svg = re.sub(r'(<svg[^>]*?) width="([\d.]+)" height="[\d.]+"', _room, svg, count=1)
    svg = re.sub(r' role="graphics-symbol" aria-roledescription="[\w ]+"(?=>)', "", svg)  # a part without a name says nothing
    return re.sub(r'\b(fill|stroke)="([^"]+)"', lambda found: f'{found[1]}="{themed(found[2])}"', svg)


def _room(found: re.Match[str]) -> str:
    """Its letters stay between three and five quarters of their size; where it would be smaller, its place scrolls."""
    least, most = (float(found[2]) * size for size in (0.75, 1.25))
    return f'{found[1]} style="min-width:{least:.0f}px;max-width:{most:.0f}px"'


def themed(colour: str) -> str:
    """A chart's colour as the page's style names it; one that it does not know, as it is."""
    return f"var(--{THEME[colour]})" if colour in THEME else colour


def as_files(chart: Chart) -> dict[str, str | bytes]:
    """The chart as files for a paper or a slide: SVG, and the same as PNG at twice the pixels."""
    svg = vl_convert.vegalite_to_svg({**chart, "config": CONFIG})
    return {"svg": svg, "png": vl_convert.svg_to_png(svg, scale=2)}
