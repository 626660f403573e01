"""Intervals: of shares, and of any measure by leaving out one fold at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from medlens.errors import BadInput
from medlens.spread import clustered as clustered
from medlens.spread import jackknife_error, student
from medlens.spread import wilson as wilson
from medlens.types import Value


class Interval(NamedTuple):
    """The two ends, or neither of them and the reason in `note`."""

    low: float | None
    high: float | None
    note: str = ""


def jackknife(full: Value, left_out: Sequence[Value], confidence: float = 0.95) -> Interval:
    """Delete-a-fold interval of a measure: full +- t sqrt((K-1)/K x sum of (left out - their mean)^2).

    full: the value on all folds; left_out: the K values without one fold each, of the folds that have rows; t has K - 1 degrees
    of freedom (with the normal distribution five folds would cover only 0.84 to 0.92). It covers the estimator's mean at this
    number of rows, not an infinite population. Not valid for the largest eigenvalue near a tie, nor for the place of a peak.
    Undefined below two folds and where any of the values is. Source: Tukey 1958; Efron and Stein 1981.
    """
    k = len(left_out)
    if k < 2:
        return Interval(None, None, f"no interval: rows in {k} fold{'s' * (k != 1)}, two are needed")
    if math.isnan(full):
        return Interval(None, None, f"no interval: {full.note}")
    for value in left_out:
        if math.isnan(value):
            return Interval(None, None, f"no interval: with one fold less, {value.note}")
    half = float(student(k - 1, (1 - confidence) / 2) * jackknife_error(left_out))
    return Interval(full - half, full + half)


def jackknife_share(full: Value, left_out: Sequence[Value], units: int) -> Interval:
    """`jackknife` of a mean share, kept within 0..1. A share of 0 or 1 that no fold changes would have an interval of no width:
    there it is Wilson's, of so many independent units (images), as in `clustered`."""
    low, high, note = jackknife(full, left_out)
    if low is None or high is None:
        return Interval(low, high, note)
    if low == high and full in (0, 1):
        return Interval(*wilson(float(full), units), "no image differs: Wilson's interval")
    return Interval(max(0.0, low), min(1.0, high))


def subsampled(full: Value, values: Sequence[Value], share: float, confidence: float = 0.95) -> Interval:
    """An interval from subsets of whole images, drawn at random without replacement: a second opinion on `jackknife`.

    full: the value on all images; values: on each of the subsets, which hold this `share` of the images. How they scatter about
    their mean, times sqrt(share / (1 - share)), is how `full` scatters about its own: subsets of m of N images differ from the
    whole by the variance 1/m - 1/N, where the whole has 1/N. About their mean and not about `full`, because what depends on the
    number of rows lies elsewhere on fewer; like the jackknife's it covers the estimator's mean at this number of rows.
    Undefined where any of the values is, or they are too few to have such quantiles. Raises BadInput for a share outside (0, 1).
    Source: Politis and Romano 1994, Annals of Statistics 22:2031; the correction for large subsets: Politis, Romano and Wolf 1999.
    """
    if not 0 < share < 1:
        raise BadInput(f"a subset holds a share of the images between 0 and 1; got {share}")
    need = math.ceil(2 / (1 - confidence) - 1e-9)
    if len(values) < need:
        return Interval(None, None, f"no interval: {len(values)} subsets, {need} are needed")
    for value in (full, *values):
        if math.isnan(value):
            return Interval(None, None, f"no interval: {value.note}")
    mean, scale = sum(values) / len(values), math.sqrt(share / (1 - share))
    off = sorted(scale * (value - mean) for value in values)
    tail = int((1 - confidence) / 2 * len(off) + 1e-9)
    return Interval(full - off[-1 - tail], full - off[tail])
