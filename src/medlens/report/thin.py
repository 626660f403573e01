"""The page of `medlens thin`, made from the run alone: how many answers stay when so much goes."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl

from medlens import store
from medlens.pages import environment
from medlens.report.charts import SOFT, Chart, as_files, as_svg

RULE, RANDOM = "#0072B2", "#8a8a8a"  # Okabe-Ito
ENOUGH = 0.95  # of the answers: what the first sentences are about
SAID = {
    "dropped": ("image tokens dropped", "of the image tokens dropped behind block {after}"),
    "merged": ("image tokens merged", "of the image tokens merged into others behind block {after}"),
    "units": ("units zeroed", "of the MLP units set to zero"),
}


def write_thin(folder: Path) -> None:
    """Write `report.html`, and the chart as PNG and SVG. Everything that comes from data or model is escaped."""
    run = store.open_run(folder)
    chart = thin_chart(run.thinned)
    for suffix, content in as_files(chart).items():
        store.write(folder / f"thinned.{suffix}", content)
    templates = environment(Path(__file__).parent, percent=_percent)
    page = templates.get_template("thin.html.j2").render(
        manifest=run.manifest, chart=as_svg(chart), said=sentences(run.thinned), rows=run.thinned.to_dicts(),
        names={what: name for what, (name, _) in SAID.items()},
    )  # fmt: skip
    store.write(folder / "report.html", page)


def sentences(thinned: pl.DataFrame) -> list[str]:
    """Of each thing that goes, the largest share with which at least 95 % of the answers stay."""
    found = []
    for (what,), rows in thinned.group_by("what", maintain_order=True):
        name, words = SAID[str(what)]
        ruled = rows.filter(pl.col("by") != "random", pl.col("kept") >= ENOUGH).sort("share")
        if not ruled.height:
            least = min(rows["share"].to_list())
            found.append(f"No share of {name} that was tried (from {_percent(least)} on) keeps {_percent(ENOUGH)} of the answers.")
            continue
        row = ruled.row(-1, named=True)
        random = rows.filter(pl.col("by") == "random", pl.col("share") == row["share"]).row(0, named=True)
        found.append(
            f"With {_percent(row['share'])} {words.format(after=row['after'])}, {_percent(row['kept'])} of the answers stay "
            f"({_percent(row['low'])} to {_percent(row['high'])}); in random order {_percent(random['kept'])}."
        )
    return found


def thin_chart(thinned: pl.DataFrame) -> Chart:
    """Answers kept by the share that goes: by the rule with its interval, and in random order."""
    panels = [_panel(SAID[str(what)][0], rows.sort("share")) for (what,), rows in thinned.group_by("what", maintain_order=True)]
    return {"hconcat": panels, "spacing": 30}


def _panel(title: str, rows: pl.DataFrame) -> Chart:
    axis = {"format": "%", "tickCount": 5}
    x = {"field": "share", "type": "quantitative", "title": "share that goes", "scale": {"domain": [0, 1]}, "axis": axis}
    y: Chart = {"field": "kept", "type": "quantitative", "title": "answers kept", "scale": {"domain": [0, 1]}, "axis": axis}
    layers: list[Chart] = []
    for colour, of in ((RANDOM, pl.col("by") == "random"), (RULE, pl.col("by") != "random")):
        data: Chart = {"values": rows.filter(of).select("share", "kept", "low", "high").to_dicts()}
        band: Chart = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}
        layers.append({"data": data, "mark": {"type": "area", "color": colour, "opacity": 0.18}, "encoding": band})
        line = {"type": "line", "color": colour, "point": {"size": 40, "color": colour}}
        layers.append({"data": data, "mark": line, "encoding": {"x": x, "y": y}})
    rule = rows.filter(pl.col("by") != "random")["by"][0]
    words = {"data": {"values": [{"said": f"blue: least {rule} goes first; grey: at random"}]}}
    mark = {"type": "text", "x": 4, "y": 172, "align": "left", "color": SOFT, "fontSize": 11}
    layers.append({**words, "mark": mark, "encoding": {"text": {"field": "said", "type": "nominal"}}})
    return {"layer": layers, "width": 250, "height": 180, "title": title}


def _percent(value: float | None) -> str:
    """100 % is said of all alone, and 0 % of none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.0f} %" if value in (0, 1) or round(1000 * value) % 10 == 0 else f"{100 * value:.1f} %"
