"""Runs compared with the first of them: differences by layer, and how alike their states are. Reads the runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from medlens import store
from medlens.comparison import answers as of_answers
from medlens.comparison.differences import Matched, matched, records, same_folds
from medlens.comparison.kernels import Heat, cka_between
from medlens.comparison.page import render
from medlens.comparison.reliances import Reliances
from medlens.comparison.written import write_comparison
from medlens.errors import BadInput

SCHEMA = {
    **dict.fromkeys(("measure", "tokens", "group", "variant", "protocol", "other_protocol", "first", "other"), pl.String),
    "layer": pl.Int32,
    "other_layer": pl.Int32,  # another one only where the models are of different depth
    **dict.fromkeys(("value", "other_value", "difference", "low", "high"), pl.Float64),
    "significant": pl.Boolean,  # the interval excludes zero; null where there is none
    "looked_at": pl.Int32,  # layers that the interval is corrected for
    "how": pl.String,  # "paired" by fold, "unpaired", or empty
    "n": pl.Int64,
    "other_n": pl.Int64,
    "note": pl.String,
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found. names: of the runs, the first is what others are compared with. differences: other minus first, one
    line a layer; low and high hold at all layers of a curve together (Bonferroni), so `significant` is corrected for the layers
    looked at, not for the number of measures. answers: how many are kept, one line a run (see `answers.SCHEMA`), where the data are
    the same and answers were generated. cka: of the states, where the runs hold them. notes: what must be known."""

    names: tuple[str, ...]
    runs: tuple[store.Run, ...]
    differences: pl.DataFrame
    answers: pl.DataFrame
    cka: tuple[Heat, ...]
    notes: tuple[str, ...]
    matched: tuple[tuple[str, Matched], ...]
    title = "largest difference of each measure; corrected for the layers looked at, not for the measures"

    @cached_property
    def summary(self) -> pl.DataFrame:
        """Of each measure and group of tokens (raw, all samples), where the difference is largest: among the significant ones if
        there are any. of: how many layers differ significantly, of how many."""
        plain = self.differences.filter(pl.col("variant") == "raw", pl.col("group") == "all", pl.col("difference").is_finite())
        best = (
            plain.with_columns(pl.col("significant").fill_null(False), size=pl.col("difference").abs())
            .sort("significant", "size", descending=True, maintain_order=True)
            .group_by("other", "measure", "tokens", "protocol", "other_protocol", maintain_order=True)
            .agg(
                pl.col("layer", "value", "other_value", "difference", "low", "high", "how").first(),
                differing=pl.format("{} of {}", pl.col("significant").sum(), pl.col("looked_at").first()),
                some=pl.col("significant").any(),
            )
        )
        protocols = pl.concat_str("protocol", "other_protocol", separator=" / ")
        same = pl.col("protocol") == pl.col("other_protocol")
        return (
            best.with_columns(protocol=pl.when(same).then("protocol").otherwise(protocols))
            .sort("some", descending=True, maintain_order=True)
            .drop("other_protocol", "some")
        )

    def write(self, out: str | Path) -> Path:
        """Write `compare.html` and `differences.parquet` to a folder, which is new or holds a comparison. Returns the page's path.
        Raises CannotWrite, or BadRun where something else is there."""
        page = render(self.names, self.runs, self.matched, self.cka, self.notes, self.summary)
        return write_comparison(out, page, self.differences)


def compare(runs: Sequence[store.Run | str | Path]) -> Comparison | Reliances:
    """Compare runs with the first of them: every measure, token group, subgroup and variant that both have, at every layer.

    Intervals are jackknives over the folds of whole images: of the difference itself, fold by fold, where data and folds are the
    same ("paired"); else of each for itself (Welch 1947). Layers belong together by number, or by relative depth where the models
    are of different depth. Where both runs hold states of the same tokens: debiased CKA of every two layers (Kornblith 2019).

    Runs of `reliance` have no layers: they are set beside each other by their verdicts, in one table.

    Raises BadInput for fewer than two runs, a run that is given twice, where two have no row in common, and for runs of different
    commands; BadRun for a folder that is none.
    """
    if isinstance(runs, str | Path) or len(runs) < 2:
        got = 1 if isinstance(runs, str | Path) else len(runs)
        raise BadInput(f"a comparison needs two runs or more; got {got}: give their folders, the one to compare with first")
    opened = tuple(run if isinstance(run, store.Run) else store.open_run(run) for run in runs)
    _refuse_twice(opened)
    names = _names(opened)
    if any(asked := ["reliance" in run.manifest for run in opened]):
        if not all(asked):
            raise BadInput("runs of reliance are compared with each other, not with runs of another command")
        return Reliances(names, opened)
    first, pairs, cka, notes, kept = opened[0], [], [], [], []
    for name, other in zip(names[1:], opened[1:], strict=True):
        found = matched(first, other)
        if not found:
            raise BadInput(f"{names[0]} and {name} have no row in common: nothing can be compared")
        pairs += [(name, pair) for pair in found]
        heats, why = cka_between(first, other, name)
        cka += heats
        notes += [*_notes(names[0], first, name, other, found), *why]
        if (line := of_answers.answers_kept((names[0], name), first, other)) is not None:
            kept.append(line)
            notes.append(of_answers.words(line))
    lines = [line for name, pair in pairs for line in records((names[0], name), pair)]
    differences, answers = pl.DataFrame(lines, schema=SCHEMA), pl.DataFrame(kept, schema=of_answers.SCHEMA)
    return Comparison(names, opened, differences, answers, tuple(cka), tuple(notes), tuple(pairs))


def _refuse_twice(runs: Sequence[store.Run]) -> None:
    """A run does not differ from itself, and a page that says so at length is a slip of the pen."""
    places = [run.path.resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise BadInput(f"the run {run.path} is given twice: name another one to compare it with")


def _names(runs: Sequence[store.Run]) -> tuple[str, ...]:
    """Of their folders; with a number where two are called alike."""
    plain = [run.path.resolve().name for run in runs]
    return tuple(name if plain.count(name) == 1 else f"{name} ({k + 1})" for k, name in enumerate(plain))


def _notes(name: str, first: store.Run, other_name: str, other: store.Run, found: Sequence[Matched]) -> list[str]:
    """How the two were compared."""
    depths = first.manifest["model"]["blocks"], other.manifest["model"]["blocks"]
    paired = any(pair.how == "paired" for pair in found)
    how = "the same data and folds: differences are paired by fold" if paired else "not paired: " + (
        "there are no values without a fold" if same_folds(first, other) else "data or folds differ"
    )  # fmt: skip
    said = [f"{other_name} against {name}: {how}"]
    if depths[0] != depths[1]:
        said.append(
            f"{name} has {depths[0]} blocks, {other_name} {depths[1]}: each layer is compared with the nearest relative depth"
        )
    if mixed := sorted({f"{pair.key.protocol} with {pair.other_protocol}" for pair in found if pair.key[0] != pair.other_protocol}):
        said.append(f"protocols differ where no other row was there: {', '.join(mixed)}")
    return said
