"""The page of the benchmark of maps, from the run alone: who finds what is there, and at which block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from medlens import store
from medlens.pages import environment
from medlens.report.charts import SOFT, Chart, as_files, as_svg

OWN, GREY, BEST = "#0072B2", "#8a8a8a", "#D55E00"  # Okabe-Ito
KNOW_NOTHING = ("centre", "edges", "random", "uniform")
HALVES = {"domain": ["test", "discovery"], "range": [OWN, GREY]}


def write_benchmark(folder: Path) -> None:
    """Write `report.html`, and its charts as PNG and SVG. Everything that comes from data or model is escaped."""
    run = store.open_run(folder)
    kinds = run.leaderboard["question_type"].unique(maintain_order=True).to_list()
    if len(kinds) == 2:  # one type of question: all is the same
        kinds = kinds[:1]
    sections = [_section(run, kind) for kind in kinds]
    for section in sections:
        for name in ("board", "curves"):
            if section[name] is not None:
                for suffix, content in as_files(section[name]).items():
                    store.write(folder / f"charts/{name}-{len(list(folder.glob(f'charts/{name}-*.png')))}.{suffix}", content)
                section[name] = as_svg(section[name])
    templates = environment(Path(__file__).parent, share=lambda value: "–" if value is None else f"{value:.2f}")
    page = templates.get_template("benchmark.html.j2").render(
        manifest=run.manifest, sections=sections, nothing=KNOW_NOTHING, measures=run.manifest["benchmark"]["measures"]
    )
    store.write(folder / "report.html", page)


def best(run: store.Run) -> pl.DataFrame:
    """The leaderboard in short: by the pointing game, the strongest first, of each type of question."""
    own = run.leaderboard.filter((pl.col("finding") == "all") & (pl.col("measure") == "pointing"))
    other = run.leaderboard.filter((pl.col("finding") == "all") & (pl.col("measure") == "energy"))
    joined = own.join(
        other.select("question_type", "method", energy="value"), on=["question_type", "method"], how="left", maintain_order="left"
    )
    return joined.sort("question_type", -pl.col("value"), maintain_order=True).select(
        "question_type", "method", "layer", "best", pl.col("value").alias("pointing"), "low", "high", "energy", "n", "images"
    )


def _section(run: store.Run, kind: str) -> dict[str, Any]:
    board = run.leaderboard.filter(pl.col("question_type") == kind)
    whole = board.filter(pl.col("finding") == "all")
    layers = run.layers.filter(pl.col("question_type") == kind)
    pointing = whole.filter(pl.col("measure") == "pointing").sort("value", descending=True)
    rows = []
    for row in pointing.to_dicts():
        own = {r["measure"]: r for r in whole.filter(pl.col("method") == row["method"]).to_dicts()}
        rows.append({**row, "own": own})
    findings = [f for f in board["finding"].unique(maintain_order=True).to_list() if f != "all"]
    by_finding = [{"method": row["method"], "values": [_of(board, finding, row["method"]) for finding in findings]} for row in rows]
    return {
        "kind": kind,
        "rows": rows,
        "findings": findings if len(findings) > 1 else [],
        "by_finding": by_finding,
        "board": board_chart(pointing),
        "curves": curves_chart(layers) if layers.height else None,
    }


def _of(board: pl.DataFrame, finding: str, method: str) -> float | None:
    at = (pl.col("finding") == finding) & (pl.col("method") == method) & (pl.col("measure") == "pointing")
    return next(iter(board.filter(at)["value"].to_list()), None)


def board_chart(rows: pl.DataFrame) -> Chart:
    """A dot and an interval for each method."""
    named = rows.with_columns(
        name=pl.when(pl.col("layer").is_null()).then("method").otherwise(pl.format("{}, block {}", "method", "layer")),
        kind=pl.when(pl.col("best")).then(pl.lit("best on discovery images"))
        .when(pl.col("method").is_in(list(KNOW_NOTHING))).then(pl.lit("knows nothing of the model"))
        .otherwise(pl.lit("others")),
    ).select("name", "value", "low", "high", "kind")  # fmt: skip
    x: Chart = {"field": "value", "type": "quantitative", "title": "pointing game, on test images", "scale": {"domain": [0, 1]}}
    y: Chart = {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 260}}
    hues = {"domain": ["best on discovery images", "others", "knows nothing of the model"], "range": [BEST, OWN, GREY]}
    colour: Chart = {"field": "kind", "type": "nominal", "title": None, "scale": hues, "legend": {"orient": "bottom"}}
    bar = {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour}
    return {
        "data": {"values": named.to_dicts()},
        "width": 380,
        "height": {"step": 22},
        "layer": [
            {"mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.6}, "encoding": bar},
            {"mark": {"type": "point", "filled": True, "size": 60, "opacity": 1}, "encoding": {"x": x, "y": y, "color": colour}},
        ],
    }


def curves_chart(layers: pl.DataFrame) -> Chart:
    """The pointing game over blocks, side by side, on the images that chose the block and on the others."""
    sides = []
    for method in layers["method"].unique(maintain_order=True).to_list():
        rows = layers.filter(pl.col("method") == method).select("layer", "half", "value", "low", "high")
        x: Chart = {"field": "layer", "type": "quantitative", "title": "block", "axis": {"tickMinStep": 1, "format": "d"}}
        y: Chart = {"field": "value", "type": "quantitative", "title": None, "scale": {"domain": [0, 1]}}
        colour: Chart = {"field": "half", "type": "nominal", "title": None, "scale": HALVES, "legend": {"orient": "bottom"}}
        band = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour}
        line = {"type": "line", "point": True, "strokeWidth": 2}
        sides.append({
            "title": {"text": method, "color": SOFT},
            "data": {"values": rows.to_dicts()},
            "width": 260,
            "height": 170,
            "layer": [
                {"mark": {"type": "area", "opacity": 0.18}, "encoding": band},
                {"mark": line, "encoding": {"x": x, "y": y, "color": colour}},
            ],
        })  # fmt: skip
    return {"hconcat": sides, "spacing": 24}
