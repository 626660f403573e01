"""What `medlens reliance` writes besides; and the importance of blocks."""

from __future__ import annotations

from typing import Any

import polars as pl

COLUMNS: dict[str, dict[str, Any]] = {
    "flow": {  # what it costs when attention is blocked along a path, in a window of blocks
        "path": pl.String,  # whose tokens are not seen, and by whose: "image to last"; see `medlens.walk.knockout`
        "begin": pl.Int32,  # the window's first block
        "end": pl.Int32,  # the one behind its last; windows are clipped at both ends of the model, and one holds all blocks
        "value": pl.Float64,  # change of the answer's log-odds, mean over samples, with its interval
        "low": pl.Float64,
        "high": pl.Float64,
        "relative_value": pl.Float64,  # change of the answer's probability, as a share of what it was
        "relative_low": pl.Float64,
        "relative_high": pl.Float64,
        "own_value": pl.Float64,  # change of log-odds less the same on another image: below 0, the image's own part is lost
        "own_low": pl.Float64,
        "own_high": pl.Float64,
        "own_most": pl.Float64,  # upper end for `own_value`, corrected for the number of windows (Bonferroni)
        "n": pl.Int64,  # samples
        "images": pl.Int64,  # or patients, where the data name them
        "note": pl.String,
    },
    "reliance": {  # every question with another image, the answer teacher-forced
        "sample": pl.String,
        "swap": pl.String,  # blank, noise, shuffled, other (patient, with another answer), alike (same organ and modality)
        "draw": pl.Int32,
        "donor": pl.String,  # the sample whose image it is; null for images that are made
        "before": pl.Float64,  # log-odds of the answer with its own image: log P - log(1 - P)
        "after": pl.Float64,  # and with the other one
        "shift": pl.Float64,  # after - before
        "changed": pl.Boolean,  # the likeliest token differs somewhere along the answer
        "divergence": pl.Float64,  # Jensen-Shannon, of the answer's first token's distributions, in bits
    },
    "gates": {  # whether each answer rests on the image
        "sample": pl.String,
        "rests": pl.Boolean,
        "shift": pl.Float64,  # the largest, either way
        "bound": pl.Float64,  # that it has to exceed
        "swaps": pl.Int32,
        "words": pl.String,
    },
    "reliance_by": {  # both, summed up
        "by": pl.String,  # all, question_type, a tag
        "group": pl.String,  # its value
        "swap": pl.String,  # as above; "all" for what is not of one kind
        "measure": pl.String,  # rests, right, guess (share of the commonest true answers); changed, shift (|shift|), divergence
        "value": pl.Float64,  # mean
        "low": pl.Float64,  # interval, by leaving out whole patients (images); null where there is none
        "high": pl.Float64,
        "n": pl.Int64,
        "images": pl.Int64,
        "note": pl.String,
    },
    "changes": {  # every question asked again of a changed image, or in other words; own greedy answers are compared
        "sample": pl.String,
        "unit": pl.String,  # patient, where the data name them, else image
        "kind": pl.String,  # mirrored, turned left, turned right, cropped, brighter, windowed, paraphrased, order
        "question_type": pl.String,
        "sided": pl.Boolean,  # the own answer names left or right
        "question": pl.String,  # as it was asked
        "own": pl.String,  # the answer without the change
        "expected": pl.String,  # what it must be with it
        "said": pl.String,
        "contradicted": pl.Boolean,
    },
    "consistency": {  # summed up
        "kind": pl.String,  # as above, or any
        "question_type": pl.String,  # or all, or "names a side"
        "contradicted": pl.Float64,  # share of answers, with its interval clustered by patient (image); null where there are none
        "low": pl.Float64,
        "high": pl.Float64,
        "n": pl.Int64,
        "images": pl.Int64,  # or patients
        "note": pl.String,
    },
    "calibration": {  # how sure the model is, held against how often it is right
        "group": pl.String,  # all, closed (the true answer is yes or no)
        "measure": pl.String,  # bin (accuracy at a mean confidence), ece, squared (debiased), brier, accuracy
        "bin": pl.Int32,  # by rising confidence, of equal mass; null for what is of all of them
        "confidence": pl.Float64,
        "value": pl.Float64,
        "low": pl.Float64,  # interval, by leaving out whole patients (images)
        "high": pl.Float64,
        "n": pl.Int64,
        "images": pl.Int64,
        "note": pl.String,
    },
    "confidence": {  # accuracy of the answers that are given, when others are withheld
        "curve": pl.String,  # confidence, random (the control); rests, consistent, both: one point each
        "coverage": pl.Float64,  # share of answers that are given
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "n": pl.Int64,
        "images": pl.Int64,
        "note": pl.String,
    },
    "shortcuts": {  # what covering what is written on an image does, beyond covering another patch as large
        "group": pl.String,  # type of question
        "followed": pl.Boolean,  # surely more than the rule asks for: a shortcut
        "value": pl.Float64,  # change of the answer's log-odds, either way: of the mark covered, less of a patch elsewhere
        "low": pl.Float64,  # interval, corrected for the types of question (Bonferroni)
        "high": pl.Float64,
        "changed": pl.Float64,  # share of answers that covering the mark changes
        "changed_elsewhere": pl.Float64,  # and covering another patch
        "attributed": pl.Float64,  # share of the answer's relevance on the mark; null where tokens cannot be placed
        "attributed_elsewhere": pl.Float64,  # and on another patch
        "n": pl.Int64,
        "images": pl.Int64,
    },
    "importance": {  # how much each block does, by several rules; a larger value: more
        "rule": pl.String,  # nonlinearity, block_influence, angular_distance; image_reading: nats of log-odds, see `flow`
        "layer": pl.Int32,  # the block
        "tokens": pl.String,  # image, text, all
        "value": pl.Float64,  # NaN where undefined, and `note` says why
        "low": pl.Float64,  # interval, by leaving out folds of whole images
        "high": pl.Float64,
        "n": pl.Int64,  # rows of hidden states (samples, of image_reading)
        "note": pl.String,
    },
}
