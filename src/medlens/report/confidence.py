"""Confidence as charts: the reliability diagram, and what abstaining buys."""

from __future__ import annotations

from typing import Any

import polars as pl

from medlens.report.charts import SOFT, Chart, as_svg

INK, CONTROL = "#0072B2", "#7F7F7F"
POINTS = {
    "rests": "ignore the image: withheld",
    "consistent": "contradict themselves: withheld",
    "both": "both: withheld",
}
SIZE = {"width": 300, "height": 220}


def reliability_chart(rows: pl.DataFrame, group: str = "all") -> Chart:
    """Accuracy at each bin's confidence, with intervals; the diagonal is perfect calibration. rows: of the table `calibration`."""
    values = rows.filter(pl.col("group") == group, pl.col("measure") == "bin").to_dicts()
    x = {"type": "quantitative", "title": "probability that the model gives its answer", "scale": {"domain": [0, 1]}}
    y = {"type": "quantitative", "title": "share that is right", "scale": {"domain": [0, 1]}}
    line = {
        "data": {"values": [{"p": 0}, {"p": 1}]},
        "mark": {"type": "line", "color": CONTROL, "strokeDash": [4, 3]},
        "encoding": {"x": {**x, "field": "p"}, "y": {**y, "field": "p"}},
    }
    return {"layer": [line, *_points(values, {**x, "field": "confidence"}, y, INK)], **SIZE}


def abstaining_chart(rows: pl.DataFrame) -> Chart:
    """Accuracy of the answers that are given against the share of them that is given: by confidence, the control of as many
    withheld at random, and the points of answers withheld by the gate and by consistency. rows: of the table `confidence`."""
    known = rows.filter(pl.col("value").is_not_null()).sort("coverage")
    least = min(1.0, *known["low"].drop_nulls().to_list(), *known["value"].to_list())
    x = {"field": "coverage", "type": "quantitative", "title": "share of answers given", "scale": {"domain": [0, 1]}}
    y = {"type": "quantitative", "title": "share of these that is right", "scale": {"domain": [min(least, 0.95), 1]}}
    layers = []
    for curve, colour, dash in (("random", CONTROL, [4, 3]), ("confidence", INK, [1, 0])):
        values = known.filter(curve=curve).to_dicts()
        band = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}
        layers.append({"data": {"values": values}, "mark": {"type": "area", "color": colour, "opacity": 0.15}, "encoding": band})
        mark = {"type": "line", "color": colour, "strokeDash": dash}
        layers.append({"data": {"values": values}, "mark": mark, "encoding": {"x": x, "y": {**y, "field": "value"}}})
    values = [{**row, "word": POINTS[row["curve"]]} for row in known.filter(pl.col("curve").is_in(list(POINTS))).to_dicts()]
    shape = {
        "field": "word",
        "type": "nominal",
        "title": None,
        "legend": {"orient": "bottom", "labelColor": SOFT, "labelLimit": 280, "columns": 1},
    }
    at = {"x": x, "y": {**y, "field": "value"}, "shape": shape}
    layers.append({"data": {"values": values}, "mark": {"type": "point", "size": 90, "color": "#D55E00"}, "encoding": at})
    return {"layer": layers, **SIZE}


def _points(values: list[dict[str, Any]], x: Chart, y: Chart, colour: str) -> list[Chart]:
    interval = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}
    return [
        {"data": {"values": values}, "mark": {"type": "rule", "color": colour, "opacity": 0.5}, "encoding": interval},
        {
            "data": {"values": values},
            "mark": {"type": "point", "color": colour, "filled": True, "size": 45, "opacity": 1},
            "encoding": {"x": x, "y": {**y, "field": "value"}},
        },
    ]


def confidence_section(calibration: pl.DataFrame, confidence: pl.DataFrame) -> dict[str, Any]:
    """What a page shows of both tables: two charts, the numbers over all bins, and the points."""
    return {
        "reliability": as_svg(reliability_chart(calibration)),
        "abstaining": as_svg(abstaining_chart(confidence)),
        "measures": calibration.filter(pl.col("measure") != "bin").to_dicts(),
        "points": confidence.filter(pl.col("curve").is_in(list(POINTS))).to_dicts(),
    }
