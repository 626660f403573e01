"""What `medlens.thin` gives."""

from __future__ import annotations

from typing import Any

import polars as pl

COLUMNS: dict[str, dict[str, Any]] = {
    "thinned": {  # what is left of the answers when something goes; all of images that had no say in what goes
        "what": pl.String,  # image tokens "dropped" or "merged", or MLP "units" zeroed
        "by": pl.String,  # "attention" (the least), "written" (the least), or "random"
        "after": pl.Int32,  # the block behind which tokens go; null for units
        "share": pl.Float64,  # of all image tokens, or of all units, that goes
        "kept": pl.Float64,  # share of answers that stay what they were, in random order a mean over draws, with its interval
        "low": pl.Float64,
        "high": pl.Float64,
        "worst": pl.Float64,  # the same of the draw that keeps least, and of the one that keeps most; the interval is of their mean
        "best": pl.Float64,
        "over_random": pl.Float64,  # kept less what is kept in random order, question by question; null for random order itself
        "over_low": pl.Float64,
        "over_high": pl.Float64,
        "correct": pl.Float64,  # share of answers that are the true one; null where none is known, with its interval
        "correct_low": pl.Float64,
        "correct_high": pl.Float64,
        "n": pl.Int64,  # questions
        "images": pl.Int64,  # or patients, where the data name them
        "draws": pl.Int64,  # random orders; 1 for others
        "note": pl.String,
    },
}
