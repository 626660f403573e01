"""How good an answer is, by the conventions of the LLaVA-Med paper (Li et al. 2023): closed questions by whether the true answer is
given, open ones by the share of the true answer's words that are said (recall), and its balance with precision (F1).

The original scripts look for the letters "no" anywhere in an answer to a closed question, and find them in "normal" and "not". Here
words are compared with words, and an answer that says both yes and no is wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from medlens.stats.intervals import clustered

ARTICLES = {"a", "an", "the"}
NUMBERS: dict[str, str] = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10",
}  # fmt: skip
YES_NO = {"yes", "no"}
RIGHT = 0.5  # an answer to an open question is right where it has at least this share of the true one's words


class Score(NamedTuple):
    """Of one answer: `hit` (0 or 1) of a closed question; `recall`, `precision`, `f1` (0..1) of an open one; the rest is None."""

    closed: bool
    hit: float | None = None
    recall: float | None = None
    precision: float | None = None
    f1: float | None = None


def normalised(text: str) -> list[str]:
    """The words of an answer, as they are compared: lower case, no punctuation, no articles, small numbers as digits (the
    normalisation of VQA, Antol et al. 2015)."""
    spoken: list[str] = re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?|\d+", text.casefold())
    return [NUMBERS.get(word, word) for word in spoken if word not in ARTICLES]


def score(said: str, truth: str, closed: bool | None = None) -> Score:
    """Score one answer against the true one. closed: whether the question is closed; by default, if its answer is yes or no."""
    ours, true = normalised(said), normalised(truth)
    if closed is None:
        closed = set(true) <= YES_NO and len(true) == 1
    if closed:
        return Score(True, hit=float(_given(ours, true)))
    common = sum((Counter(ours) & Counter(true)).values())
    recall = common / len(true) if true else 0.0
    precision = common / len(ours) if ours else 0.0
    return Score(False, None, recall, precision, 2 * recall * precision / (recall + precision) if common else 0.0)


def right(said: str, truth: str) -> float:
    """1 where an answer is right, else 0: a closed one that is said, an open one of which at least RIGHT of the words are."""
    of_it = score(said, truth)
    return float(of_it.hit if of_it.hit is not None else (of_it.recall or 0) >= RIGHT)


def _given(ours: list[str], true: list[str]) -> bool:
    """Whether the true words are said, one after the other, and the opposite of yes or no is not."""
    said = any(ours[i : i + len(true)] == true for i in range(len(ours) - len(true) + 1))
    opposite = YES_NO - set(true) if set(true) <= YES_NO else set()
    return bool(true) and said and not opposite & set(ours)


def summary(scores: Sequence[Score], images: Sequence[str]) -> pl.DataFrame:
    """One row a measure: `questions` (closed, open), `measure`, `n`, `images`, `value`, and its 95 % interval `low`, `high`,
    clustered by image: questions on one image are not independent."""
    rows = []
    for kind, closed, measures in (("closed", True, ("hit",)), ("open", False, ("recall", "f1"))):
        chosen = [(s, image) for s, image in zip(scores, images, strict=True) if s.closed == closed]
        for measure in measures if chosen else ():
            values, clusters = [getattr(s, measure) for s, _ in chosen], [image for _, image in chosen]
            value, low, high = clustered(values, clusters)
            name = "accuracy" if measure == "hit" else measure
            rows.append((kind, name, len(values), len(set(clusters)), value, low, high))
    columns = {"questions": pl.String, "measure": pl.String, "n": pl.Int64, "images": pl.Int64, "value": pl.Float64}
    return pl.DataFrame(rows, {**columns, "low": pl.Float64, "high": pl.Float64}, orient="row")
