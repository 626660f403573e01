"""The page of a study: what its templates are given, and how they are rendered."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import polars as pl
from markupsafe import Markup

from medlens import store
from medlens.errors import BadRun
from medlens.jsontext import parse
from medlens.pages import environment
from medlens.phantom.questions import OWN, is_foreign, is_phantom
from medlens.report.album import Album
from medlens.report.drawing import STYLE
from medlens.report.figures import Figures
from medlens.report.first import right_by_type, tiles
from medlens.report.lens import lens_of
from medlens.report.methods import bibtex, cited, notes_of
from medlens.report.overlays import maps_of, pictures_of
from medlens.report.parts import massive, verdicts
from medlens.report.subgroups import fields_of
from medlens.report.unit_words import unit_words
from medlens.report.unknown import unknown
from medlens.report.words import lens_words
from medlens.viewer.embed import fragment

SHOWN, STRIP = 60, 12  # samples with their picture, all are in the tables; pictures on the first screen
PAGES = (  # instrument, title, its sections
    ("geometry", "Geometry", ("linear", "spread", "dimensions", "own")),
    ("contextualization", "Contextualization", ("contextual",)),
    ("lens", "Lens", ("lens",)),
)
NULLS = {
    "null: pairs": "rows paired at random (pairs)",
    "null: weights": "weights drawn anew (weights)",
    "null: noise": "noise in place of the images (noise)",
}
GLYPHS = {"right": "✓", "wrong": "✗", "open": "?"}


class Live(NamedTuple):
    """Of a study that is not finished. said: how far it is; home: name of the folder of the run to be; refresh: seconds after which
    the page loads itself again, 0 for never."""

    said: str
    home: str
    refresh: int = 0


def render(run: store.Run, figures: Figures | None = None, live: Live | None = None) -> str:
    """The report as one string. Everything that comes from data or model is escaped."""
    figures = figures or Figures(run)
    templates = environment(Path(__file__).parent / "study", number=_number, with_interval=_with_interval)
    script = (Path(__file__).parent / "study" / "linked.js").read_text(encoding="utf-8")
    viewer = None if live else fragment(run)
    context = {**_about(run, live), **_measured(run, figures), **_shown(run)}
    try:
        return templates.get_template("report.html.j2").render(
            **context,
            live=live,
            classes=Markup(STYLE),
            viewer=viewer,
            script=Markup(script),
            script_hashes=Markup(" ".join([f"'{_digest(script)}'", *([viewer.script_hash] if viewer else [])])),
            glyphs=GLYPHS,
            null_words=NULLS,
            mib=2**20,
        )
    except jinja2.UndefinedError as e:
        raise BadRun(f"{run.path}/manifest.json lacks what a report says: {e}") from e


def _digest(script: str) -> str:
    """Of a script that the page's policy lets run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _about(run: store.Run, live: Live | None) -> dict[str, Any]:
    """Who was studied, and how; what is not known is said of a finished run."""
    notes = notes_of(run)
    keys = list(dict.fromkeys(key for note in notes for key in note.keys))
    return {
        "manifest": run.manifest,
        "title": _title(run),
        "warnings": _warnings(run),
        "facts": _facts(run.manifest),
        "given": run.manifest["plan"]["answers"] == "given",
        "tiny": "tiny" if run.manifest["data"]["name"] == "phantom" else "",
        "gaps": [] if live else unknown(run),
        "notes": notes,
        "cited": cited,
        "bibtex": bibtex(keys),
    }


def _measured(run: store.Run, figures: Figures) -> dict[str, Any]:
    """What the instruments found."""
    claims = verdicts(run.claims, figures.names)
    units = unit_words(run)
    return {
        "claims": claims,
        "tiles": tiles(run, claims),
        "pages": _pages(run, figures.sections(), bool(units)),
        "fields": fields_of(run.rows, figures.depth),
        "lens": lens_of(run),
        "massive": massive(run.massive),
        "unit_words": units,
        "lens_words": lens_words(run),
        "nulls": sorted({protocol for protocol in run.rows["protocol"] if protocol.startswith("null: ")}),
        "intervals": run.rows.filter(pl.col("low").is_finite()).height > 0,
        "scores": right_by_type(run),
    }


def _pages(run: store.Run, sections: list[dict[str, Any]], units: bool) -> list[dict[str, Any]]:
    """Instruments with what they found, in sections of charts, each with its anchor; the first of all says how to read a chart."""
    found, said = [], False
    for name, title, own in PAGES:
        mine = [part for part in sections if part["section"].name in own]
        for part in mine:
            part["first"], said = not said, True
            part["anchor"] = part["section"].name + "-charts" * (part["section"].name == name)
        if mine or (name == "geometry" and run.massive.height) or (name == "lens" and units):
            found.append({"name": name, "title": title, "sections": mine})
    return found


def _shown(run: store.Run) -> dict[str, Any]:
    """Pictures: of samples, and of maps."""
    samples = run.samples.head(SHOWN)
    own = samples["picture"].drop_nulls().unique(maintain_order=True).to_list()
    overlays = pictures_of(run)
    sources = run.samples.join(run.trust, on="sample", how="semi")["picture"].drop_nulls().to_list() if overlays else []
    album = Album(run.path, [*own, *overlays, *sources])
    shown = _samples(run, album)
    strip = [{"url": s["picture"], "name": f"image of sample {s['name']}"} for s in shown if s["picture"]][:STRIP]
    return {
        "album": album, "samples": shown, "strip": strip, "total": run.samples.height,
        "asked": sum(len(s["asked"]) for s in shown), "maps": maps_of(run, album),
    }  # fmt: skip


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
    if is_foreign(model["name"], data["name"]):
        found.append(
            "The model is the phantom: it was trained on drawn slices and nothing else, so its answers to these images "
            "mean nothing. The geometry of its hidden states is measured all the same, and is real."
        )
    if model["checks"] and model["checks"]["image_effect"] == 0:
        found.append("This model is image-blind: two different images gave the same logits when it was loaded.")
    if data["skipped"]:
        found.append(f"Left out, because they could not be read: {len(data['skipped'])} (listed at the end).")
    return found


def _samples(run: store.Run, album: Album) -> list[dict[str, Any]]:
    """The first samples by image: the picture once, with all its questions."""
    answers = run.answers.rename({"answer": "said"})
    joined = run.samples.head(SHOWN).join(answers, on="sample", how="left", maintain_order="left")
    images: dict[str, dict[str, Any]] = {}
    for record in joined.to_dicts():
        key = record["picture"] or record["sample"]
        shown = images.setdefault(key, {"picture": album.url(record["picture"]), "name": _name(record), "tags": {}, "asked": []})
        shown["tags"] |= _tags(record)
        shown["asked"].append(record)
    return list(images.values())


def _tags(record: dict[str, Any]) -> dict[str, Any]:
    try:
        return {name: value for name, value in parse(record["tags"]).items() if value is not None}
    except (ValueError, TypeError, AttributeError) as e:
        raise BadRun(f"samples.parquet is damaged: the tags of sample {record['sample']} are no names with values") from e


def _name(record: dict[str, Any]) -> str:
    """What a reader finds the image by: its file, else what the data call it."""
    return record["file"] if record["file"] not in (None, "in memory") else record["image"]
