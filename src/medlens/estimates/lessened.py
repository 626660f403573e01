"""Sums without one fold: taken out of the total where that is summed, else the others merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from medlens.stats import Folds, Moments, PairSums
from medlens.stats.scatter import Scatter


def lessened(total: Any, of_groups: Sequence[Folds[Any]]) -> Iterator[tuple[int, Any]]:
    """For each fold that has rows: its number, and the total (of all the groups) without it. At least two folds, else nothing."""
    filled = sorted({k for folds in of_groups for k in folds.filled})
    if len(filled) < 2:
        return
    for k in filled:
        parts = [folds[k] for folds in of_groups if folds[k].n]
        yield k, _less(total, parts, k, of_groups)


def _less(total: Any, parts: Sequence[Any], k: int, of_groups: Sequence[Folds[Any]]) -> Any:
    moments: Moments = total.x if isinstance(total, PairSums) else total
    left = moments.n - sum(part.n for part in parts)
    if isinstance(moments.form, Scatter) and left > moments.d:
        others = [sums for folds in of_groups for j, sums in enumerate(folds) if j != k]
        distinct = {row for sums in others for row in (sums.x if isinstance(sums, PairSums) else sums).distinct}
        return total.less(parts, set(sorted(distinct)[: moments.d + 2]))
    merged = of_groups[0].without(k)
    for folds in of_groups[1:]:
        merged.merge(folds.without(k))
    return merged
