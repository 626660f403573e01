"""The report of a study that is not finished: what its folder `NAME.part` holds so far. With `--watch` it is written after every
block, and loads itself again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from medlens import store
from medlens.errors import BadRun
from medlens.report.page import Live, render
from medlens.store import TABLES, Run
from medlens.types import Answer
from medlens.unfinished import BEGUN, noted_in, written_in

REFRESH = 5  # seconds
PICTURES = 60  # kept for it


def write(part: Path, refresh: int = REFRESH) -> Path:
    """Write `report.html` into the folder of an unfinished study, whole or not at all; return its path. Raises BadRun."""
    run, said = open_unfinished(part)
    home = part.name.removesuffix(".part")
    fresh, page = part / "report.html.new", part / "report.html"
    store.write(fresh, render(run, live=Live(said, home, refresh)))
    return fresh.replace(page)


def open_unfinished(part: Path) -> tuple[Run, str]:
    """The run as far as it is, and how far that is, in words. Raises BadRun where nothing of it can be shown."""
    if not (part / BEGUN / "manifest.json").exists():
        raise BadRun(f"{part} is no study that was begun, or was begun by an earlier medlens: repeat its command, which goes on")
    run = store.open_run(part / BEGUN)
    noted, (said, _) = noted_in(part), written_in(part)
    found = noted.get("found", {})
    for name in TABLES:
        if not (run.path / f"{name}.parquet").exists() or name in found:
            run.__dict__[name] = pl.DataFrame(found.get(name, []), schema=TABLES[name], orient="row")
    run.__dict__["answers"] = _told(run.samples, said)
    return run, _said(run.manifest, noted, len(said))


def _told(samples: pl.DataFrame, said: list[Answer]) -> pl.DataFrame:
    """As the table `answers`, of those that are written."""
    records = []
    for sample, answer in zip(samples.to_dicts(), said, strict=False):
        true = sample["answer"]
        correct = None if true is None else answer.strip().casefold() == true.strip().casefold()
        records.append(
            {"sample": sample["sample"], "answer": str(answer), "logprob": sum(answer.logprobs), "tokens": len(answer.ids),
             "ended": answer.ended, "correct": correct}
        )  # fmt: skip
    return pl.DataFrame(records, schema=TABLES["answers"])


def _said(manifest: dict[str, Any], noted: dict[str, Any], answers: int) -> str:
    blocks, samples = manifest["model"]["blocks"], manifest["data"]["samples"]
    if not noted:
        return f"{answers:,} of {samples:,} answers are written, and no block is passed yet."
    passed = min(noted["state"], blocks)
    return f"{passed} of {blocks} blocks are passed."
