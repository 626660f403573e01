"""The run: a folder with a manifest, parquet tables and pictures. (How it comes to be: `unfinished`.)"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from medlens.errors import BadRun, CannotWrite

STATES = "states.safetensors"  # a few rows of every state
FORMAT = 1  # of the folder's layout; a reader refuses another

# The columns, by contract: people's scripts call these names.
TABLES: dict[str, dict[str, Any]] = {
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
    "maps": {  # of `explain`: one number for each image token, and where it lies
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
    "checks": {  # of `explain`: the report cards of its maps
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


class Run:
    """A finished study. Tables are polars frames (`.to_pandas()` if you prefer): `rows`, `samples`, `answers`; see `TABLES`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self.manifest['model']['name']}, {self.samples.height} samples, {self.rows.height} rows)"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Plan, model, data, versions, machine, timings."""
        try:
            manifest = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
        except OSError as e:
            raise BadRun(f"{self.path} is not a run: it holds no manifest.json that can be read") from e
        except ValueError as e:
            raise BadRun(f"{self.path}/manifest.json is damaged: {e}") from e
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            got = manifest.get("format") if isinstance(manifest, dict) else manifest
            raise BadRun(f"{self.path} is a run of format {got}; this medlens reads format {FORMAT}: repeat the study")
        return manifest

    @cached_property
    def rows(self) -> pl.DataFrame:
        """One measured value a row."""
        return self._table("rows")

    @cached_property
    def left_out(self) -> pl.DataFrame:
        """Rows once more without each fold of whole images: what their intervals stand on."""
        return self._table("left_out")

    @cached_property
    def massive(self) -> pl.DataFrame:
        """Massive activations, one a row."""
        return self._table("massive")

    @cached_property
    def lens(self) -> pl.DataFrame:
        """The words of every token of a few samples, at every state."""
        return self._table("lens")

    @cached_property
    def lens_words(self) -> pl.DataFrame:
        """The words that stand first most often at the image's tokens of each state, with intervals and nulls."""
        return self._table("lens_words")

    @cached_property
    def decisions(self) -> pl.DataFrame:
        """How likely the answer's first word is at every state, for each sample."""
        return self._table("decisions")

    @cached_property
    def occurrence(self) -> pl.DataFrame:
        """Words that the strongest units of an image's tokens write, one a row."""
        return self._table("occurrence")

    @cached_property
    def unit_words(self) -> pl.DataFrame:
        """The most frequent of these over all images, with intervals and nulls."""
        return self._table("unit_words")

    @cached_property
    def neurons(self) -> pl.DataFrame:
        """Units ranked for words, one a row."""
        return self._table("neurons")

    @cached_property
    def effects(self) -> pl.DataFrame:
        """What changing units does, one change a row."""
        return self._table("effects")

    @cached_property
    def cards(self) -> pl.DataFrame:
        """Single units, looked at."""
        return self._table("cards")

    @cached_property
    def checks(self) -> pl.DataFrame:
        """The report cards of `explain`."""
        return self._table("checks")

    @cached_property
    def leaderboard(self) -> pl.DataFrame:
        """Methods of attribution by how well they lie on what is there."""
        return self._table("leaderboard")

    @cached_property
    def layers(self) -> pl.DataFrame:
        """The same of methods that are read at a block, at every block."""
        return self._table("layers")

    @cached_property
    def maps(self) -> pl.DataFrame:
        """Of `explain`: what each image token says for what was explained, and where it lies."""
        return self._table("maps")

    @cached_property
    def flow(self) -> pl.DataFrame:
        """What blocked attention costs, one path and window a row."""
        return self._table("flow")

    @cached_property
    def reliance(self) -> pl.DataFrame:
        """What swapping its image did to each answer, one swap a row."""
        return self._table("reliance")

    @cached_property
    def gates(self) -> pl.DataFrame:
        """Whether each answer rests on its image."""
        return self._table("gates")

    @cached_property
    def reliance_by(self) -> pl.DataFrame:
        """Both, by question type, organ, modality."""
        return self._table("reliance_by")

    @cached_property
    def changes(self) -> pl.DataFrame:
        """What became of each answer when image or words were changed."""
        return self._table("changes")

    @cached_property
    def consistency(self) -> pl.DataFrame:
        """Share of answers that contradict themselves, by kind of change and question type."""
        return self._table("consistency")

    @cached_property
    def calibration(self) -> pl.DataFrame:
        """How sure the model is, held against how often it is right."""
        return self._table("calibration")

    @cached_property
    def confidence(self) -> pl.DataFrame:
        """What abstaining buys: accuracy at each coverage."""
        return self._table("confidence")

    @cached_property
    def importance(self) -> pl.DataFrame:
        """How much each block does, by several rules."""
        return self._table("importance")

    @cached_property
    def shortcuts(self) -> pl.DataFrame:
        """Whether answers follow what is written on the image, by type of question."""
        return self._table("shortcuts")

    @cached_property
    def heads(self) -> pl.DataFrame:
        """Attention heads, patched, one a row."""
        return self._table("heads")

    @cached_property
    def claims(self) -> pl.DataFrame:
        """Verdicts on claims, one a line."""
        return self._table("claims")

    @cached_property
    def samples(self) -> pl.DataFrame:
        """What was asked."""
        return self._table("samples")

    @cached_property
    def answers(self) -> pl.DataFrame:
        """What was answered."""
        return self._table("answers")

    @property
    def report(self) -> Path:
        """The report: one HTML file that needs nothing else."""
        return self.path / "report.html"

    def _table(self, name: str) -> pl.DataFrame:
        try:
            return pl.read_parquet(self.path / f"{name}.parquet")
        except (OSError, pl.exceptions.PolarsError) as e:
            raise BadRun(f"{self.path}/{name}.parquet is missing or damaged") from e


def open_run(path: str | Path) -> Run:
    """Open a run folder. Raises BadRun where it is none, is damaged, or is of another format."""
    run = Run(Path(path))
    _ = run.manifest
    return run


def check_place(out: Path, what: str = "--out") -> None:
    """Raise CannotWrite if nothing can be written at `out`: said before the work, not after it."""
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not there.is_dir():
        raise CannotWrite(f"{out} cannot be a folder: {there.name} is a file; choose another {what}")
    if not os.access(there, os.W_OK):
        raise CannotWrite(f"{out} cannot be written: no permission, or a read-only file system; choose another {what}")


def finished(out: Path, identity: Mapping[str, str]) -> Run | None:
    """The run at `out` if this very study is there already; None if the place is free. Raises BadRun for anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "manifest.json").is_file():
        raise BadRun(f"{out} is there already and is not a run; choose another --out")
    run = open_run(out)
    found = run.manifest.get("identity", {})
    if other := [what for what in identity if found.get(what) != identity[what]]:
        raise BadRun(f"{out} holds another study ({' and '.join(other)} differ); choose another --out, or delete it")
    return run


def write(path: Path, content: str | bytes) -> None:
    """Write a file of a run whole, and make sure that it reached the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def write_table(folder: Path, name: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records as the table `name`, with its columns by contract."""
    write_frame(folder, name, [pl.DataFrame(list(records), schema=TABLES[name])])


def write_frame(folder: Path, name: str, frames: Sequence[pl.DataFrame]) -> None:
    """Write frames, one below the other, as the table `name`."""
    buffer = BytesIO()  # through memory, so that a full disk is an OSError of ours and not a panic of the writer's
    pl.concat([pl.DataFrame(schema=TABLES[name]), *frames]).write_parquet(buffer)
    write(folder / f"{name}.parquet", buffer.getvalue())


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest; `format` is added."""
    write(folder / "manifest.json", json.dumps({"format": FORMAT, **manifest}, indent=2, ensure_ascii=False) + "\n")
