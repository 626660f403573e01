"""Tables of one sample as small JSON: words are numbered, and weights are two bytes each."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import polars as pl

LIKELIEST = 5  # words that are shown, of each token at each state
FINEST = 65535  # of a weight: as many steps, up to the largest of its row


class Words:
    """Words by number, each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, words: pl.Series) -> np.ndarray:
        """Their numbers, int32; new ones are added."""
        every = words.fill_null("").unique(maintain_order=True).to_list()
        numbers = [self.numbers.setdefault(word, len(self.numbers)) for word in every]
        return words.fill_null("").replace_strict(every, numbers, return_dtype=pl.Int32).to_numpy()

    @property
    def all(self) -> list[str]:
        return list(self.numbers)


def number(value: float | None, digits: int = 4) -> float | None:
    """To so many digits; None for what JSON cannot say (NaN, infinities)."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def as_json(content: object) -> bytes:
    """Small, and nothing that is not JSON (NaN raises)."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def binary(values: np.ndarray, kind: str) -> str:
    """Numbers one after the other, little endian, in base64. kind: "<i4", "<f4" or "<u2"."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()


def lens(rows: pl.DataFrame, words: Words) -> dict[str, Any]:
    """words (numbers; -1: none), p: of states x positions x `each`, likeliest first."""
    states, count = _numbers(rows, "layer"), 1 + _last(rows)
    dense = _Dense(rows.with_columns(pl.col("words", "p").list.head(LIKELIEST)), states, count, "words")
    return {
        "states": states, "count": count, "each": dense.each,
        "words": binary(dense(words(dense.flat("words")), -1), "<i4"), "p": binary(dense(dense.flat("p").to_numpy(), 0), "<f4"),
    }  # fmt: skip


def looks(rows: pl.DataFrame) -> dict[str, Any]:
    """By block: positions, the largest weight of each, and all weights as shares of it, 16 bits each (little endian, base64)."""
    blocks = []
    for block in _numbers(rows, "layer"):
        mine = rows.filter(pl.col("layer") == block).sort("position")
        weights = np.asarray(mine["weights"].to_list(), dtype=np.float64)
        largest = weights.max(1, initial=0)
        steps = np.rint(weights / np.maximum(largest, np.finfo(np.float64).tiny)[:, None] * FINEST)
        blocks.append(
            {
                "block": block,
                "positions": mine["position"].to_list(),
                "largest": [number(x) for x in largest.tolist()],
                "weights": binary(steps, "<u2"),
                "sinks": (mine["sinks"].to_list() or [[]])[0] or [],
            }
        )
    return {"count": len(rows["weights"][0]) if rows.height else 0, "blocks": blocks}


def fires(rows: pl.DataFrame) -> dict[str, Any]:
    """units (-1: none), activations: of blocks x positions x `each`, those that write most first."""
    blocks, count = _numbers(rows, "layer"), 1 + _last(rows)
    dense = _Dense(rows, blocks, count, "units")
    return {
        "blocks": blocks, "count": count, "each": dense.each,
        "units": binary(dense(dense.flat("units").to_numpy(), -1), "<i4"),
        "activations": binary(dense(dense.flat("activations").to_numpy(), 0), "<f4"),
    }  # fmt: skip


def units(rows: pl.DataFrame, words: Words) -> dict[str, Any]:
    """Of units, each a layer and a number, the words (numbers; -1: none) that they raise and lower: units x `each`."""
    found: dict[str, Any] = {"layers": rows["layer"].to_list(), "units": rows["unit"].to_list()}
    placed = rows.with_columns(layer=pl.lit(0), position=pl.int_range(pl.len()))
    for way in ("raises", "lowers"):
        dense = _Dense(placed, [0], placed.height, way)
        found[way] = {"each": dense.each, "words": binary(dense(words(dense.flat(way)), -1), "<i4")}
    return found


class _Dense:
    """Lists of some rows as an array, (layers, positions, the longest list). column: whose lists say how long they are."""

    def __init__(self, rows: pl.DataFrame, layers: list[int], count: int, column: str) -> None:
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
