"""Tables of one sample in few bytes: words are numbered, weights are two bytes each, other numbers a little rounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from medlens.errors import BadRun

LIKELIEST = 5  # words that are shown, of each token at each state
FINEST = 65535  # of a weight: as many steps, up to the largest of its row
FREE = 1000  # places that may lie free, for each that is taken
DROPPED = 12  # bits of a float32, of the 23 behind its point: what is left is right to one part in 4,096


def number(value: float | None, digits: int = 4) -> float | None:
    """To so many digits; None for what JSON cannot say (NaN, infinities)."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 without its last bits, which say nothing to a reader, and which nothing could make smaller."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + (1 << (DROPPED - 1))) >> DROPPED << DROPPED).view(np.float32)


def numbered(*columns: pl.Series) -> tuple[list[str], list[np.ndarray]]:
    """The words of some columns, each once, and of each column their numbers."""
    every = pl.concat([column.fill_null("").alias("word") for column in columns]).to_frame()
    words = every.unique(maintain_order=True).with_row_index("number")
    numbers = every.join(words, on="word", how="left", maintain_order="left")["number"].cast(pl.Int32).to_numpy()
    return words["word"].to_list(), np.split(numbers, np.cumsum([len(column) for column in columns])[:-1])


def lens(rows: pl.DataFrame) -> dict[str, Any]:
    """said (numbers of `words`; -1: none), p: of states x positions x `each`, likeliest first."""
    states, count = _numbers(rows, "layer"), 1 + _last(rows)
    dense = _Dense(rows.with_columns(pl.col("words", "p").list.head(LIKELIEST)), states, count, "words")
    words, (said,) = numbered(dense.flat("words"))
    p = rounded(dense.flat("p").to_numpy())
    return {"states": states, "count": count, "each": dense.each, "words": words, "said": dense(said, -1), "p": dense(p, 0)}


def looks(rows: pl.DataFrame) -> dict[str, Any]:
    """Of a block: positions, the largest weight of each, and all weights as 16-bit shares of it, positions x `count`."""
    mine = rows.sort("position")
    if mine["weights"].list.len().fill_null(-1).n_unique() != 1 or mine.null_count()[0, "weights"] or mine.null_count()[0, "sinks"]:
        raise BadRun("looks.parquet is damaged: not every token of a block has a weight for every place")
    weights = np.stack(mine["weights"].to_list(), dtype=np.float64)
    largest = weights.max(1, initial=0)
    steps = np.rint(weights / np.maximum(largest, np.finfo(np.float64).tiny)[:, None] * FINEST)
    return {
        "positions": mine["position"].to_list(), "largest": [number(x) for x in largest.tolist()], "count": weights.shape[1],
        "weights": steps.astype(np.uint16), "sinks": mine["sinks"][0].to_list(),
    }  # fmt: skip


def fires(rows: pl.DataFrame) -> dict[str, Any]:
    """Of a block: units (-1: none), activations: of positions x `each`, those that write most first."""
    dense = _Dense(rows, _numbers(rows, "layer"), 1 + _last(rows), "units")
    return {
        "count": dense.shape[1], "each": dense.each, "units": dense(dense.flat("units").to_numpy(), -1),
        "activations": dense(rounded(dense.flat("activations").to_numpy()), 0),
    }  # fmt: skip


def units(rows: pl.DataFrame) -> dict[str, Any]:
    """Of a block's units, by their numbers, the words (numbers of `words`; -1: none) that they raise and lower: units x `each`."""
    placed = rows.with_columns(layer=pl.lit(0), position=pl.int_range(pl.len()))
    ways = {way: _Dense(placed, [0], placed.height, way) for way in ("raises", "lowers")}
    words, said = numbered(*(dense.flat(way) for way, dense in ways.items()))
    found = {
        way: {"each": dense.each, "words": dense(numbers, -1)} for (way, dense), numbers in zip(ways.items(), said, strict=True)
    }
    return {"units": rows["unit"].to_list(), "words": words, **found}


class _Dense:
    """Lists of some rows as an array, (layers, positions, the longest list). column: whose lists say how long they are.
    Raises BadRun where they are numbered far beyond what is there: no array is as large as a damaged table says."""

    def __init__(self, rows: pl.DataFrame, layers: Sequence[int], count: int, column: str) -> None:
        if count > FREE * (1 + rows.height):
            raise BadRun(f"a table is damaged: it has {rows.height} rows of a sample, and one for position {count - 1}")
        self.rows = rows.filter(pl.col(column).list.len() > 0)
        lengths = self.rows[column].list.len().to_numpy().astype(np.int64)
        self.each = int(lengths.max(initial=0))
        row = np.repeat(np.arange(len(lengths)), lengths)
        self.shape = (len(layers), count, self.each)
        layer = np.searchsorted(layers, self.rows["layer"].to_numpy())
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self.at = (layer[row], self.rows["position"].to_numpy()[row], place)

    def flat(self, column: str) -> pl.Series:
        return self.rows[column].explode()

    def __call__(self, values: np.ndarray, none: int) -> np.ndarray:
        if len(values) != len(self.at[-1]):
            raise BadRun("a table is damaged: lists that belong together are of different lengths")
        found = np.full(self.shape, none, dtype=values.dtype)
        found[self.at] = values
        return found


def records(rows: pl.DataFrame, *but: str) -> list[dict[str, Any]]:
    """Rows as they are, with numbers that JSON can say."""
    plain = rows.drop([name for name in but if name in rows.columns])
    return [{k: number(v) if isinstance(v, float) else v for k, v in row.items()} for row in plain.to_dicts()]


def _numbers(rows: pl.DataFrame, column: str) -> list[int]:
    return sorted(set(rows[column].to_list()))


def _last(rows: pl.DataFrame) -> int:
    return max(rows["position"].to_list(), default=-1)
