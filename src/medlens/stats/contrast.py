"""Contrasts: the mean where something is true, and how far it is from the mean where it is false, with intervals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.spread import jackknife_error, student


class Sure(NamedTuple):
    """A value of each column, and its 95 % interval, (columns,) each, in float64."""

    value: Tensor
    low: Tensor
    high: Tensor


class Contrast(NamedTuple):
    """true: the mean where it is true. difference: that, less the mean where it is false."""

    true: Sure
    difference: Sure


class Contrasts:
    """Sums by fold of whole images, and by whether it is true: memory does not grow with the number of rows."""

    def __init__(self, folds: int, columns: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(folds, 2, columns, dtype=torch.float64, device=device)
        self.n = torch.zeros(folds, 2, dtype=torch.float64, device=device)

    def add(self, fold: int, true: bool, row: Tensor) -> None:
        """One row (columns,)."""
        self.sums[fold, int(true)] += row
        self.n[fold, int(true)] += 1

    def contrast(self) -> Contrast:
        """With the delete-a-fold jackknife (Tukey 1958) over the folds that have rows; see `intervals.jackknife`. Raises BadInput
        where there are no rows of one kind, or where all of a kind lie in one fold."""
        filled = self.n.sum(1) > 0
        sums, n = self.sums[filled], self.n[filled]
        rest = n.sum(0) - n
        if len(n) < 2 or not bool((rest > 0).all()):
            raise BadInput(f"a contrast needs rows of both kinds in two folds; got {n.sum(0).int().tolist()} in {len(n)}")
        left_out = ((sums.sum(0) - sums) / rest[..., None]).cpu()
        false, true = (sums.sum(0) / n.sum(0)[:, None]).cpu()
        return Contrast(_sure(true, left_out[:, 1]), _sure(true - false, left_out[:, 1] - left_out[:, 0]))


def _sure(value: Tensor, left_out: Tensor) -> Sure:
    half = float(student(len(left_out) - 1, 0.025)) * torch.from_numpy(jackknife_error(left_out.numpy()))
    return Sure(value, value - half, value + half)
