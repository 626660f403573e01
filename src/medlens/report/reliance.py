"""The page of `medlens reliance`, from the run alone, for a reader who is no engineer: lights first, then what they stand on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

from medlens import store
from medlens.pages import environment
from medlens.phantom.questions import is_foreign
from medlens.report.confidence import POINTS, confidence_section
from medlens.report.consistency import WORDS, consistency_section
from medlens.report.flow import flow_section
from medlens.report.lights import FEWEST, MOST, RESTS, lights, reservations, verdict

SWAPS = {
    "blank": "a blank image",
    "noise": "noise",
    "shuffled": "its own image, cut up and shuffled",
    "other": "another patient's, with another answer",
    "alike": "another patient's, same organ and modality",
}
LISTED, LEAST = 12, 0.001  # answers shown; numbers below this are shown as such


def write_reliance(folder: Path) -> None:
    """Write `report.html`. Everything that comes from data or model is escaped."""
    run = store.open_run(folder)
    templates = environment(Path(__file__).parent, number=_number, percent=_percent, share=_share)
    page = templates.get_template("reliance.html.j2").render(
        manifest=run.manifest, verdict=verdict(run), reservations=reservations(run),
        foreign=is_foreign(run.manifest["model"]["name"], run.manifest["data"]["name"]), lights=lights(run),
        swaps=_swaps(run), others=_others(run), gated=_gated(run),
        bound=run.gates["bound"][0], shared=_shared(run), rule={"rests": RESTS, "most": MOST, "fewest": FEWEST},
        consistency=consistency_section(run.consistency),
        confidence=confidence_section(run.calibration, run.confidence) if run.confidence.height else None,
        kinds=WORDS, withheld=POINTS, shortcuts=run.shortcuts.to_dicts(), flow=flow_section(run.flow) if run.flow.height else None,
    )  # fmt: skip
    store.write(folder / "report.html", page)


def _shared(run: store.Run) -> dict[str, Any]:
    return run.reliance_by.filter(by="all", measure="rests").to_dicts()[0]


def _swaps(run: store.Run) -> list[dict[str, Any]]:
    """Of each kind of swap, over all samples, what it did."""
    frame = run.reliance_by.filter(by="all")
    found = []
    for kind, words in SWAPS.items():
        own = {row["measure"]: row for row in frame.filter(swap=kind).to_dicts()}
        if own:
            found.append({"words": words, **own})
    return found


def _others(run: store.Run) -> list[tuple[str, list[dict[str, Any]]]]:
    """Of each field but the question type (organ, modality, ...), the share of answers that rest on the image."""
    frame = run.reliance_by.filter(~pl.col("by").is_in(["all", "question_type"]), measure="rests")
    return [(part["by"][0], part.to_dicts()) for part in frame.partition_by("by", maintain_order=True)]


def _gated(run: store.Run) -> list[dict[str, Any]]:
    """The first answers that do not depend on the image, with their questions."""
    gated = run.gates.filter(~pl.col("rests")).join(run.samples, on="sample").join(run.answers, on="sample", suffix="_said")
    return gated.head(LISTED).to_dicts()


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3g}" if value == 0 or abs(value) >= LEAST else f"below {LEAST:g}"


def _share(row: dict[str, Any]) -> str:
    """A share with its interval: "93 % (88 to 97)"."""
    if row["low"] is None:
        return _percent(row["value"])
    return f"{_percent(row['value'])} ({100 * row['low']:.0f} to {100 * row['high']:.0f})"


def _percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"
