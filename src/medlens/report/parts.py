"""Parts of the report that are tables: the verdicts on claims, and the massive activations. And how a picture gets into it."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl

from medlens.curves import spans
from medlens.errors import BadRun
from medlens.picture import within
from medlens.report.readings import BEHIND, FLOORS, READINGS, SCALES

CLASSES = {"supported": "right", "not supported": "wrong"}  # what else is said ("cannot be said") is neither
LISTED = 20
LONGEST = 100  # characters of a name in an error


def verdicts(claims: pl.DataFrame, shown: Collection[str]) -> list[dict[str, Any]]:
    """Each sentence once, with the claims it was read as. shown: measures that have a chart to link to.

    A claim without a sentence is the user's own, and is its own sentence.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in claims.iter_rows(named=True):
        sentence = row["sentence"] or row["claim"]
        part = row | {"class": CLASSES.get(row["verdict"], "open"), "charts": _charts(row["claim"], shown)}
        found.setdefault(sentence, {"sentence": sentence, "own": not row["sentence"], "parts": []})["parts"].append(part)
    return list(found.values())


def _charts(claim: str, shown: Collection[str]) -> list[tuple[str, str]]:
    """The anchors and titles of the charts of the measures that a claim names: "anisotropy/text below 0.2"."""
    found = {}
    for name in re.findall(r"\w+", claim):
        home = _home(name)
        if home in shown:
            found[home] = READINGS[home].title if home in READINGS else home
    return list(found.items())


def _home(measure: str) -> str:
    """The chart that shows a measure: its own, or the one in which it stands behind another or is its null."""
    if measure in SCALES and measure not in READINGS:
        return "scales"
    if measure in FLOORS:
        return FLOORS[measure]
    if measure in BEHIND:
        return next(name for name, reading in READINGS.items() if measure in reading.behind)
    return measure


def massive(found: pl.DataFrame) -> dict[str, Any] | None:
    """The columns and tokens that carry massive activations, the most frequent first; None where there are none."""
    if found.is_empty():
        return None
    grouped = found.group_by("tokens", "token", "column", maintain_order=True).agg(
        samples=pl.col("sample").n_unique(),
        layers=pl.col("layer").unique().sort(),
        positions=pl.col("position").unique().sort(),
        largest=pl.col("value").sort_by(pl.col("value").abs(), descending=True).first(),
        at=pl.col("layer").sort_by(pl.col("value").abs(), descending=True).first(),
    )
    ordered = grouped.sort("samples", pl.col("largest").abs(), descending=True)
    listed = [
        row | {"layers": spans(row["layers"]), "positions": spans(row["positions"])} for row in ordered.head(LISTED).to_dicts()
    ]
    return {
        "listed": listed,
        "total": grouped.height,
        "first": int(found["layer"].min()),  # pyright: ignore[reportArgumentType]
        "columns": sorted(found["column"].unique().to_list()),
        "samples": found["sample"].n_unique(),
    }


def inline(folder: Path, picture: str | None) -> str | None:
    """A picture of the run as a data URL. Raises BadRun for one that is not there, or lies outside of the run."""
    if picture is None:
        return None
    if (path := within(folder, picture)) is None:
        raise BadRun(f"{folder}: there is no picture {picture[:LONGEST]!r}, which samples name, in the run")
    kind = "png" if path.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
