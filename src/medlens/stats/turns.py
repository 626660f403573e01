"""Sums of how far a block turns its rows: all that block influence and angular distance need."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.checked import as_rows
from medlens.stats.flat import need


class TurnSums:
    """How many pairs of rows, and the sums of their cosines and angles. Pairs in which a row is zero have none: counted apart."""

    def __init__(self, n: int = 0, zeros: int = 0, cosines: float = 0.0, angles: float = 0.0) -> None:
        self.n, self.zeros, self.cosines, self.angles = n, zeros, cosines, angles

    @classmethod
    def empty(cls) -> TurnSums:
        return cls()

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> TurnSums:
        new = cls()
        new.update(x, y)
        return new

    def update(self, x: Tensor, y: Tensor) -> None:
        """x, y (n, d): the same tokens before and after. Raises NotFinite, and BadInput unless they have the same shape."""
        x, y = as_rows(x), as_rows(y)
        if x.shape != y.shape:
            raise BadInput(f"rows of shape {tuple(x.shape)} do not turn into rows of shape {tuple(y.shape)}")
        sizes = [rows.abs().amax(1, keepdim=True) for rows in (x, y)]
        alive = (sizes[0][:, 0] > 0) & (sizes[1][:, 0] > 0)
        u, v = (rows[alive] / size[alive] for rows, size in zip((x, y), sizes, strict=True))
        u, v = (rows / rows.norm(dim=1, keepdim=True) for rows in (u, v))
        self.n += len(u)
        self.zeros += int((~alive).sum())
        self.cosines += float((u * v).sum())
        # Not by the arccosine, which has no digits left near 0 and pi (Kahan 2006).
        self.angles += float((2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))).sum())

    def merge(self, other: TurnSums) -> TurnSums:
        """Add the other's pairs to these. An empty one is neutral."""
        self.n, self.zeros = self.n + other.n, self.zeros + other.zeros
        self.cosines, self.angles = self.cosines + other.cosines, self.angles + other.angles
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved; `from_tensors` is the exact inverse."""
        counts = {name: torch.tensor(getattr(self, name)) for name in ("n", "zeros")}
        return counts | {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in ("cosines", "angles")}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> TurnSums:
        """Raises BadRun for missing or unknown names."""
        need("sums of turns", tensors, cls().tensors())
        return cls(int(tensors["n"]), int(tensors["zeros"]), float(tensors["cosines"]), float(tensors["angles"]))
