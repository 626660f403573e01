"""Held-out linearity with its interval: the cross-validation run again without each fold."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from medlens.estimates.estimate import Estimate
from medlens.estimates.variants import ORDINARY, RAW
from medlens.measures.held_out import held_out_linearity_from_folds, held_out_linearity_of_update_from_folds
from medlens.stats import Folds, PairSums
from medlens.types import Value

HELD_OUT = {
    "held_out_linearity": held_out_linearity_from_folds,
    "held_out_linearity_of_update": held_out_linearity_of_update_from_folds,
}


def held_out_values(
    folds: Folds[PairSums], massive: Mapping[int, tuple[Tensor, Tensor]], thorough: bool
) -> dict[tuple[str, str], Estimate]:
    """As the rows are, and without the massive ones. thorough: with intervals, which take K (K - 1) / 2 more fits."""
    found = {(name, RAW): _estimate(name, folds, thorough) for name in HELD_OUT}
    if not massive:
        return {**found, **{(name, ORDINARY): estimate for (name, _), estimate in found.items()}} if thorough else found
    ordinary = Folds(PairSums, len(folds))
    ordinary.sums = [sums.without(*massive[k]) if k in massive else sums for k, sums in enumerate(folds)]
    return {**found, **{(name, ORDINARY): _estimate(name, ordinary, thorough) for name in HELD_OUT}}


def _estimate(name: str, folds: Folds[PairSums], thorough: bool) -> Estimate:
    value = HELD_OUT[name](folds)
    if value != value:
        return Estimate(value)
    if not thorough:
        return Estimate(Value(value, value.n, "; ".join(filter(None, [value.note, "no interval: ask for --thorough"]))))
    return Estimate(value, {k: HELD_OUT[name](folds, without=k) for k in folds.filled})
