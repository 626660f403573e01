"""The page of `medlens prune`, from the run alone: what is kept against what it costs, and the tables behind it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

from medlens import store
from medlens.pages import environment
from medlens.report.charts import SOFT, Chart, as_files, as_svg

DROPPED, LINEAR, WEIGHTS, RANDOM = "#0072B2", "#D55E00", "#5a5a5a", "#c9c9c9"  # Okabe-Ito, and greys
HOWS = {"drop": "dropped", "linear": "made linear"}
RULES = {
    "nonlinearity": "most linear update",
    "block_influence": "least block influence",
    "angular_distance": "smallest turn",
    "image_reading": "reads least of the image",
    "search": "search by divergence",
    "magnitude": "smallest weights",
}
LINES = (("rules, dropped", DROPPED, []), ("rules, made linear", LINEAR, []), ("smallest weights, dropped", WEIGHTS, [4, 3]))
BAND = "random choices: lowest to highest, and their mean"
COLUMNS = {"kept": ("low", "high"), "follows": ("follows_low", "follows_high")}
TITLES = {"kept": "answers kept, %", "follows": "answers that still follow the image, %"}


def write_pruned(folder: Path) -> None:
    """Write `report.html`, and the curves as PNG and SVG. Everything that comes from data or model is escaped."""
    run = store.open_run(folder)
    charts = {measure: curve(run, measure) for measure in COLUMNS}
    for measure, chart in charts.items():
        for suffix, content in as_files(chart).items():
            store.write(folder / f"{measure}.{suffix}", content)
    templates = environment(Path(__file__).parent, percent=_percent, share=_share, number=_number, large=_large)
    page = templates.get_template("pruned.html.j2").render(
        manifest=run.manifest, prune=run.manifest["prune"], said=said(run), charts={m: as_svg(c) for m, c in charts.items()},
        whole=_whole(run), chosen=[row | {"random": row["best_random"]} for row in best(run).to_dicts()], sizes=_sizes(run),
        rules=RULES, hows=HOWS,
    )  # fmt: skip
    store.write(folder / "report.html", page)


def best(run: store.Run) -> pl.DataFrame:
    """Of each size the choices of the best rule, dropped and linear, beside the best of the random ones."""
    drawn = run.pruned.filter(rule="random").group_by("budget").agg(best_random=pl.col("kept").max())
    chosen = run.pruned.filter("chosen").join(drawn, on="budget", how="left", maintain_order="left")
    return chosen.select(
        "budget", "how", "rule", "blocks", "kept", "low", "high", "best_random", "accuracy", "kl", "follows", "follows_low",
        "follows_high", "parameters", "flops", "seconds", "bytes", "note",
    )  # fmt: skip


def said(run: store.Run) -> str:
    """The verdict at the whole budget, in words."""
    found = best(run)
    last = {row["how"]: row for row in found.filter(pl.col("budget") == found["budget"].max()).to_dicts()}
    drop, linear = last["drop"], last["linear"]
    gone = f"Without {len(drop['blocks'])} of {run.manifest['model']['blocks']} blocks"
    words = f"{gone} (chosen on other images) {_percent(drop['kept'])} of the answers stay what they were"
    words += f"; with linear maps in their place {_percent(linear['kept'])}"
    words += f"; the best random choice keeps {_percent(drop['best_random'])}"
    if drop["follows"] is not None:
        words += f". Of the answers that another image changed, it still changes {_percent(drop['follows'])}"
        words += f" ({_percent(linear['follows'])} with the maps)"
    return words + "."


def curve(run: store.Run, measure: str) -> Chart:
    """A share against the parameters that are left: the best rule's choices dropped and made linear, the smallest weights dropped,
    and random choices as a band."""
    (whole,) = run.pruned.filter(rule="none").to_dicts()
    start = {"parameters": 100.0, "value": 100.0, "low": None, "high": None}
    dropped, linear = (_points(run.pruned.filter("chosen", how=how), measure, whole) for how in HOWS)
    weights = _points(run.pruned.filter(rule="magnitude", how="drop"), measure, whole)
    drawn = _points(run.pruned.filter(rule="random"), measure, whole).group_by("parameters", maintain_order=True)
    band = drawn.agg(low=pl.col("value").min(), high=pl.col("value").max(), value=pl.col("value").mean())
    x = {"field": "parameters", "type": "quantitative", "title": "parameters left, %", "scale": {"zero": False, "reverse": True}}
    y = {"field": "value", "type": "quantitative", "title": TITLES[measure], "scale": {"zero": False}}
    layers = [
        _layer(_with(start | {"low": 100.0, "high": 100.0}, band), {"type": "area", "color": RANDOM, "opacity": 0.6}, x,
               {**y, "field": "low"}, {"y2": {"field": "high"}}),
        _layer(_with(start, band), {"type": "line", "color": "#8a8a8a", "strokeWidth": 1}, x, y),
    ]  # fmt: skip
    for points, (_, colour, dash) in zip((dropped, linear, weights), LINES, strict=True):
        line: Chart = {"type": "line", "color": colour, "strokeDash": dash, "point": {"size": 36, "color": colour}}
        if not dash:
            bar = {"type": "rule", "color": colour, "opacity": 0.5}
            layers.append(_layer(points.to_dicts(), bar, x, {**y, "field": "low"}, {"y2": {"field": "high"}}))
        layers.append(_layer(_with(start, points), line, x, y))
    return {"layer": [*layers, *_legend()], "width": 400, "height": 240}


def _points(rows: pl.DataFrame, measure: str, whole: dict[str, Any]) -> pl.DataFrame:
    """In per cent, of those where the measure is defined."""
    low, high = COLUMNS[measure]
    return rows.filter(pl.col(measure).is_not_null()).select(
        parameters=100 * pl.col("parameters") / whole["parameters"],
        value=100 * pl.col(measure), low=100 * pl.col(low), high=100 * pl.col(high),
    )  # fmt: skip


def _with(start: dict[str, Any], points: pl.DataFrame) -> list[dict[str, Any]]:
    return [start, *points.to_dicts()]


def _layer(rows: list[dict[str, Any]], mark: Chart, x: Chart, y: Chart, more: Chart | None = None) -> Chart:
    return {"data": {"values": rows}, "mark": mark, "encoding": {"x": x, "y": y, **(more or {})}}


def _legend() -> list[Chart]:
    """Above the chart, one line of small print for each."""
    found = []
    for k, (words, colour, dash) in enumerate([*LINES, (BAND, RANDOM, [])]):
        at = -58 + 15 * k
        thick = 8 if colour == RANDOM else 2
        mark: Chart = {"type": "rule", "color": colour, "strokeWidth": thick, "strokeDash": dash}
        ends = {"x": {"value": 0}, "x2": {"value": 26}, "y": {"value": at}}
        found.append({"data": {"values": [{}]}, "mark": mark, "encoding": ends})
        text = {"type": "text", "align": "left", "baseline": "middle", "fontSize": 11, "color": SOFT}
        place = {"x": {"value": 32}, "y": {"value": at}, "text": {"value": words}}
        found.append({"data": {"values": [{}]}, "mark": text, "encoding": place})
    return found


def _whole(run: store.Run) -> dict[str, Any]:
    return run.pruned.filter(rule="none").to_dicts()[0]


def _sizes(run: store.Run) -> list[dict[str, Any]]:
    """Of each number of blocks: what every rule chose, and the random choices summed up."""
    found = []
    for part in run.pruned.filter(pl.col("rule") != "none").partition_by("budget", maintain_order=True):
        drawn = part.filter(rule="random")
        spread = {
            name: [drawn[name].min(), drawn[name].mean(), drawn[name].max()] for name in ("kept", "accuracy", "kl", "follows")
        }
        found.append({
            "blocks": len(part["blocks"][0]), "rows": part.filter(pl.col("rule") != "random").to_dicts(), "random": spread,
            "draws": drawn.height,
        })  # fmt: skip
    return found


def _percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def _share(value: float | None, low: float | None, high: float | None) -> str:
    return _percent(value) if low is None or high is None else f"{_percent(value)} ({100 * low:.1f} to {100 * high:.1f})"


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _large(value: float | None) -> str:
    """With a unit's prefix: 1.2 M, 13 G."""
    if value is None or not math.isfinite(value):
        return "–"
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"
