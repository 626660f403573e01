"""Means and ratios over samples, with what leaving out one group of them (an image, a patient) at a time says of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medlens.stats.intervals import Interval, jackknife, jackknife_share
from medlens.types import Value

Numbers = Tensor | Sequence[float]


def mean_of(values: Numbers, groups: Sequence[str], confidence: float = 0.95) -> tuple[float, Interval]:
    """The mean of values (n), each of a group."""
    return ratio_of(values, [1.0] * len(groups), groups, confidence)


def share_of(values: Numbers, groups: Sequence[str]) -> tuple[float, Interval]:
    """A mean of shares (n), the interval kept within 0..1."""
    full, rest = _left_out(values, [1.0] * len(groups), groups)
    return float(full), jackknife_share(full, rest, len(set(groups)))


def ratio_of(above: Numbers, below: Numbers, groups: Sequence[str], confidence: float = 0.95) -> tuple[float, Interval]:
    """The sum of the one over the sum of the other, (n) each."""
    full, rest = _left_out(above, below, groups)
    return float(full), jackknife(full, rest, confidence)


def _left_out(above: Numbers, below: Numbers, groups: Sequence[str]) -> tuple[Value, list[Value]]:
    """The ratio of the sums, and without each of the groups; none of these where there is but one."""
    numbers = {name: k for k, name in enumerate(dict.fromkeys(groups))}
    at = torch.tensor([numbers[g] for g in groups])
    sums = torch.zeros(3, len(numbers), dtype=torch.float64)
    for k, of in enumerate((above, below, [1.0] * len(groups))):
        sums[k].index_add_(0, at, torch.as_tensor(of, dtype=torch.float64).cpu())
    a, b, n = sums
    full = Value(float(a.sum() / b.sum()), len(groups))
    if len(numbers) < 2:
        return full, []
    rest = zip(a.sum() - a, b.sum() - b, n.sum() - n, strict=True)
    return full, [Value(float(x / y), int(m)) for x, y, m in rest]
