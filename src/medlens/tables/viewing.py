"""What the viewer shows of a few samples, token by token: where each looks, and which units fire there."""

from __future__ import annotations

from typing import Any

import polars as pl

COLUMNS: dict[str, dict[str, Any]] = {
    "looks": {  # attention of every token behind the image, to the image
        "sample": pl.String,
        "layer": pl.Int32,  # the block
        "position": pl.Int32,  # of the token in the prompt
        "token": pl.String,  # its text
        "tokens": pl.String,  # its group
        "weights": pl.List(pl.Float32),  # of each image token, in order: mean over heads
        "sinks": pl.List(pl.Int32),  # the image tokens of this block that draw attention whoever looks; the same in all its rows
    },
    "fires": {  # the units that write most at each token, most first: |activation| x length of what the unit writes
        "sample": pl.String,
        "layer": pl.Int32,  # the block
        "position": pl.Int32,
        "token": pl.String,
        "tokens": pl.String,
        "units": pl.List(pl.Int32),
        "activations": pl.List(pl.Float32),
    },
    "places": {  # where each image token lies on the image; none where that cannot be said (several images, an unknown family)
        "sample": pl.String,
        "token": pl.Int32,  # of the image, from 0
        "left": pl.Float64,  # shares of the image's width and height; outside 0 .. 1 where the model pads; NaN: it has no place
        "top": pl.Float64,
        "right": pl.Float64,
        "bottom": pl.Float64,
    },
    "unit_writes": {  # of every unit in `fires`, the words that it raises and lowers most, by its direction alone
        "layer": pl.Int32,
        "unit": pl.Int32,
        "raises": pl.List(pl.String),
        "lowers": pl.List(pl.String),
    },
}
