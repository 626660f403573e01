"""The report: one HTML file that needs nothing else, made from the run alone. Imports neither torch nor transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from medlens import store
from medlens.errors import BadRun
from medlens.phantom.questions import is_phantom
from medlens.report.charts import as_files
from medlens.report.figures import Figures
from medlens.report.lens import lens_of
from medlens.report.lines import COLOURS
from medlens.report.parts import inline, massive, verdicts
from medlens.report.subgroups import fields_of
from medlens.report.unit_words import unit_words
from medlens.report.words import lens_words

OWN = ("phantom", "phantom slices")  # names of data that the phantom was made for
SHOWN = 60  # samples with their picture; all are in the tables


def write_report(folder: Path) -> Path:
    """Write `report.html` and the charts (`charts/*.png`, `*.svg`) into a run folder. Returns the report's path."""
    run = store.open_run(folder)
    figures = Figures(run)
    for name in figures.names:
        if (chart := figures.file(name)) is not None:
            for kind, content in as_files(chart).items():
                store.write(folder / "charts" / f"{file_name(name)}.{kind}", content)
    store.write(run.report, render(run, figures))
    return run.report


def file_name(measure: str) -> str:
    """Of a chart: the measure's name, without what a file system may not like in a user's own."""
    return re.sub(r"[^\w.-]", "_", measure)


def render(run: store.Run, figures: Figures | None = None) -> str:
    """The report as one string. Everything that comes from data or model is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    environment.filters["with_interval"] = _with_interval
    figures = figures or Figures(run)
    try:
        return environment.get_template("report.html.j2").render(
            manifest=run.manifest,
            title=_title(run),
            warnings=_warnings(run),
            sections=figures.sections(),
            fields=fields_of(run.rows),
            lens=lens_of(run),
            massive=massive(run.massive),
            unit_words=unit_words(run),
            lens_words=lens_words(run),
            claims=verdicts(run.claims, figures.names),
            nulls=sorted({protocol for protocol in run.rows["protocol"] if protocol.startswith("null: ")}),
            intervals=run.rows.filter(pl.col("low").is_finite()).height > 0,
            scores=_scores(run),
            samples=_samples(run),
            total=run.samples.height,
            given=run.manifest["plan"]["answers"] == "given",
            facts=_facts(run.manifest),
            colours=COLOURS,
            mib=2**20,
        )
    except jinja2.UndefinedError as e:
        raise BadRun(f"{run.path}/manifest.json lacks what a report says: {e}") from e


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _with_interval(row: dict[str, Any] | None) -> str:
    """A row's value with its interval, where it has one."""
    if row is None:
        return _number(None)
    if row["low"] is None or row["low"] != row["low"]:
        return _number(row["value"])
    return f"{_number(row['value'])} ({_number(row['low'])} to {_number(row['high'])})"


def _title(run: store.Run) -> str:
    model, data = run.manifest["model"]["name"], run.manifest["data"]["name"]
    own = is_phantom(model) and data in OWN
    return f"{'the phantom' if model == 'phantom' else model} on {'its own slices' if own else data}"


def _facts(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """The numbers under the title."""
    model, data, cost = (manifest[part] for part in ("model", "data", "forecast"))
    counted = {"question": data["samples"], "image": data["images"], "block": model["blocks"], "parameter": model["parameters"]}
    saved = cost["tokens"] < cost["tokens_unpacked"]
    walked = f"tokens walked ({cost['tokens_unpacked']:,} before packing)" if saved else "tokens walked"
    facts = [(f"{n:,}", what + "s" * (n != 1)) for what, n in counted.items()]
    return [*facts, (f"{model['width']:,}", "wide"), (f"{cost['tokens']:,}", walked)]


def _warnings(run: store.Run) -> list[str]:
    """What must be known before anything else is believed."""
    model, data = run.manifest["model"], run.manifest["data"]
    found = []
    if is_phantom(model["name"]) and data["name"] not in OWN:
        found.append(
            "The model is the phantom: it was trained on drawn slices and nothing else, so its answers to these images "
            "mean nothing. The geometry of its hidden states is measured all the same, and is real."
        )
    if model["checks"] and model["checks"]["image_effect"] == 0:
        found.append("This model is image-blind: two different images gave the same logits when it was loaded.")
    if data["skipped"]:
        found.append(f"Left out, because they could not be read: {len(data['skipped'])} (listed at the end).")
    return found


def _scores(run: store.Run) -> list[dict[str, Any]]:
    """How many answers equal the true one, by question type."""
    known = run.samples.join(run.answers.drop("answer"), on="sample").filter(pl.col("correct").is_not_null())
    return (
        known.with_columns(pl.col("question_type").fill_null("all"))
        .group_by("question_type", maintain_order=True)
        .agg(right=pl.col("correct").sum(), n=pl.len())
        .to_dicts()
    )


def _samples(run: store.Run) -> list[dict[str, Any]]:
    """The first samples by image: the picture once, with all its questions."""
    answers = run.answers.rename({"answer": "said"})
    joined = run.samples.head(SHOWN).join(answers, on="sample", how="left", maintain_order="left")
    images: dict[str, dict[str, Any]] = {}
    for record in joined.to_dicts():
        key = record["picture"] or record["sample"]
        shown = images.setdefault(
            key, {"picture": inline(run.path, record["picture"]), "name": _name(record), "tags": {}, "asked": []}
        )
        shown["tags"] |= {k: v for k, v in json.loads(record["tags"]).items() if v is not None}
        shown["asked"].append(record)
    return list(images.values())


def _name(record: dict[str, Any]) -> str:
    """What a reader finds the image by: its file, else what the data call it."""
    return record["file"] if record["file"] not in (None, "in memory") else record["image"]
