"""The page of a run of probes, and its picture: accuracy through tower and decoder, a panel a tag."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

from medlens import store
from medlens.pages import environment
from medlens.report.charts import ONE, SOFT, Chart, as_files, as_svg
from medlens.report.plateau import spans

WIDTH, HEIGHT = 640, 170
IMAGE, LAST, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe-Ito, and grey
DOTTED, DASHED = {"strokeDash": [2, 3]}, {"strokeDash": [5, 3]}
LEGEND: dict[str, Chart] = {
    "image, mean token": {"color": IMAGE},
    "last token": {"color": LAST},
    "question's words": {"color": LAST, **DASHED},
    "labels shuffled": {"color": GREY, "strokeWidth": 9, "opacity": 0.35},
    "majority": {"color": SOFT, **DOTTED},
}
Y: Chart = {"field": "value", "type": "quantitative", "title": "held-out accuracy", "scale": {"domain": [0, 1]}}
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
    templates = environment(
        Path(__file__).parent, number=lambda value: "–" if value is None or not math.isfinite(value) else f"{value:.3g}"
    )
    page = templates.get_template("probes.html.j2").render(
        manifest=run.manifest,
        probes=as_svg(chart),
        best=best(run.rows).to_dicts(),
        undefined=_undefined(run.rows),
        gap=as_svg(curves_chart(run.rows, ["modality_gap", "modality_gap_floor"], "image and text", "state of the decoder")),
        geometry=[
            (said, as_svg(curves_chart(run.rows, [name], "tower", axis_of(name))))
            for name, said in measured_geometry(run.rows).items()
        ],
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
    found = lost.group_by("group", "tokens", "note", maintain_order=True).agg(pl.col("layer").sort())
    return [f"{group}, {tokens}, state {spans(layers)}: {note}" for group, tokens, note, layers in found.iter_rows()]


def probe_chart(run: store.Run) -> Chart:
    """A panel for each tag: the tower's states, then the decoder's; accuracy with its interval, and what it is read against."""
    told, tags = run.manifest["probe"], run.manifest["probe"]["tags"]
    last = -AFTER if told["layers"] is None else told["layers"]
    shown = run.rows.filter(pl.col("measure").str.starts_with("probe_") & pl.col("value").is_not_nan()).with_columns(
        at=pl.when(pl.col("tokens") == "tower").then("layer").otherwise(pl.col("layer") + last + AFTER)
    )
    x = _x(last, run.manifest["model"]["blocks"] + last + AFTER)
    marks = _places(x, last, told["feeds"])
    panels = [
        {"layer": [*_panel(shown.filter(pl.col("group") == tag), x), *marks], "width": WIDTH, "height": HEIGHT, "title": tag}
        for tag in tags
    ]
    return {"vconcat": [{"layer": _legend(), "width": WIDTH, "height": 16}, *panels], "spacing": 14}


def _x(last: int, end: int) -> Chart:
    """last: the tower's last state. end: the place of the decoder's."""
    label = f"datum.value <= {last} ? datum.value : datum.value - {last + AFTER}"
    step = 1 + end // 40
    places = [*range(0, last + 1, step), *range(last + AFTER, end + 1, step)]
    title = "state of the vision tower, then of the decoder (0: what the projector gives)" if last >= 0 else "state of the decoder"
    return {
        "field": "at",
        "type": "quantitative",
        "title": title,
        "scale": {"domain": [0, end], "nice": False, "padding": 8},
        "axis": {"labelExpr": label, "values": places},
    }


def _panel(rows: pl.DataFrame, x: Chart) -> list[Chart]:
    """Of each kind of token the band of shuffled labels, the majority, the accuracy; and what the question gives away."""
    layers: list[Chart] = []
    for tokens, colour in (("tower", IMAGE), ("image", IMAGE), ("last", LAST)):
        own = rows.filter(pl.col("tokens") == tokens).sort("at")
        if own.height:
            control, common, accuracy = (own.filter(pl.col("measure") == f"probe_{m}") for m in ("control", "majority", "accuracy"))
            ends = {"x": x, "y": {**Y, "field": "low"}, "y2": {"field": "high"}}
            layers += [
                _layer(control, {"type": "area", "color": GREY, "opacity": 0.25}, ends),
                _layer(common, {"type": "line", "color": SOFT, **DOTTED}, {"x": x, "y": Y}),
                _layer(accuracy, {"type": "area", "color": colour, "opacity": 0.16}, ends),
                _layer(accuracy, {"type": "line", "color": colour, "point": {"size": 28, "color": colour}}, {"x": x, "y": Y}),
            ]
    question = rows.filter((pl.col("tokens") == "question") & (pl.col("measure") == "probe_accuracy"))
    if question.height:
        after = {"x": {**x, "field": "at"}, "x2": {"field": "end"}, "y": Y}
        whole = question.with_columns(end=pl.lit(x["scale"]["domain"][1]))
        layers.append(_layer(whole, {"type": "rule", "color": LAST, **DASHED}, after))
    nothing = {"data": {"values": [{}]}, "mark": {"type": "text", "text": "undefined: the page says why", "color": SOFT}}
    return layers or [nothing]


def _places(x: Chart, last: int, feeds: int | None) -> list[Chart]:
    """Where the tower ends, and which of its states the projector reads."""
    found = [] if last < 0 else [_rule(x, last + AFTER / 2, {})]
    if feeds is not None and feeds != last:
        text = {"type": "text", "align": "right", "dx": -4, "baseline": "bottom", "color": SOFT, "fontSize": 11}
        place = pl.DataFrame({"at": [feeds], "value": [0.02]})
        found += [_rule(x, feeds, DASHED), _layer(place, {**text, "text": "projector reads this"}, {"x": x, "y": Y})]
    return found


def _rule(x: Chart, at: float, dash: Chart) -> Chart:
    return _layer(pl.DataFrame({"at": [at]}), {"type": "rule", "color": "#b0b0b0", **dash}, {"x": x})


def _legend() -> list[Chart]:
    found: list[Chart] = []
    for k, (words, mark) in enumerate(LEGEND.items()):
        left = 135 * k
        place = {"x": {"value": left}, "x2": {"value": left + 18}, "y": {"value": 8}}
        text = {"type": "text", "align": "left", "baseline": "middle", "fontSize": 11, "color": SOFT, "text": words}
        found.append(_layer(ONE, {"type": "rule", "strokeWidth": 2, **mark}, place))
        found.append(_layer(ONE, text, {"x": {"value": left + 23}, "y": {"value": 8}}))
    return found


def curves_chart(rows: pl.DataFrame, measures: list[str], tokens: str, axis: str) -> Chart:
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
    for colour, name in zip((IMAGE, GREY), measures, strict=False):
        own = chosen.filter((pl.col("measure") == name) & pl.col("value").is_not_nan()).sort("layer")
        ends = own.drop_nulls(["low", "high"])
        ribbon = {"type": "area", "color": colour, "opacity": 0.18}
        layers += [_layer(ends, ribbon, {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}})] if ends.height else []
        layers.append(_layer(own, {"type": "line", "color": colour, "point": {"size": 24, "color": colour}}, {"x": x, "y": y}))
    return {"layer": layers, "width": 330, "height": 170}


def measured_geometry(rows: pl.DataFrame) -> dict[str, str]:
    measured = set(rows.filter((pl.col("tokens") == "tower") & pl.col("value").is_not_nan())["measure"])
    return {name: said for name, said in GEOMETRY.items() if name in measured}


def axis_of(measure: str) -> str:
    return "layer of the tower (state t to t + 1)" if measure == "linearity" else "state of the tower"


def _layer(frame: pl.DataFrame, mark: Any, encoding: Chart) -> Chart:
    return {"data": {"values": frame.to_dicts()}, "mark": mark, "encoding": encoding}
