"""The page of a run of probes, and its picture: accuracy through tower and decoder, a panel a tag."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from medlens import store
from medlens.report.charts import SOFT, Chart, as_files, as_svg

WIDTH, HEIGHT = 640, 170
COLOURS = {"image": "#0072B2", "last": "#D55E00", "floor": "#999999"}  # Okabe-Ito
NAMED = {
    "image": "the image's rows, mean",
    "last": "last token of the prompt",
    "control": "shuffled labels, 95 %",
    "floor": "majority",
}
AFTER = 2  # places between the tower's last state and the decoder's first
GEOMETRY = {
    "linearity": "how linear a layer is",
    "anisotropy": "share of the variance along one direction",
    "mean_cosine": "mean cosine of two patches",
    "intrinsic_dimension": "intrinsic dimension (TwoNN)",
}


def write_probes(folder: Path) -> None:
    """Write `report.html`, `probe.png` and `probe.svg` beside the tables of a run of probes."""
    run = store.open_run(folder)
    chart = probe_chart(run)
    for suffix, content in as_files(chart).items():
        store.write(folder / f"probe.{suffix}", content)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = lambda value: "–" if value is None or not math.isfinite(value) else f"{value:.3g}"
    page = environment.get_template("probes.html.j2").render(
        manifest=run.manifest,
        probes=as_svg(chart),
        best=best(run.rows).to_dicts(),
        undefined=_undefined(run.rows),
        gap=as_svg(_curves(run.rows, ["modality_gap", "modality_gap_floor"], "image and text", "state of the decoder")),
        geometry=[(said, as_svg(_curves(run.rows, [name], "tower", _axis(name)))) for name, said in _geometry(run.rows).items()],
    )
    store.write(folder / "report.html", page)


def best(rows: pl.DataFrame) -> pl.DataFrame:
    """Of each tag and kind of token the state whose probe is most accurate, with what it is to be read against. The best of several
    is too good by chance: the column `states` says of how many."""
    keys = ["group", "tokens", "layer"]
    names = ["accuracy", "balanced", "majority", "control", "selectivity", "p"]
    found = rows.filter((pl.col("measure") == "probe_accuracy") & pl.col("value").is_not_nan()).select(
        *keys, pl.col("value").alias("accuracy"), "low", "high", "n", "note"
    )
    for name in names[1:]:
        other = rows.filter(pl.col("measure") == f"probe_{name}").select(*keys, pl.col("value").alias(name))
        found = found.join(other, on=keys, how="left", maintain_order="left")
    chosen = found.sort("accuracy", "layer", descending=[True, False], maintain_order=True).group_by(
        "group", "tokens", maintain_order=True
    )
    return chosen.agg(pl.all().first(), states=pl.len()).sort("group", "tokens", descending=[False, True], maintain_order=True)


def _undefined(rows: pl.DataFrame) -> list[str]:
    lost = rows.filter((pl.col("measure") == "probe_accuracy") & pl.col("value").is_nan())
    pairs = lost.select("group", "tokens", "note").unique(maintain_order=True)
    return [f"{group}, {tokens}: {note}" for group, tokens, note in pairs.iter_rows()]


def probe_chart(run: store.Run) -> Chart:
    """A panel for each tag: left the tower's states, right the decoder's; dots with 95 % intervals, the band of shuffled labels, and
    the majority."""
    told, tags = run.manifest["probe"], run.manifest["probe"]["tags"]
    last = -AFTER if told["layers"] is None else told["layers"]
    shown = run.rows.filter(pl.col("measure").str.starts_with("probe_") & pl.col("value").is_not_nan()).with_columns(
        at=pl.when(pl.col("tokens") == "tower").then("layer").otherwise(pl.col("layer") + last + AFTER),
        line=pl.when(pl.col("tokens") == "last").then(pl.lit("last")).otherwise(pl.lit("image")),
    )
    end = run.manifest["model"]["blocks"] + last + AFTER
    panels = [_panel(shown.filter(pl.col("group") == tag), tag, last, end, told["feeds"]) for tag in tags]
    return {"vconcat": [{"layer": _legend(), "width": WIDTH, "height": 16}, *panels], "spacing": 14}


def _panel(rows: pl.DataFrame, tag: str, last: int, end: int, feeds: int | None) -> Chart:
    label = f"datum.value <= {last} ? datum.value : datum.value < {last + AFTER} ? '' : datum.value - {last + AFTER}"
    axis = {"tickMinStep": 1, "format": "d", "labelExpr": label, "tickCount": end + 1}
    title = "state of the vision tower, then of the decoder (0: what the projector gives)" if last >= 0 else "state of the decoder"
    x = {
        "field": "at",
        "type": "quantitative",
        "title": title,
        "scale": {"domain": [0, end], "nice": False, "padding": 8},
        "axis": axis,
    }
    y = {"field": "value", "type": "quantitative", "title": "held-out accuracy", "scale": {"domain": [0, 1]}}
    piece = {"field": "piece", "type": "nominal"}
    layers: list[Chart] = []
    for line in ("image", "last"):
        own = rows.filter(pl.col("line") == line).with_columns(piece=pl.col("tokens")).sort("at")
        control, common, accuracy = (own.filter(pl.col("measure") == f"probe_{m}") for m in ("control", "majority", "accuracy"))
        low, ends = {**y, "field": "low"}, {"field": "high"}
        grey = {"type": "area", "color": COLOURS["floor"], "opacity": 0.25}
        layers += [_layer(control, grey, {"x": x, "y": low, "y2": ends, "detail": piece})] if control.height else []
        dots = {"type": "line", "color": SOFT, "strokeDash": [2, 3], "strokeWidth": 1.3}
        layers += [_layer(common, dots, {"x": x, "y": y, "detail": piece})] if common.height else []
        if accuracy.height:
            ribbon = {"type": "area", "color": COLOURS[line], "opacity": 0.16}
            stroke = {"type": "line", "color": COLOURS[line], "strokeWidth": 2, "point": {"size": 28, "color": COLOURS[line]}}
            layers += [
                _layer(accuracy, ribbon, {"x": x, "y": low, "y2": ends, "detail": piece}),
                _layer(accuracy, stroke, {"x": x, "y": y, "detail": piece}),
            ]
    if last >= 0:
        layers.append(_rule(x, last + AFTER / 2, []))
    if feeds is not None and feeds != last:
        layers.append(_rule(x, feeds, [4, 3]))
        words = {
            "type": "text",
            "align": "right",
            "dx": -4,
            "baseline": "bottom",
            "color": SOFT,
            "fontSize": 11,
            "text": "projector reads this",
        }
        layers.append(_layer(pl.DataFrame({"at": [feeds], "value": [0.02]}), words, {"x": x, "y": y}))
    if not layers:
        layers.append({"data": {"values": [{}]}, "mark": {"type": "text", "text": "undefined: see the notes", "color": SOFT}})
    return {"layer": layers, "width": WIDTH, "height": HEIGHT, "title": tag}


def _rule(x: Chart, at: float, dash: list[int]) -> Chart:
    mark = {"type": "rule", "color": "#b0b0b0", "strokeDash": dash} if dash else {"type": "rule", "color": "#b0b0b0"}
    return _layer(pl.DataFrame({"at": [at]}), mark, {"x": x})


def _legend() -> list[Chart]:
    found: list[Chart] = []
    for k, (name, words) in enumerate(NAMED.items()):
        left, dash = 165 * k, {"strokeDash": [2, 3]} if name == "floor" else {}
        colour = COLOURS.get(name, COLOURS["floor"])
        thick = {"strokeWidth": 9, "opacity": 0.35} if name == "control" else {"strokeWidth": 2}
        colour = SOFT if name == "floor" else colour
        rule = {"type": "rule", "color": colour, **thick, **dash}
        place = {"x": {"value": left}, "x2": {"value": left + 22}, "y": {"value": 8}}
        text = {"type": "text", "align": "left", "baseline": "middle", "fontSize": 11, "color": SOFT, "text": words}
        found += [_layer(pl.DataFrame({"one": [1]}), rule, place)]
        found += [_layer(pl.DataFrame({"one": [1]}), text, {"x": {"value": left + 27}, "y": {"value": 8}})]
    return found


def _curves(rows: pl.DataFrame, measures: list[str], tokens: str, axis: str) -> Chart:
    """One measure by layer with its interval; a second one, its floor, in grey."""
    chosen = rows.filter(
        (pl.col("tokens") == tokens) & (pl.col("variant") == "raw") & (pl.col("group") == "all") & (pl.col("protocol") == "sound")
    )
    x = {
        "field": "layer",
        "type": "quantitative",
        "title": axis,
        "axis": {"tickMinStep": 1, "format": "d"},
        "scale": {"nice": False},
    }
    y = {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": len(measures) > 1}}
    layers: list[Chart] = []
    for colour, name in zip((COLOURS["image"], COLOURS["floor"]), measures, strict=False):
        own = chosen.filter((pl.col("measure") == name) & pl.col("value").is_not_nan()).sort("layer")
        ends = own.drop_nulls(["low", "high"])
        ribbon = {"type": "area", "color": colour, "opacity": 0.18}
        layers += [_layer(ends, ribbon, {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}})] if ends.height else []
        layers.append(_layer(own, {"type": "line", "color": colour, "point": {"size": 24, "color": colour}}, {"x": x, "y": y}))
    return {"layer": layers, "width": 330, "height": 170}


def _geometry(rows: pl.DataFrame) -> dict[str, str]:
    measured = set(rows.filter((pl.col("tokens") == "tower") & pl.col("value").is_not_nan())["measure"])
    return {name: said for name, said in GEOMETRY.items() if name in measured}


def _axis(measure: str) -> str:
    return "layer of the tower (state t to t + 1)" if measure == "linearity" else "state of the tower"


def _layer(frame: pl.DataFrame, mark: Any, encoding: Chart) -> Chart:
    return {"data": {"values": frame.to_dicts()}, "mark": mark, "encoding": encoding}
