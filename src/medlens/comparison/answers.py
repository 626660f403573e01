"""What became of the answers: how many two runs have in common, and how many are true in each."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from medlens.spread import clustered, jackknife_error, student
from medlens.store import Run

LEVEL = 0.05
SCHEMA = {
    "first": pl.String,
    "other": pl.String,
    **dict.fromkeys(("n", "images"), pl.Int64),  # questions, and of how many images (patients, where the data name them)
    **dict.fromkeys(("kept", "low", "high"), pl.Float64),  # share of answers that are the same but for case and outer spaces
    **dict.fromkeys(("correct", "other_correct"), pl.Float64),  # share that is true; null where no truth is known
    # of these, other - first, paired; no interval where all images differ alike
    **dict.fromkeys(("difference", "difference_low", "difference_high"), pl.Float64),
}


def answers_kept(names: tuple[str, str], first: Run, other: Run) -> dict[str, Any] | None:
    """One line for two runs: the columns of SCHEMA. None where their data differ, a run holds no answers, or they were given.

    Intervals are 95 %, clustered by image; of the difference by leaving out one image (or patient) at a time.
    """
    if not all((run.path / "answers.parquet").is_file() for run in (first, other)):
        return None
    if first.manifest["data"]["fingerprint"] != other.manifest["data"]["fingerprint"]:
        return None
    unit = pl.coalesce("patient", "image").alias("unit")
    said = first.samples.select("sample", unit).join(_said(first), on="sample").join(_said(other), on="sample", suffix="_other")
    if not said.height:
        return None
    units = said["unit"].to_list()
    kept, low, high = clustered((said["answer"] == said["answer_other"]).cast(pl.Float64).to_list(), units)
    known = said.drop_nulls(["correct", "correct_other"])
    return {
        "first": names[0], "other": names[1], "n": said.height, "images": len(set(units)), "kept": kept, "low": low, "high": high,
        "correct": known["correct"].mean(), "other_correct": known["correct_other"].mean(), **_difference(known),
    }  # fmt: skip


def words(line: dict[str, Any]) -> str:
    """The line as a sentence."""
    said = (
        f"{line['other']} keeps {100 * line['kept']:.1f} % of the answers of {line['first']} "
        f"({100 * line['low']:.1f} to {100 * line['high']:.1f}; {line['n']} questions, {line['images']} images)"
    )
    if line["correct"] is None:
        return said
    low, high = line["difference_low"], line["difference_high"]
    between = "" if low is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
    true = f"true are {100 * line['correct']:.1f} and {100 * line['other_correct']:.1f} %"
    return f"{said}; {true}: {100 * line['difference']:+.1f}{between}"


def _said(run: Run) -> pl.DataFrame:
    plain = pl.col("answer").str.strip_chars().str.to_lowercase()
    return run.answers.filter(pl.col("logprob").is_not_null()).select("sample", plain, "correct")


def _difference(known: pl.DataFrame) -> dict[str, float | None]:
    """Of the shares that are true."""
    found: dict[str, float | None] = dict.fromkeys(("difference", "difference_low", "difference_high"))
    if not known.height:
        return found
    gained = pl.col("correct_other").cast(pl.Int64) - pl.col("correct").cast(pl.Int64)
    sums = known.group_by("unit", maintain_order=True).agg(gained=gained.sum(), n=pl.len())
    of, n = sums["gained"].to_numpy(), sums["n"].to_numpy()
    found["difference"] = mean = float(of.sum() / n.sum())
    if len(of) > 1 and np.ptp(of / n) > 0:  # else its interval would have no width, and say too much
        half = float(student(len(of) - 1, LEVEL / 2) * jackknife_error((of.sum() - of) / (n.sum() - n)))
        found |= {"difference_low": mean - half, "difference_high": mean + half}
    return found
