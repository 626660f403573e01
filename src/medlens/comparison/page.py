"""The comparison as one HTML file that needs nothing else: static SVG, no scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import altair as alt
import polars as pl

from medlens.comparison.differences import Matched
from medlens.comparison.kernels import Heat
from medlens.grammar import OF_PAIRS
from medlens.pages import environment
from medlens.report.charts import as_svg, themed
from medlens.store import Run

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe-Ito
SIDES = ("image", "text", "all")
WIDTH, HEIGHT, LOW = 370, 150, 90


def render(
    names: Sequence[str],
    runs: Sequence[Run],
    matched: Sequence[tuple[str, Matched]],
    heats: Sequence[Heat],
    notes: Sequence[str],
    summary: pl.DataFrame,
) -> str:
    """The page. Everything that comes from data, models or folders is escaped."""
    templates = environment(
        Path(__file__).parent, number=lambda value: "–" if value is None or not math.isfinite(value) else f"{value:.4g}"
    )
    depths = [run.manifest["model"]["blocks"] for run in runs]
    return templates.get_template("compare.html.j2").render(
        names=list(zip(names, runs, map(themed, _colours(len(names))), strict=True)),
        notes=notes,
        summary=summary.to_dicts(),
        measures=_measures(names, matched, depths),
        heats=[(heat, as_svg(_heat_map(heat, names[0]).to_dict())) for heat in heats],
        medlens=runs[0].manifest["medlens"],
    )


def _colours(count: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def _measures(
    names: Sequence[str], matched: Sequence[tuple[str, Matched]], depths: Sequence[int]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each measure, (heading, chart) for each group of tokens that it was measured for: raw, all samples."""
    shown: dict[str, dict[str, list[tuple[str, Matched]]]] = {}
    for name, pair in matched:
        if pair.key.variant == "raw" and pair.key.group == "all" and pair.key.tokens in SIDES:
            heading = pair.key.tokens + " tokens" + f", protocol {pair.key.protocol}" * (pair.key.protocol != "sound")
            shown.setdefault(pair.key.measure, {}).setdefault(heading, []).append((name, pair))
    found = []
    for measure, groups in shown.items():
        charts = [(heading, _chart(names, pairs, depths)) for heading, pairs in groups.items()]
        found.append((measure, [(heading, as_svg(chart.to_dict())) for heading, chart in charts if chart is not None]))
    return found


def _chart(names: Sequence[str], pairs: Sequence[tuple[str, Matched]], depths: Sequence[int]) -> alt.VConcatChart | None:
    """The curves of all runs with the interval of each layer; below, the differences with their simultaneous intervals."""
    relative, of_pairs = len(set(depths)) > 1, pairs[0][1].key.measure in OF_PAIRS
    middle, depth = 0.5 if of_pairs else 0.0, depths[0]
    first = pairs[0][1]
    curves = _points(names[0], first.first.layers, first.first.values, first.first.low, first.first.high)
    differences: list[dict[str, Any]] = []
    for name, pair in pairs:  # at the layers of the first run, so that what is compared stands above each other
        curves += _points(name, pair.first.layers, pair.other.values, pair.other.low, pair.other.high)
        differences += _points(name, pair.first.layers, pair.other.values - pair.first.values, pair.low, pair.high)
    if relative:
        for point in curves + differences:
            point["layer"] = (point["layer"] + middle) / depth
    if not curves or not differences:
        return None
    title = "relative depth" if relative else "block" if of_pairs else "state"
    colour = alt.Color("run:N", scale=alt.Scale(domain=list(names), range=_colours(len(names))), legend=None)
    upper = _ribbons(curves, colour, "", HEIGHT)
    zero = alt.Chart(alt.InlineData(values=[{"y": 0}])).mark_rule(color="#777777", strokeDash=[3, 3]).encode(y="y:Q")
    lower = alt.layer(zero, _ribbons(differences, colour, title, LOW))
    return alt.vconcat(upper, lower, spacing=6).resolve_scale(x="shared")


def _points(name: str, layers: Any, values: Any, low: Any, high: Any) -> list[dict[str, Any]]:
    """As records; an interval only where there is one, nothing where the value is undefined."""
    numbers = zip(layers.tolist(), values.tolist(), low.tolist(), high.tolist(), strict=True)
    return [
        {"run": name, "layer": layer, "value": value}
        | ({"low": below, "high": above} if math.isfinite(below) and math.isfinite(above) else {})
        for layer, value, below, above in numbers
        if math.isfinite(value)
    ]


def _ribbons(points: list[dict[str, Any]], colour: alt.Color, title: str, height: int) -> alt.LayerChart:
    axis = alt.Axis(tickMinStep=1, format="d") if title in ("block", "state") else alt.Axis()
    x = alt.X("layer:Q", title=title or None, scale=alt.Scale(nice=False), axis=axis if title else None)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    base = alt.Chart(alt.InlineData(values=points)).encode(x=x, color=colour)
    ribbon = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.18).encode(y=alt.Y("low:Q", title=None), y2="high:Q")
    line = base.encode(y=y).mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=22))
    return cast("alt.LayerChart", alt.layer(ribbon, line).properties(width=WIDTH, height=height))


def _heat_map(heat: Heat, first: str) -> alt.Chart:
    values = [
        {"first": one, "other": two, "cka": heat.values[i, j]}
        for i, one in enumerate(heat.first_layers)
        for j, two in enumerate(heat.other_layers)
        if math.isfinite(heat.values[i, j])
    ]
    label = alt.Axis(labelAngle=0, labelOverlap=True)
    return (
        alt.Chart(alt.InlineData(values=values))
        .mark_rect()
        .encode(
            x=alt.X("other:O", title=f"state of {heat.other}", axis=label),
            y=alt.Y("first:O", title=f"state of {first}", sort="descending", axis=label),
            color=alt.Color("cka:Q", title="CKA", scale=alt.Scale(domain=[0, 1], clamp=True, scheme="viridis")),
        )
        .properties(width=300, height=300)
    )
