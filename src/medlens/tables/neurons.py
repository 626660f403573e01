"""What `medlens neurons` writes besides."""

from __future__ import annotations

from typing import Any

import polars as pl

COLUMNS: dict[str, dict[str, Any]] = {
    "neurons": {  # units ranked by what a word would lose without them, best first
        "concept": pl.String,
        "rank": pl.Int32,  # by `score`
        "layer": pl.Int32,  # the block
        "unit": pl.Int32,
        "score": pl.Float64,  # gradient x activation, over all tokens, for the word's log-odds; mean where it is true
        "score_low": pl.Float64,
        "score_high": pl.Float64,
        "contrast": pl.Float64,  # that, less the mean where it is false
        "contrast_low": pl.Float64,
        "contrast_high": pl.Float64,
        "test_score": pl.Float64,  # the same on the other half of the images
        "test_score_low": pl.Float64,
        "test_score_high": pl.Float64,
        "test_contrast": pl.Float64,
        "test_contrast_low": pl.Float64,
        "test_contrast_high": pl.Float64,
        "image": pl.Float64,  # the part of `score` that comes from image tokens
        "direct": pl.Float64,  # activation x (what it writes . the word's row of the head), where the word is predicted
    },
    "effects": {  # of changing units, on test images
        "concept": pl.String,
        "of": pl.String,  # top (1 % of all units), dose (another share), unit (one), others (top, on images of other words), heads
        "unit": pl.String,  # "12.431", of a single one
        "units": pl.Int32,
        "change": pl.String,  # zero, mean, resample, double, put in
        "word": pl.String,  # whose log-odds
        "true": pl.Boolean,  # on images of which that word is true, or false
        "before": pl.Float64,  # its mean log-odds before
        "value": pl.Float64,  # how they change, with its interval
        "low": pl.Float64,
        "high": pl.Float64,
        "said_before": pl.Float64,  # share of samples to which the word is the likeliest answer
        "said_after": pl.Float64,
        "images": pl.Int32,
        "random": pl.Float64,  # the same for as many units of the same layers, drawn at random: mean
        "random_most": pl.Float64,  # and the one draw that does most
        "draws": pl.Int32,
        "p": pl.Float64,  # how likely random units do as much
        "beyond": pl.Float64,  # what the units do beyond that draw, in the expected direction, and the interval's lower end
        "beyond_low": pl.Float64,
        "note": pl.String,
    },
    "cards": {  # single units, looked at
        "concept": pl.String,
        "layer": pl.Int32,
        "unit": pl.Int32,
        "verdict": pl.String,  # multimodal, visual only, textual only, neither image nor text, not causal
        "raises": pl.List(pl.String),  # the words that it writes, most first
        "lowers": pl.List(pl.String),
        "iou": pl.Float64,  # of its masks with the word's regions, on test images
        "iou_best": pl.Float64,  # what cells can reach
        "iou_ratio": pl.Float64,
        "iou_low": pl.Float64,
        "iou_high": pl.Float64,
        "iou_random": pl.Float64,  # ratio of units of the same layer drawn at random: their mean
        "quantile": pl.Float64,  # above which patches are in the mask
        "text": pl.Float64,  # activation at the word in texts without image, and the mean at other words
        "text_others": pl.Float64,
        "text_p": pl.Float64,
        "domains": pl.List(pl.String),
        "active": pl.List(pl.Float64),  # of each domain, the share of image tokens at which its gate is open
        "entropy": pl.Float64,  # of these, in nats
        "images": pl.List(pl.String),  # of the test half, where it is most active
        "patches": pl.List(pl.Int32),  # and the patch of each
        "pictures": pl.List(pl.String),  # relative to the run
        "note": pl.String,
    },
    "heads": {  # attention heads, on test images
        "concept": pl.String,
        "layer": pl.Int32,  # the block
        "head": pl.Int32,
        "share": pl.Float64,  # of its attention that goes to image tokens, from the token that predicts; where the word is true
        "share_low": pl.Float64,
        "share_high": pl.Float64,
        "text_share": pl.Float64,  # the same from the question's tokens behind the image
        "text_share_low": pl.Float64,
        "text_share_high": pl.Float64,
        "discovery": pl.Float64,  # `patch_in` on discovery images
        "rank": pl.Int32,  # by that
        "top": pl.Boolean,  # whether it is among those that are patched together: rows "heads" of `effects`
        "gap": pl.Float64,  # log-odds with the image, less those with another one of which the word is false
        "patch_in": pl.Float64,  # change of the log-odds with the other image, the head as with the image
        "patch_in_low": pl.Float64,
        "patch_in_high": pl.Float64,
        "patch_in_share": pl.Float64,  # of the gap; null where the gap's interval is not above 0
        "patch_out": pl.Float64,  # change of the log-odds with the image, the head as with the other image
        "patch_out_low": pl.Float64,
        "patch_out_high": pl.Float64,
        "patch_out_share": pl.Float64,
        "images": pl.Int32,
        "note": pl.String,
    },
}
