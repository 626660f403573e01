"""Confidence: how sure the model is of its answers, held against how often they are right; and what abstaining buys."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from medlens.measures.calibration import (
    BINS,
    brier,
    equal_mass_bins,
    expected_calibration_error,
    selective_accuracy,
    squared_calibration_error,
)
from medlens.scoring import right, score
from medlens.stats.intervals import jackknife, jackknife_share
from medlens.types import Answer, Value
from medlens.walk.cases import Prompt

COVERAGES = tuple(k / 10 for k in range(1, 11))
DRAWS = 200  # of answers withheld at random

Row = dict[str, Any]


class Judged(NamedTuple):
    """One answer: its sample, the patient or image, the probability that the model gives it, whether it is right (0 or 1), and
    whether the question is closed (its true answer is yes or no)."""

    sample: str
    unit: str
    confidence: float
    right: float
    closed: bool


def judged(prompts: Sequence[Prompt], said: Sequence[Answer | str]) -> list[Judged]:
    """The answers whose truth is known and that the model wrote itself (a given answer has no probabilities, and is left out).

    The confidence is the probability of the answer as a whole: the product over its tokens, the end among them. Of a long free
    answer it is small whatever the model knows: calibration means something for closed questions and short answers.
    """
    found = []
    for prompt, text in zip(prompts, said, strict=True):
        truth = prompt.sample.answer
        if truth is not None and isinstance(text, Answer) and text.logprobs:
            sure, closed = math.exp(sum(text.logprobs)), score(text, truth).closed
            found.append(Judged(prompt.sample.id, prompt.unit, sure, right(text, truth), closed))
    return found


def calibration(answers: Sequence[Judged]) -> list[Row]:
    """Rows of the table `calibration`, of all answers and of closed ones: bins of equal mass (accuracy at the mean confidence),
    ECE, debiased squared calibration error, Brier score, accuracy; with intervals that leave out one image (patient) at a time."""
    found: list[Row] = []
    for group, own in (("all", answers), ("closed", [one for one in answers if one.closed])):
        if not own:
            continue
        for k, part in enumerate(equal_mass_bins([a.confidence for a in own], [a.right for a in own])):
            of_it = _bin(own, k)
            row = _left_out(of_it, lambda some: Value(float(np.mean([a.right for a in some])), len(some)), share=True)
            found.append({"group": group, "measure": "bin", "bin": k, "confidence": part.confidence, **row})
        for name, measure in MEASURES.items():
            row = _left_out(own, measure, share=name == "accuracy")
            found.append({"group": group, "measure": name, "bin": None, "confidence": None, **row})
    return found


def _bin(own: Sequence[Judged], k: int) -> list[Judged]:
    order = np.argsort([a.confidence for a in own], kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [own[i] for i in parts[k]]


def _of(function: Callable[[Sequence[float], Sequence[float]], Value]) -> Callable[[Sequence[Judged]], Value]:
    return lambda some: function([a.confidence for a in some], [a.right for a in some])


MEASURES: dict[str, Callable[[Sequence[Judged]], Value]] = {
    "ece": _of(expected_calibration_error),
    "squared": _of(squared_calibration_error),
    "brier": _of(brier),
    "accuracy": lambda some: Value(float(np.mean([a.right for a in some])), len(some)),
}


def abstaining(
    answers: Sequence[Judged], rests: dict[str, bool], consistent: dict[str, bool], *, seed: int = 0
) -> list[Row]:  # fmt: skip
    """Rows of the table `confidence`: the accuracy of the answers that are given, when others are withheld.

    Curves: confidence (the least sure are withheld, down to each of COVERAGES), random (as many withheld at random: the control,
    with the middle 95 % of DRAWS draws), and one point each: rests (answers that do not depend on the image are withheld),
    consistent (those that any change contradicted), both. rests, consistent: by sample; samples that they do not name are given.
    """
    if not answers:
        return []
    found = [_point("confidence", c, answers, lambda some, c=c: _selected(some, c)) for c in COVERAGES]
    given = {
        "rests": [a for a in answers if rests.get(a.sample, True)],
        "consistent": [a for a in answers if consistent.get(a.sample, True)],
        "both": [a for a in answers if rests.get(a.sample, True) and consistent.get(a.sample, True)],
    }
    for curve, own in given.items():
        found.append(_point(curve, len(own) / len(answers), own, MEASURES["accuracy"]))
    coverages = {row["coverage"] for row in found} - {0.0}
    return [*found, *(_random(answers, coverage, seed) for coverage in sorted(coverages))]


def _selected(some: Sequence[Judged], coverage: float) -> Value:
    return selective_accuracy([a.confidence for a in some], [a.right for a in some], coverage)


def _point(curve: str, coverage: float, own: Sequence[Judged], measure: Callable[[Sequence[Judged]], Value]) -> Row:
    if not own:
        note = "every answer would be withheld"
        return {"curve": curve, "coverage": 0.0, "value": None, "low": None, "high": None, "n": 0, "images": 0, "note": note}
    return {"curve": curve, "coverage": coverage, **_left_out(own, measure, share=True)}


def _random(answers: Sequence[Judged], coverage: float, seed: int) -> Row:
    rng, hits = np.random.default_rng(seed), np.array([a.right for a in answers])
    kept = max(1, round(coverage * len(hits)))
    drawn = [float(rng.choice(hits, kept, replace=False).mean()) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    images = len({a.unit for a in answers})
    row = {"curve": "random", "coverage": coverage, "value": float(hits.mean()), "low": float(low), "high": float(high)}
    return row | {"n": kept, "images": images, "note": f"the middle 95 % of {DRAWS} draws"}


def _left_out(own: Sequence[Judged], measure: Callable[[Sequence[Judged]], Value], share: bool) -> Row:
    """The measure, and its interval by leaving out one image (patient) at a time."""
    units = list(dict.fromkeys(a.unit for a in own))
    full = measure(own)
    left = [measure([a for a in own if a.unit != unit]) for unit in units] if len(units) > 1 else []
    low, high, note = jackknife_share(full, left, len(units)) if share else jackknife(full, left)
    value = None if math.isnan(full) else float(full)
    return {"value": value, "low": low, "high": high, "n": full.n, "images": len(units), "note": full.note or note}
