"""Sums of unit rows, by image: all that mean cosines need."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from medlens.stats.moments import as_rows


class CosineSums:
    """Per image: how many rows and the sum of their unit rows. Rows of length zero have no direction: left out and counted."""

    def __init__(self) -> None:
        self.counts: dict[Hashable, int] = {}
        self.sums: dict[Hashable, Tensor] = {}
        self.zeros = 0

    @classmethod
    def empty(cls) -> CosineSums:
        return cls()

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    def update(self, x: Tensor, image: Hashable = None) -> None:
        """x (n, d): rows of one image."""
        x = as_rows(x)
        # Scaled by its largest entry first: the squares of float64 overflow from 1e154 on.
        scale = x.abs().amax(1, keepdim=True)
        alive = scale[:, 0] > 0
        unit = x[alive] / scale[alive]
        unit = unit / unit.norm(dim=1, keepdim=True)
        self.zeros += int((~alive).sum())
        if len(unit):
            self._add(image, len(unit), unit.sum(0))

    def merge(self, other: CosineSums) -> CosineSums:
        self.zeros += other.zeros
        for image, count in other.counts.items():
            self._add(image, count, other.sums[image])
        return self

    def _add(self, image: Hashable, count: int, total: Tensor) -> None:
        self.counts[image] = self.counts.get(image, 0) + count
        self.sums[image] = self.sums[image] + total if image in self.sums else total

    def total(self) -> Tensor:
        return torch.stack([*self.sums.values()]).sum(0)
