"""The words that the lens reads most often at the image's tokens, as the report shows them: a table for each of a few states."""

from __future__ import annotations

from typing import Any

import polars as pl

from medlens.report.lens import plain, spread
from medlens.report.unit_words import printed
from medlens.store import Run

STATES = 5  # shown, at most; with those that the published study printed


def lens_words(run: Run) -> list[dict[str, Any]]:
    """Of a few states from the first to the last the most frequent words; empty where none were counted (and of a run from before
    there were any)."""
    if not (run.path / "lens_words.parquet").exists() or run.lens_words.is_empty():
        return []
    of_study = printed(run)
    shown = sorted({*spread(run.manifest["model"]["blocks"], STATES), *of_study})
    found = run.lens_words.filter(pl.col("layer").is_in(shown))
    return [
        {
            "layer": layer,
            "images": mine["images"].max(),
            "expected": mine["expected"].max(),
            "notes": sorted({note for note in mine["note"] if note}),
            "words": [row | {"value": row["count"], "word": plain(row["word"])} for row in mine.to_dicts()],
            "printed": of_study.get(layer, {}),  # pyright: ignore[reportArgumentType, reportCallIssue]
        }
        for (layer,), mine in found.group_by("layer", maintain_order=True)
    ]
