"""Calibration: whether an answer given with probability p is right p of the time; and what it buys to withhold some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medlens.types import Value

BINS = 10


class Bin(NamedTuple):
    """Some answers of nearly equal confidence: how many, their mean confidence, and the share of them that is right."""

    n: int
    confidence: float
    accuracy: float


def equal_mass_bins(confidence: Sequence[float], right: Sequence[float], bins: int = BINS) -> list[Bin]:
    """The answers in order of confidence, cut into `bins` parts whose sizes differ by at most one (fewer bins where there are fewer
    answers). Equal widths would leave most bins nearly empty: models are mostly sure. Source: Nixon et al. 2019."""
    sure, hit = np.asarray(confidence, float), np.asarray(right, float)
    order = np.argsort(sure, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [Bin(len(part), float(sure[part].mean()), float(hit[part].mean())) for part in parts]


def expected_calibration_error(confidence: Sequence[float], right: Sequence[float], bins: int = BINS) -> Value:
    """ECE: mean over answers of |accuracy - confidence| of their bin (0..1).

    It is biased upwards: of a perfectly calibrated model it is about sqrt(2 p (1 - p) / (pi n)) in each bin of n answers, not 0;
    see `squared_calibration_error`. Source: Naeini et al. 2015; Guo et al. 2017.
    """
    n = len(confidence)
    if not n:
        return Value.undefined(0, "no answers")
    return Value(sum(b.n * abs(b.accuracy - b.confidence) for b in equal_mass_bins(confidence, right, bins)) / n, n)


def squared_calibration_error(confidence: Sequence[float], right: Sequence[float], bins: int = BINS) -> Value:
    """Debiased: mean over answers of (accuracy - confidence)^2 of their bin, less the variance that n answers lend the accuracy,
    a (1 - a) / (n - 1). Around 0, and as often below as above, where the model is calibrated. Undefined where a bin has one
    answer. Source: Kumar, Liang and Ma 2019."""
    found = equal_mass_bins(confidence, right, bins)
    if not found or min(b.n for b in found) < 2:
        return Value.undefined(len(confidence), "a bin with fewer than two answers")
    parts = [b.n * ((b.accuracy - b.confidence) ** 2 - b.accuracy * (1 - b.accuracy) / (b.n - 1)) for b in found]
    return Value(sum(parts) / len(confidence), len(confidence))


def brier(confidence: Sequence[float], right: Sequence[float]) -> Value:
    """Mean of (confidence - right)^2: of the answer given alone, not of all that could be. Source: Brier 1950."""
    if not len(confidence):
        return Value.undefined(0, "no answers")
    return Value(float(np.mean((np.asarray(confidence, float) - np.asarray(right, float)) ** 2)), len(confidence))


def selective_accuracy(confidence: Sequence[float], right: Sequence[float], coverage: float) -> Value:
    """Share of right answers among the `coverage` (0..1) of them that are given with most confidence; of answers of equal
    confidence at the edge, each counts in part (no order of the data is better than another). Source: El-Yaniv and Wiener 2010."""
    sure, hit = np.asarray(confidence, float), np.asarray(right, float)
    kept = round(coverage * len(sure))
    if not kept:
        return Value.undefined(0, "no answer is kept")
    edge = np.sort(sure)[-kept]
    above, at = sure > edge, sure == edge
    return Value(float((hit[above].sum() + (kept - above.sum()) * hit[at].mean()) / kept), kept)
