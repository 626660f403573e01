"""The words that units write, as the report shows them: a table for each block, and the published ones beside it."""

from __future__ import annotations

from typing import Any

import polars as pl

from medlens import published
from medlens.medical import kind_of
from medlens.store import Run

TITLES = {
    "published": "As the published study has it: gate x gradient of the sum of all logits, decoded by the bare head",
    "sound": "Soundly: the unit's activation x gradient of the log-probability of the word said, decoded behind the norm's weight",
}


def unit_words(run: Run) -> list[dict[str, Any]]:
    """For each protocol its title and its blocks, each with the most frequent words; empty where none were counted (and of a run
    from before there were any)."""
    if not (run.path / "unit_words.parquet").exists():
        return []
    found, of_study = run.unit_words, printed(run)
    return [
        {"title": TITLES[protocol], "blocks": _blocks(found.filter(pl.col("protocol") == protocol), beside)}
        for protocol, beside in (("published", of_study), ("sound", {}))
        if protocol in set(found["protocol"])
    ]


def _blocks(words: pl.DataFrame, printed: dict[int, dict[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "block": layer,
            "images": mine["images"].max(),
            "notes": sorted({note for note in mine["note"] if note}),
            "words": [
                row | {"value": row["count"], "kinds": ", ".join(sorted(kind_of(row["word"])))}
                for row in mine.sort("count", descending=True, maintain_order=True).to_dicts()
            ],
            "printed": printed.get(layer, {}),  # pyright: ignore[reportArgumentType, reportCallIssue]
        }
        for (layer,), mine in words.group_by("layer", maintain_order=True)
    ]


def printed(run: Run) -> dict[int, dict[str, str]]:
    """What the study printed, by layer and image, where the run's model is the one that was studied."""
    found: dict[int, dict[str, str]] = {}
    if published.for_run(run) is None:
        return found
    for (layer, image), mine in published.words().group_by("layer", "image", maintain_order=True):
        said = ", ".join(f"{word} {count}" for word, count in mine.select("word", "count").iter_rows())
        found.setdefault(layer, {})[image] = said  # pyright: ignore[reportArgumentType]
    return found
