"""What `medlens prune` writes."""

from __future__ import annotations

from typing import Any

import polars as pl

COLUMNS: dict[str, dict[str, Any]] = {
    "pruned": {  # models without some blocks, one a row, judged on test images
        "rule": pl.String,  # chose the blocks, on discovery images; random, magnitude: controls; none: the whole model
        "how": pl.String,  # drop; linear: the least-squares map of each run of blocks in its place; whole
        "draw": pl.Int32,  # of random ones, else null
        "budget": pl.Float64,  # share of the blocks that went
        "blocks": pl.List(pl.Int32),  # those that went
        "chosen": pl.Boolean,  # by the rule that did best at this budget on discovery images
        "discovery_kept": pl.Float64,  # share of answers kept there; null for random ones, which were not tried there
        "discovery_kl": pl.Float64,
        "kept": pl.Float64,  # share of answers that are the whole model's, word for word, with its interval
        "low": pl.Float64,
        "high": pl.Float64,
        "accuracy": pl.Float64,  # share of right answers, of those whose truth is known
        "accuracy_low": pl.Float64,
        "accuracy_high": pl.Float64,
        "log_odds": pl.Float64,  # of the whole model's answer, mean
        "kl": pl.Float64,  # from the whole model's next words to these, mean over answers, nats; with its interval
        "kl_low": pl.Float64,
        "kl_high": pl.Float64,
        "follows": pl.Float64,  # of answers that another image changes in the whole model, the share that it changes here
        "follows_low": pl.Float64,
        "follows_high": pl.Float64,
        "parameters": pl.Int64,  # of the whole model with tower, maps among them
        "flops": pl.Float64,  # of decoder and head for one prompt of mean length
        "seconds": pl.Float64,  # measured, of the chosen ones: one prompt, median; null for a streamed model
        "bytes": pl.Int64,  # of the weights
        "n": pl.Int64,  # questions
        "images": pl.Int64,  # or patients, where the data name them
        "note": pl.String,  # what limits a map
    },
}
