"""The words of the lens: when answers are decided, and what each patch of some images says from state to state."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import polars as pl

from medlens.report.parts import inline
from medlens.store import Run

IMAGES, STATES = 4, 9  # shown, at most
CELLS = 12_000  # words of patches in the whole report, at most: a report should open at once
MARKS = "▁Ġ"  # what tokenizers write for a space before a word


class Cell(NamedTuple):
    """A patch: its likeliest word, that word's probability, and what is said when one points at it."""

    word: str
    p: float
    more: str


def lens_of(run: Run) -> dict[str, Any] | None:
    """What the report says of the tables `lens` and `decisions`; None of a run without words."""
    if not (run.path / "lens.parquet").exists() or run.lens.is_empty():
        return None
    decided = settled(run.decisions)
    return {"questions": decided.height, "settled": _sentence(decided), "last": _last(run), "images": _images(run)}


def settled(decisions: pl.DataFrame) -> pl.DataFrame:
    """Of each sample the state from which on the answer's first word is the likeliest; null where it is not even at the last."""
    lost = pl.col("layer").filter(pl.col("rank") > 1).max()
    state = pl.when(lost.is_null()).then(pl.col("layer").min()).when(lost < pl.col("layer").max()).then(lost + 1)
    return decisions.group_by("sample", maintain_order=True).agg(state=state)


def _sentence(decided: pl.DataFrame) -> list[tuple[int, float]]:
    """The first states from which on half, nine tenths, and as many as ever of the questions are decided, with their shares."""
    share = {
        int(state): float((decided["state"] <= state).sum()) / decided.height
        for state in decided["state"].drop_nulls().unique().sort()
    }
    most = max(share.values(), default=0.0)
    found = {min(state for state, s in share.items() if s >= goal) for goal in (0.5, 0.9, most) if 0 < goal <= most}
    return [(state, share[state]) for state in sorted(found)]


def _last(run: Run) -> int:
    return run.manifest["model"]["blocks"]


def _images(run: Run) -> list[dict[str, Any]]:
    """Some samples with their picture, the words of each patch, and those of the token before the answer."""
    layers = spread(_last(run))
    samples = run.samples.join(run.lens.select("sample").unique(), on="sample", how="semi", maintain_order="left")
    found, cells = [], 0
    for record in samples.to_dicts():
        mine = run.lens.filter(pl.col("sample") == record["sample"])
        grid = _grid(mine.filter(pl.col("patch").is_not_null()), layers)
        cells += sum(len(words) for _, words in grid)
        if len(found) == IMAGES or (found and cells > CELLS):
            break
        count = len(grid[0][1]) if grid else 0
        side = math.isqrt(count)
        said = run.answers.filter(pl.col("sample") == record["sample"])["answer"].to_list()
        found.append(
            {
                "sample": record["sample"],
                "question": record["question"],
                "answer": said[0] if said else None,
                "picture": inline(run.path, record["picture"]),
                "grid": grid,
                "columns": side if side * side == count else None,
                "path": _path(mine),
            }
        )
    return found


def spread(last: int, count: int = STATES) -> list[int]:
    """States from the first to the last, evenly spread."""
    count = min(count, last + 1)
    return sorted({round(k * last / (count - 1)) for k in range(count)})


def _grid(patches: pl.DataFrame, layers: list[int]) -> list[tuple[int, list[Cell]]]:
    """Of each state, its patches row by row."""
    rows = {layer: patches.filter(pl.col("layer") == layer).sort("patch") for layer in layers}
    return [
        (layer, [_cell(words, p) for words, p in mine.select("words", "p").iter_rows()])
        for layer, mine in rows.items()
        if mine.height
    ]


def _cell(words: list[str], p: list[float]) -> Cell:
    more = ", ".join(f"{plain(word)} {share:.2f}" for word, share in zip(words[:3], p, strict=False))
    return Cell(plain(words[0]), p[0], more)


def _path(rows: pl.DataFrame) -> list[tuple[int, list[Cell]]]:
    """The words of the token before the answer, state by state; empty where there is no answer."""
    first = rows.filter(pl.col("tokens") == "answer")["position"].min()
    if first is None:
        return []
    mine = rows.filter(pl.col("position") == int(first) - 1).sort("layer")  # pyright: ignore[reportArgumentType]
    return [
        (layer, [Cell(plain(word), share, "") for word, share in zip(words, p, strict=True)])
        for layer, words, p in mine.select("layer", "words", "p").iter_rows()
    ]


def plain(word: str) -> str:
    """A word as a reader writes it, without its tokenizer's mark for a space."""
    return word.lstrip(MARKS) or "␣"
