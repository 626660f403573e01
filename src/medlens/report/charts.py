"""How lines become a chart: the same in the report, as PNG and as SVG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import altair as alt
import polars as pl
import vl_convert
from altair.utils.schemapi import debug_mode

from medlens.report.lines import Line, domain

WIDTH, HEIGHT = 330, 180
LETTER, LEADING = 5.8, 12  # pixels of a letter and of a line of small print
SOFT = "#5a5a5a"

Chart = alt.LayerChart | alt.HConcatChart


def side_by_side(sides: Mapping[str, Sequence[Line]], axis: str, last: int) -> dict[str, alt.LayerChart]:
    """A chart of each side's lines, by its name, with one y axis and one size for all. axis: what the layers are; last: of them."""
    everything = [line for lines in sides.values() for line in lines]
    low, high = domain(everything)
    words = {name: _labels(lines, low, high) for name, lines in sides.items()}
    margin = max((len(word) for labels in words.values() for word, _, _ in labels), default=0) * LETTER
    with debug_mode(False):  # altair would check every layer against its schema, which takes longer than drawing
        return {name: _chart(lines, words[name], (low, high), axis, last, margin) for name, lines in sides.items() if lines}


def _chart(
    lines: Sequence[Line], labels: list[tuple[str, float, str]], y_range: tuple[float, float], axis: str, last: int, margin: float
) -> alt.LayerChart:
    x = alt.X("layer:Q", title=axis, scale=alt.Scale(domain=[0, last], nice=False), axis=alt.Axis(tickMinStep=1, format="d"))
    scale = alt.Scale(domain=list(y_range), nice=False, zero=False)
    y = alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=6))
    layers = [layer for line in lines for layer in _bands(line, x, scale)]
    layers += [layer for line in lines for layer in _marks(line, x, y)]
    layers += [_text(word, WIDTH + 7, at, colour) for word, at, colour in labels] + _legend(lines)
    layers.append(_text("", WIDTH + 7 + margin, 0, SOFT))  # keeps the sides equally wide
    return cast("alt.LayerChart", alt.layer(*layers)).properties(width=WIDTH, height=HEIGHT)


def _pieces(frame: pl.DataFrame) -> pl.DataFrame:
    """With a column `piece`: layers that follow on each other. A line is not drawn across what is undefined."""
    return frame.with_columns(piece=(pl.col("layer").diff().fill_null(1) != 1).cum_sum())


def _bands(line: Line, x: alt.X, scale: alt.Scale) -> list[alt.Chart]:
    """Between low and high, where there are any: a ribbon, and a bar where a layer stands alone."""
    frame = _pieces(line.frame.drop_nulls())
    if frame.is_empty():
        return []
    low, high = alt.Y("low:Q", scale=scale, title=None), alt.Y2("high:Q")
    alone = pl.len().over("piece") == 1
    found = []
    if line.ribbon and (ribbon := frame.filter(~alone)).height:
        mark = _of(ribbon).mark_area(color=line.colour, opacity=line.ribbon, clip=True, description="interval")
        found.append(mark.encode(x=x, y=low, y2=high, detail="piece:N"))
    if (line.ribbon or line.marks == "diamonds") and (bars := frame.filter(alone)).height:
        mark = _of(bars).mark_rule(color=line.colour, opacity=0.45, strokeWidth=3, clip=True, description="interval")
        found.append(mark.encode(x=x, y=low, y2=high))
    return found


def _marks(line: Line, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    chart = _of(_pieces(line.frame)).encode(x=x, y=y)
    if line.marks == "diamonds":
        return [chart.mark_point(color=line.colour, shape="diamond", size=70, filled=False)]
    dash: dict[str, Any] = {"strokeDash": list(line.dash)} if line.dash else {}
    drawn = [chart.mark_line(color=line.colour, strokeWidth=line.width, clip=True, **dash).encode(detail="piece:N")]
    if line.marks == "points":
        drawn.append(chart.mark_point(color=line.colour, filled=True, size=30, opacity=1))
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


def _legend(lines: Sequence[Line]) -> list[alt.Chart]:
    """Above the chart, one line of small print for each: its dashes, and what they stand for."""
    keyed = [line for line in lines if line.key]
    found = []
    for k, line in enumerate(keyed):
        height = -10 - LEADING * (len(keyed) - 1 - k)
        dash = {"strokeDash": list(line.dash)} if line.dash else {}
        stroke = _of(pl.DataFrame({"one": [1]})).mark_rule(color=line.colour, strokeWidth=line.width + 0.3, **dash)
        found.append(stroke.encode(x=alt.value(0), x2=alt.value(26), y=alt.value(height)))
        found.append(_text(line.key, 32, height, SOFT))
    return found


def _text(words: str, x: float, y: float, colour: str) -> alt.Chart:
    mark = _of(pl.DataFrame({"one": [1]})).mark_text(align="left", baseline="middle", fontSize=11, color=colour)
    return mark.encode(x=alt.value(x), y=alt.value(y), text=alt.value(words))


def _short(word: str) -> str:
    return word if len(word) <= 22 else word[:21] + "…"


def _of(frame: pl.DataFrame) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=frame.to_dicts()))


def titled(title: str, sides: Mapping[str, alt.LayerChart]) -> alt.HConcatChart:
    """Side by side, with titles: the chart that is written as PNG and SVG."""
    return alt.hconcat(*(chart.properties(title=f"{title}: {name}") for name, chart in sides.items()), spacing=30)


def as_svg(chart: Chart) -> str:
    """The chart as SVG that fills its place: a view box, no fixed size."""
    svg = vl_convert.vegalite_to_svg(_styled(chart))
    return re.sub(r'(<svg[^>]*?) width="[\d.]+" height="[\d.]+"', r"\1", svg, count=1)


def as_files(chart: alt.HConcatChart) -> dict[str, str | bytes]:
    """The chart as files for a paper or a slide: SVG, and the same as PNG at twice the pixels."""
    svg = vl_convert.vegalite_to_svg(_styled(chart))
    return {"svg": svg, "png": vl_convert.svg_to_png(svg, scale=2)}


def _styled(chart: Chart) -> str:
    with debug_mode(False):
        return _configured(chart).to_json()


def _configured(chart: Chart) -> Chart:
    return (
        chart.configure(background="white", font="sans-serif")
        .configure_axis(
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelColor=SOFT, titleColor=SOFT, gridColor="#ececec"
        )
        .configure_view(stroke=None)
        .configure_title(fontSize=14, anchor="start", fontWeight="normal")
    )
