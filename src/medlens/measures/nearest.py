"""Nearest rows by cosine similarity, exactly, a block at a time."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medlens.errors import BadInput
from medlens.stats.flat import DIGEST

BLOCK = 2048  # rows of the library at a time: 32 MiB of rows 4,096 wide
ROWS = 128  # queries at a time
SPARE = 8  # more candidates than are asked for: float32 products may order close ones wrongly


class Nearest(NamedTuple):
    """Of T queries. rows (T, k): numbers of rows of the library, the nearest first; similarity (T, k): their cosines, float64."""

    rows: Tensor
    similarity: Tensor


def nearest(queries: Tensor, library: Tensor, k: int = 5) -> Nearest:
    """The k rows of `library` (N, d) with the largest cosine to each of `queries` (T, d); k: at most so many as there are.

    Rows of one direction count once, under the lowest number, because as neighbours they say nothing more; among others that are
    as near as each other the lowest number comes first. Candidates come from float32 products and are ordered by float64 ones, so
    the order does not depend on blocks. In memory, beside what is given: one block of either. Raises BadInput for shapes that do
    not fit, an empty library, or a k below 1.
    """
    if queries.ndim != 2 or library.ndim != 2 or queries.shape[1] != library.shape[1]:
        raise BadInput(f"queries and library are rows of one width; got {tuple(queries.shape)} and {tuple(library.shape)}")
    if not len(library) or k < 1:
        raise BadInput(f"at least 1 neighbour of at least 1 row; got k={k} and {len(library)} rows")
    kept = distinct_directions(library)
    k = min(k, len(kept))
    chunks = queries.split(ROWS) if len(queries) else ()
    best: list[_Best] = [_Best(torch.empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64)) for rows in chunks]
    for numbers in kept.split(BLOCK):  # the library outside: each of its blocks is brought to length 1 once
        units = _units(library[numbers], torch.float32)
        best = [_better(known, rows, units, numbers, k) for known, rows in zip(best, chunks, strict=True)]
    found = [_ordered(rows, library, known.rows.sort(1).values, k) for known, rows in zip(best, chunks, strict=True)]
    if not found:
        return Nearest(torch.zeros(0, k, dtype=torch.int64), torch.zeros(0, k, dtype=torch.float64))
    return Nearest(*(torch.cat(part) for part in zip(*found, strict=True)))


def distinct_directions(rows: Tensor) -> Tensor:
    """Numbers of the rows (N, d) that point where none before them does, in order."""
    known: set[bytes] = set()
    kept = []
    for begin in range(0, len(rows), BLOCK):
        units = _units(rows[begin : begin + BLOCK], torch.float32) + 0.0  # + 0.0: minus zero is zero
        for number, unit in enumerate(units.cpu().numpy(), begin):
            digest = blake2b(unit.tobytes(), digest_size=DIGEST).digest()
            if digest not in known:
                known.add(digest)
                kept.append(number)
    return torch.tensor(kept, dtype=torch.int64)


class _Best(NamedTuple):
    """Candidates so far: products (T, n) float32, and the rows (T, n) that they are of."""

    products: Tensor
    rows: Tensor


def _better(known: _Best, queries: Tensor, units: Tensor, numbers: Tensor, k: int) -> _Best:
    """With the rows of one more block, of these numbers."""
    products = torch.cat([known.products, _units(queries, torch.float32) @ units.T], 1)
    rows = torch.cat([known.rows, numbers.expand(len(queries), -1)], 1)
    products, at = products.topk(min(k + SPARE, products.shape[1]), dim=1)
    return _Best(products, rows.gather(1, at))


def _ordered(queries: Tensor, library: Tensor, candidates: Tensor, k: int) -> Nearest:
    """The k best of each query's candidates (T, n), which come in order of their numbers."""
    units, each = _units(queries, torch.float64), []
    for column in candidates.T:  # a candidate of every query at a time: little memory
        each.append((units * _units(library[column], torch.float64)).sum(1))
    similarity, at = torch.stack(each, 1).sort(dim=1, descending=True, stable=True)
    return Nearest(candidates.gather(1, at)[:, :k], similarity[:, :k])


def _units(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of length 1; rows of zeros stay so, and are near nothing. In float64 first: no scale overflows or vanishes."""
    return functional.normalize(rows.double(), dim=1, eps=1e-300).to(dtype)
