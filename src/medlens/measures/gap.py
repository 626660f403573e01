"""The modality gap: how far the directions of image states lie from those of text states."""

from __future__ import annotations

import torch
from torch import Tensor

from medlens.stats.checked import as_rows
from medlens.stats.cosines import CosineSums
from medlens.types import Value


def modality_gap(x: Tensor, y: Tensor) -> Value:
    """Distance between the centroids of the unit rows of x (n, d) and y (m, d), the states of image and of text tokens: 0..2.

    Rows of length zero have no direction: left out and counted. Undefined where either has no row. It is positive for any two
    samples, so read it against `split`: the same rows, divided at random. Raises NotFinite, and BadInput for another shape.
    Source: Liang et al. 2022, Mind the Gap.
    """
    sums = CosineSums(), CosineSums()
    for of, rows in zip(sums, (x, y), strict=True):
        of.update(as_rows(rows))
    return modality_gap_from_sums(*sums)


def modality_gap_from_sums(x: CosineSums, y: CosineSums) -> Value:
    """`modality_gap` of the rows summed in x and y."""
    n, zeros = x.n + y.n, x.zeros + y.zeros
    if not x.n or not y.n:
        return Value.undefined(n, f"{x.n} image rows and {y.n} text rows that have a direction")
    note = f"{zeros} rows of length zero left out" if zeros else ""
    return Value(float((x.total / x.n - y.total / y.n).norm()), n, note)


def split(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same rows, divided at random into as many as x and as many as y: what the gap is where there is none."""
    rows = torch.cat([x, y])
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    return rows[order[: len(x)]], rows[order[len(x) :]]
