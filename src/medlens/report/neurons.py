"""The page of `medlens neurons`, made from the run alone: effects with their controls, dose-response, and a card for each unit."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import polars as pl

from medlens import store
from medlens.pages import environment
from medlens.report.charts import SOFT, Chart, as_files, as_svg

TOP, GREY = "#0072B2", "#8a8a8a"  # Okabe-Ito
LISTED = 20
SAID = {
    "zero": "set to zero",
    "mean": "set to their mean",
    "resample": "as on another image, of which it is false",
    "double": "doubled",
    "put in": "as on another image, of which it is true (on images of which it is false)",
}
PATCHED = {
    "put in": "put into the run of an image of which it is false",
    "resample": "as on an image of which it is false, in the run of one of which it is true",
}
MARKS = "▁Ġ"


def write_neurons(folder: Path) -> None:
    """Write `report.html`, and dose-response as PNG and SVG. Everything that comes from data or model is escaped."""
    run = store.open_run(folder)
    sections = [_section(run, concept) for concept in run.manifest["neurons"]["concepts"]]
    for number, section in enumerate(sections):
        for suffix, content in as_files(section["chart"]).items():
            store.write(folder / f"dose-{number}.{suffix}", content)
        section["chart"] = as_svg(section["chart"])
        if section["maps"] is not None:
            for suffix, content in as_files(section["maps"]).items():
                store.write(folder / f"heads-{number}.{suffix}", content)
            section["maps"] = as_svg(section["maps"])
    templates = environment(Path(__file__).parent, number=_number, plain=lambda word: word.lstrip(MARKS) or word)
    page = templates.get_template("neurons.html.j2").render(manifest=run.manifest, sections=sections, said=SAID, patched=PATCHED)
    store.write(folder / "report.html", page)


def best(run: store.Run) -> pl.DataFrame:
    """Of each card the verdict, with what it stands on."""
    alone = run.effects.filter(pl.col("of") == "unit").select("concept", "unit", "change", "value", "high", "p")
    cards = run.cards.with_columns(at=pl.format("{}.{}", "layer", "unit"))
    for change in ("zero", "resample"):
        own = alone.filter(pl.col("change") == change).select("concept", at="unit", **{change: "value", f"{change}_p": "p"})
        cards = cards.join(own, on=["concept", "at"], how="left", maintain_order="left")
    return cards.select(
        "concept", unit="at", verdict="verdict", zero="zero", zero_p="zero_p", resample="resample", resample_p="resample_p",
        text_p="text_p", iou_ratio="iou_ratio", iou_random="iou_random",
    )  # fmt: skip


def _section(run: store.Run, concept: dict[str, Any]) -> dict[str, Any]:
    word = concept["word"]
    effects = run.effects.filter(pl.col("concept") == word)
    ranked = run.neurons.filter(pl.col("concept") == word).sort("rank")
    heads = run.heads.filter(pl.col("concept") == word).sort("rank", "layer", "head")
    return {
        "concept": concept,
        "known": run.manifest["neurons"]["known"][word],
        "gate": run.manifest["neurons"]["gate"][word],
        "top": effects.filter(pl.col("of") == "top").to_dicts(),
        "others": effects.filter(pl.col("of") == "others").to_dicts(),
        "chart": dose_chart(effects),
        "cards": [_card(run, card, effects) for card in run.cards.filter(pl.col("concept") == word).to_dicts()],
        "ranked": ranked.head(LISTED).to_dicts(),
        "heads": heads.head(LISTED).to_dicts(),
        "together": effects.filter(pl.col("of") == "heads").to_dicts(),
        "maps": head_maps(heads) if heads.height else None,
    }


def _card(run: store.Run, card: dict[str, Any], effects: pl.DataFrame) -> dict[str, Any]:
    name = f"{card['layer']}.{card['unit']}"
    own = {row["change"]: row for row in effects.filter((pl.col("of") == "unit") & (pl.col("unit") == name)).to_dicts()}
    pictures = [
        {"src": _inline(run.path / path), "image": image, "patch": patch}
        for path, image, patch in zip(card["pictures"], card["images"], card["patches"], strict=True)
    ]
    place = run.neurons.filter(
        (pl.col("concept") == card["concept"]) & (pl.col("layer") == card["layer"]) & (pl.col("unit") == card["unit"])
    ).to_dicts()[0]
    domains = [(d, a, round(100 * a)) for d, a in zip(card["domains"], card["active"], strict=True)]
    most = math.log(len(domains)) if len(domains) > 1 else None
    return {**card, "name": name, "own": own, "shown": pictures, "place": place, "shares": domains, "entropy_max": most}


def dose_chart(effects: pl.DataFrame) -> Chart:
    """The change of log-odds by how many units are set to zero, with as many random ones."""
    rows = effects.filter(pl.col("of").is_in(["top", "dose"]) & (pl.col("change") == "zero") & pl.col("value").is_not_null())
    rows = rows.select("units", "value", "low", "high", "random", "random_most").sort("units")
    x: Chart = {"field": "units", "type": "quantitative", "title": "units set to zero", "scale": {"type": "log"}}
    x["axis"] = {"values": rows["units"].to_list(), "format": "d"}
    y: Chart = {"field": "value", "type": "quantitative", "title": "change of the word's log-odds"}
    layers = [
        _layer(rows, {"type": "area", "color": TOP, "opacity": 0.18}, x, {**y, "field": "low"}, {"y2": {"field": "high"}}),
        _layer(rows, {"type": "line", "color": TOP, "point": {"size": 40, "color": TOP}}, x, y),
        _layer(rows, {"type": "line", "color": GREY, "point": {"size": 30, "color": GREY}}, x, {**y, "field": "random"}),
        _layer(rows, {"type": "line", "color": GREY, "strokeDash": [4, 3]}, x, {**y, "field": "random_most"}),
        {"data": {"values": [{"value": 0}]}, "mark": {"type": "rule", "color": SOFT, "strokeWidth": 0.5}, "encoding": {"y": y}},
    ]
    return {"layer": layers, "width": 380, "height": 200}


def head_maps(heads: pl.DataFrame) -> Chart:
    """Blocks by heads: how much of a head's attention goes to the image, and what patching it restores."""
    share = {"scheme": "blues", "domain": [0, 1]}
    most = max((abs(value) for value in heads["patch_in"].drop_nulls()), default=0.0) or 1.0
    restored = {"scheme": "blueorange", "domain": [-most, most]}
    return {
        "hconcat": [
            _map(heads, "share", "share of its attention", share),
            _map(heads, "patch_in", "log-odds restored", restored),
        ],
        "resolve": {"scale": {"color": "independent"}},
    }


def _map(heads: pl.DataFrame, field: str, title: str, scale: Chart) -> Chart:
    side = max(4, min(28, 400 // (1 + max(heads["head"].max(), heads["layer"].max()))))  # pyright: ignore
    rows = heads.select("layer", "head", value=field).drop_nulls()
    axis = {"labelAngle": 0, "labelOverlap": True, "grid": False}
    color: Chart = {"field": "value", "type": "quantitative", "scale": scale, "title": None, "legend": {"format": ".2~g"}}
    x, y = (
        {"field": name, "type": "ordinal", "axis": axis, "title": said} for name, said in (("head", "head"), ("layer", "block"))
    )
    return {
        "data": {"values": rows.to_dicts()}, "mark": {"type": "rect", "stroke": "white"}, "title": title,
        "width": {"step": side}, "height": {"step": side}, "encoding": {"x": x, "y": {**y, "sort": "descending"}, "color": color},
    }  # fmt: skip


def _layer(rows: pl.DataFrame, mark: Chart, x: Chart, y: Chart, more: Chart | None = None) -> Chart:
    return {"data": {"values": rows.to_dicts()}, "mark": mark, "encoding": {"x": x, "y": y, **(more or {})}}


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"
