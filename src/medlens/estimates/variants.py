"""Every measure that follows from sums, of the rows as they are, without the massive ones, and with standardised columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from medlens.measures import MEASURES
from medlens.measures.spectrum import effective_rank_from_sums
from medlens.stats import Moments, PairSums
from medlens.types import Value

RAW, ORDINARY, STANDARDISED = "raw", "without massive", "standardised"
Values = dict[tuple[str, str], Value]  # by measure and variant


class Which(NamedTuple):
    """What is computed. spectrum: the effective rank too, whose eigenvalues cost most. variants: more than the raw one."""

    spectrum: bool
    variants: bool


def pair_values(pairs: PairSums, massive: tuple[Tensor, Tensor] | None, variants: bool) -> Values:
    """Of a block. massive: the rows x, y with a massive activation in either; None: there are none."""
    found = _each("pairs", lambda measure: measure(pairs), RAW)
    if not variants:
        return found
    for name in ("linearity", "linearity_of_update"):
        found[name, STANDARDISED] = MEASURES[name].of_sums(pairs, standardised=True)
    if massive is None:
        return {**found, **{(name, ORDINARY): value for (name, variant), value in found.items() if variant == RAW}}
    ordinary = pairs.without(*massive)
    return {**found, **_each("pairs", lambda measure: measure(ordinary), ORDINARY)}


def moment_values(moments: Moments, massive: Tensor | None, which: Which) -> Values:
    """Of a state."""
    found = _of_moments(moments, RAW, which)
    if not which.variants:
        return found
    found |= _of_moments(moments.standardised() if moments.n > 1 else moments, STANDARDISED, which)
    if massive is None:
        return {**found, **{(name, ORDINARY): value for (name, variant), value in found.items() if variant == RAW}}
    return {**found, **_of_moments(moments.without(massive), ORDINARY, which)}


def _of_moments(moments: Moments, variant: str, which: Which) -> Values:
    def find(measure: Callable[[Moments], Value]) -> Value | None:
        return None if measure is effective_rank_from_sums and not which.spectrum else measure(moments)

    return _each("moments", find, variant)


def _each(needs: str, find: Callable[[Callable[..., Value]], Value | None], variant: str) -> Values:
    found = {(name, variant): find(measure.of_sums) for name, measure in MEASURES.items() if measure.needs == needs}
    return {key: value for key, value in found.items() if value is not None}
