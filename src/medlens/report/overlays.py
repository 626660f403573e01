"""Maps in the report: beside each image what each method says of it, and whether that can be trusted."""

from __future__ import annotations

from typing import Any

import polars as pl

from medlens.report.album import Album
from medlens.report.first import there, trusted_by_method
from medlens.store import Run

SHOWN = 12  # samples with their maps, at most


def pictures_of(run: Run) -> list[str]:
    """The overlays that are shown."""
    return [name for _, mine in _samples(run) for name in mine["picture"].drop_nulls()] if there(run, "trust") else []


def maps_of(run: Run, album: Album) -> dict[str, Any] | None:
    """None of a run without maps. best: the method of the most trusted ones, by method, with intervals; leaderboard: methods by how
    well they lie on what is there, where that was measured."""
    if not there(run, "trust"):
        return None
    checks = run.checks if there(run, "checks") else None
    shown = [_sample(run, sample, mine, checks, album) for sample, mine in _samples(run)]
    board = run.leaderboard.filter(question_type="all", finding="all").to_dicts() if there(run, "leaderboard") else []
    return {"samples": shown, "total": run.trust["sample"].n_unique(), "methods": trusted_by_method(run), "leaderboard": board}


def _samples(run: Run) -> list[tuple[str, pl.DataFrame]]:
    return [(str(name), mine) for (name,), mine in run.trust.group_by("sample", maintain_order=True)][:SHOWN]


def _sample(run: Run, sample: str, mine: pl.DataFrame, checks: pl.DataFrame | None, album: Album) -> dict[str, Any]:
    asked = run.samples.filter(pl.col("sample") == sample).to_dicts()
    said = run.answers.filter(pl.col("sample") == sample)["answer"].to_list()
    maps = []
    for row in mine.sort("map").to_dicts():
        own = [] if checks is None else checks.filter(sample=sample, method=row["method"]).to_dicts()
        failed = [check for check in own if check["passed"] is False]
        maps.append({**row, "url": album.url(row["picture"]), "checks": own, "failed": failed})
    return {
        "sample": sample,
        "question": asked[0]["question"] if asked else "",
        "answer": said[0] if said else None,
        "picture": album.url(asked[0]["picture"]) if asked else None,
        "maps": maps,
    }
