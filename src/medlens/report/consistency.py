"""Consistency as a chart: how many answers contradict the model's own, by what was changed."""

from __future__ import annotations

from typing import Any

import polars as pl

from medlens.report.charts import Chart, as_svg

WORDS = {
    "mirrored": "image and words mirrored",
    "turned left": "turned left",
    "turned right": "turned right",
    "cropped": "edges cut off",
    "brighter": "brighter",
    "windowed": "narrower window",
    "paraphrased": "asked in other words",
    "order": "“yes or no” turned round",
}
INK = "#0072B2"


def consistency_chart(rows: pl.DataFrame) -> Chart:
    """A bar with its interval for each kind of change, over all questions. rows: of the table `consistency`."""
    frame = rows.filter(pl.col("question_type") == "all", pl.col("kind") != "any", pl.col("contradicted").is_not_null())
    values = frame.with_columns(change=pl.col("kind").replace(WORDS)).to_dicts()
    y = {"field": "change", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 200}}
    x = {"type": "quantitative", "title": "share of answers contradicted", "scale": {"domain": [0, 1]}, "axis": {"format": ".0%"}}
    bar = {"mark": {"type": "bar", "color": INK, "opacity": 0.45}, "encoding": {"y": y, "x": {**x, "field": "contradicted"}}}
    interval = {
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
    }
    return {"data": {"values": values}, "layer": [bar, interval], "width": 300, "height": {"step": 24}}


def consistency_section(rows: pl.DataFrame) -> dict[str, Any]:
    """What a page shows of it: the chart, the rows over all questions, those of answers that name a side, and a sentence."""
    sided = rows.filter(kind="mirrored", question_type="names a side").to_dicts()
    return {
        "chart": as_svg(consistency_chart(rows)),
        "rows": rows.filter(question_type="all").to_dicts(),
        "sided": sided,
        "said": _said(sided),
    }


def _said(sided: list[dict[str, Any]]) -> str:
    if not sided or sided[0]["contradicted"] is None:
        return "No answer names a side, so that none had to swap left and right in a mirror."
    (row,) = sided
    swapped = f"{100 * (1 - row['contradicted']):.0f} % ({100 * (1 - row['high']):.0f} to {100 * (1 - row['low']):.0f})"
    return f"Of {row['n']} answers that name a side, {swapped} swap left and right when the image is mirrored."
