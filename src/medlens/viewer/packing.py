"""Tables of one sample as small JSON: words are numbered, and weights are two bytes each."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

LIKELIEST = 5  # words that are shown, of each token at each state
FINEST = 65535  # of a weight: as many steps, up to the largest of its row


class Words:
    """Words by number, each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, word: str | None) -> int:
        return self.numbers.setdefault(word or "", len(self.numbers))

    def many(self, words: Sequence[str] | None) -> list[int]:
        return [self(word) for word in words or ()]

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


def lens(rows: pl.DataFrame, words: Words) -> dict[str, Any]:
    """words, p: by state and position, [[[...]]]; positions that a state lacks are empty. entropy: in nats."""
    states, count = _numbers(rows, "layer"), 1 + _last(rows)
    place = {state: k for k, state in enumerate(states)}
    said: list[list[list[int]]] = [[[] for _ in range(count)] for _ in states]
    p: list[list[list[float | None]]] = [[[] for _ in range(count)] for _ in states]
    entropy: list[list[float | None]] = [[None] * count for _ in states]
    for state, position, w, shares, h in rows.select("layer", "position", "words", "p", "entropy").iter_rows():
        said[place[state]][position] = words.many(w[:LIKELIEST])
        p[place[state]][position] = [number(share) for share in shares[:LIKELIEST]]
        entropy[place[state]][position] = number(h)
    return {"states": states, "words": said, "p": p, "entropy": entropy}


def looks(rows: pl.DataFrame) -> dict[str, Any]:
    """By block: positions, the largest weight of each, and all weights as shares of it, 16 bits each (little endian, base64)."""
    blocks = []
    for block in _numbers(rows, "layer"):
        mine = rows.filter(pl.col("layer") == block).sort("position")
        weights = np.asarray(mine["weights"].to_list(), dtype=np.float64)
        largest = weights.max(1, initial=0)
        steps = np.rint(weights / np.maximum(largest, np.finfo(np.float64).tiny)[:, None] * FINEST).astype("<u2")
        blocks.append(
            {
                "block": block,
                "positions": mine["position"].to_list(),
                "largest": [number(x) for x in largest.tolist()],
                "weights": base64.b64encode(steps.tobytes()).decode(),
                "sinks": (mine["sinks"].to_list() or [[]])[0] or [],
            }
        )
    return {"count": len(rows["weights"][0]) if rows.height else 0, "blocks": blocks}


def fires(rows: pl.DataFrame) -> dict[str, Any]:
    """units, activations: by block and position, most first."""
    blocks, count = _numbers(rows, "layer"), 1 + _last(rows)
    place = {block: k for k, block in enumerate(blocks)}
    units: list[list[list[int]]] = [[[] for _ in range(count)] for _ in blocks]
    active: list[list[list[float | None]]] = [[[] for _ in range(count)] for _ in blocks]
    for block, position, numbers, values in rows.select("layer", "position", "units", "activations").iter_rows():
        units[place[block]][position] = numbers
        active[place[block]][position] = [number(v) for v in values]
    return {"blocks": blocks, "units": units, "activations": active}


def records(rows: pl.DataFrame, *but: str) -> list[dict[str, Any]]:
    """Rows as they are, with numbers that JSON can say."""
    plain = rows.drop([name for name in but if name in rows.columns])
    return [{k: number(v) if isinstance(v, float) else v for k, v in row.items()} for row in plain.to_dicts()]


def _numbers(rows: pl.DataFrame, column: str) -> list[int]:
    return sorted(set(rows[column].to_list()))


def _last(rows: pl.DataFrame) -> int:
    return max(rows["position"].to_list(), default=-1)
