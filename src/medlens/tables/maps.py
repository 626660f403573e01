"""Maps: what `medlens explain` writes of one sample, a study of a few, and the benchmark of methods."""

from __future__ import annotations

from typing import Any

import polars as pl

COLUMNS: dict[str, dict[str, Any]] = {
    "maps": {  # one number for each image token, and where it lies
        "sample": pl.String,
        "map": pl.Int32,  # number of the map, as in the manifest
        "method": pl.String,
        "target": pl.String,  # what was explained
        "layer": pl.Int32,  # block; null for methods that have none
        "token": pl.Int32,  # of the image, from 0
        "value": pl.Float64,  # larger speaks more for the target
        "left": pl.Float64,  # box in pixels of the original image; NaN for a token without a place
        "top": pl.Float64,
        "right": pl.Float64,
        "bottom": pl.Float64,
    },
    "trust": {  # the maps, one a row, and what their report cards come to
        "sample": pl.String,
        "map": pl.Int32,  # as in `maps`
        "method": pl.String,
        "target": pl.String,
        "layer": pl.Int32,
        "verdict": pl.String,  # trust, do not trust
        "why": pl.String,
        "note": pl.String,  # what is to be said of the map itself
        "picture": pl.String,  # relative to the run
    },
    "checks": {  # the report cards of maps
        "sample": pl.String,
        "method": pl.String,
        "check": pl.String,  # deletion, insertion, weights drawn anew, slight noise, other methods, energy, pointing, IoU
        "of": pl.String,  # the infill, what is measured, or the region's name
        "value": pl.Float64,
        "reference": pl.Float64,  # what it stands beside: the best random order, a bound, the better of centre and edges
        "passed": pl.Boolean,  # null where it has no say in the verdict
    },
    "leaderboard": {  # methods of attribution, on images that had no say in the choice of blocks and methods
        "question_type": pl.String,  # "all": of all types together
        "finding": pl.String,  # name of the region that was to be found; "all"
        "method": pl.String,
        "layer": pl.Int32,  # the block that was best on discovery images; null for methods that are read at none
        "best": pl.Boolean,  # the method that was best on discovery images
        "measure": pl.String,  # pointing; iou_5, iou_10, iou_20 (of that share of cells, over the best that cells reach); energy
        "value": pl.Float64,  # mean over samples
        "low": pl.Float64,  # interval, over whole images (patients)
        "high": pl.Float64,
        "n": pl.Int32,  # samples
        "images": pl.Int32,
    },
    "layers": {  # the pointing game at every block, of methods that are read at one
        "question_type": pl.String,
        "method": pl.String,
        "half": pl.String,  # discovery, test
        "layer": pl.Int32,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "n": pl.Int32,
        "images": pl.Int32,
    },
}
