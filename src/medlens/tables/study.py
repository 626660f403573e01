"""What a study writes."""

from __future__ import annotations

from typing import Any

import polars as pl

COLUMNS: dict[str, dict[str, Any]] = {
    "rows": {
        "protocol": pl.String,  # "sound", or "published" for the study's own choices
        "measure": pl.String,
        "layer": pl.Int32,  # of a state measure: the state 0..L; of a pair measure: the block 0..L-1
        "tokens": pl.String,  # image, text, template, answer, all
        "group": pl.String,  # subgroup of samples; "all"
        "variant": pl.String,  # "raw"; "normed": state L after the final norm
        "value": pl.Float64,  # NaN where undefined, and `note` says why
        "low": pl.Float64,  # interval; null where none was computed
        "high": pl.Float64,
        "n": pl.Int64,  # rows of hidden states it stands on
        "note": pl.String,
    },
    "left_out": {  # the same without one fold of whole images, where there is an interval
        "protocol": pl.String,
        "measure": pl.String,
        "layer": pl.Int32,
        "tokens": pl.String,
        "group": pl.String,
        "variant": pl.String,
        "fold": pl.Int32,
        "value": pl.Float64,
    },
    "massive": {  # activations above 100 and above 1000 times the median of their sample's state
        "layer": pl.Int32,  # the state
        "sample": pl.String,
        "position": pl.Int32,  # of the token in the prompt
        "token": pl.String,
        "tokens": pl.String,  # its group
        "column": pl.Int32,
        "value": pl.Float64,
    },
    "lens": {  # the words of every token of a few images' first questions, at every state: the logit lens
        "sample": pl.String,
        "image": pl.String,
        "layer": pl.Int32,  # the state
        "variant": pl.String,  # "raw": the lens itself puts the final norm on every state, the last one too
        "position": pl.Int32,  # of the token in the prompt
        "token": pl.String,  # its text; empty for places of the image
        "tokens": pl.String,  # its group
        "patch": pl.Int32,  # index in the image's grid, row by row; null for others
        "words": pl.List(pl.String),  # likeliest first, as the tokenizer writes them, with its mark for a space
        "p": pl.List(pl.Float64),  # their probabilities
        "entropy": pl.Float64,  # of the whole distribution, in nats
    },
    "lens_words": {  # the ten words that stand first most often in these, at the image's tokens of each state
        "layer": pl.Int32,
        "word": pl.String,  # as above
        "kinds": pl.String,  # of medical word, separated by ", "; empty for others: see `medlens.medical`
        "count": pl.Float64,  # of tokens in an image, on average
        "low": pl.Float64,  # interval, by leaving out whole images (patients); null below two
        "high": pl.Float64,
        "expected": pl.Float64,  # the same count, if words were drawn at random from the vocabulary
        "ratio": pl.Float64,  # variance between images, over that of shuffled images; NaN where none varies
        "p": pl.Float64,  # how likely shuffled images vary as much
        "images": pl.Int64,
        "note": pl.String,
    },
    "decisions": {  # what the token before the answer would say at every state of the answer's first word
        "sample": pl.String,
        "layer": pl.Int32,
        "variant": pl.String,
        "word": pl.String,  # first token of the answer, as above
        "p": pl.Float64,
        "rank": pl.Int64,  # 1: the likeliest of all words
        "log_odds": pl.Float64,  # log p - log(1 - p)
        "kl": pl.Float64,  # KL(last state || this one), in nats
    },
    "occurrence": {  # words that the strongest units of an image's tokens write (protocol published alone)
        "protocol": pl.String,  # "published", "sound"; "null: all units, published": how many of all units write the word
        "layer": pl.Int32,  # the block
        "image": pl.String,  # null in a null
        "word": pl.String,  # with its space mark
        "count": pl.Int64,
    },
    "unit_words": {  # the ten most frequent of these in each block
        "protocol": pl.String,
        "layer": pl.Int32,
        "word": pl.String,
        "count": pl.Float64,  # in an image, on average
        "low": pl.Float64,  # interval, by leaving out whole images (patients); null below two
        "high": pl.Float64,
        "expected": pl.Float64,  # the same count, if units were drawn at random from all of the block
        "ratio": pl.Float64,  # variance between images, over that of shuffled images; NaN where none varies
        "p": pl.Float64,  # how likely shuffled images vary as much
        "images": pl.Int64,
        "note": pl.String,
    },
    "claims": {  # verdicts, one a line: see `medlens.claims`
        "claim": pl.String,  # empty where this run does not measure what the sentence speaks of
        "sentence": pl.String,  # of the published study; empty for the user's own
        "verdict": pl.String,  # supported, not supported, cannot be said
        "value": pl.Float64,  # the figure that says so, and its interval; null where there is none
        "low": pl.Float64,
        "high": pl.Float64,
        "layers": pl.Int64,  # how many were looked at
        "note": pl.String,
    },
    "samples": {
        "sample": pl.String,
        "image": pl.String,
        "patient": pl.String,
        "question": pl.String,
        "question_type": pl.String,
        "answer": pl.String,  # the true one, where the data know it
        "tags": pl.String,  # JSON
        "file": pl.String,  # name of its image file, without the folder
        "picture": pl.String,  # downsized, relative to the run
    },
    "answers": {
        "sample": pl.String,
        "answer": pl.String,  # the model's
        "logprob": pl.Float64,  # sum over its tokens, natural logarithm; null where it was given, not generated
        "tokens": pl.Int64,
        "ended": pl.Boolean,  # False: cut off at the cap; null where it was given
        "correct": pl.Boolean,  # equals the true one but for case and outer spaces; null where none is known, or it was given
    },
}
