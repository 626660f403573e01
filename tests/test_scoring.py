"""Scores by the conventions of the LLaVA-Med paper; the intervals against a bootstrap by image."""

from collections import Counter

import numpy as np
import pytest

from medlens.scoring import normalised, score, summary
from medlens.stats.intervals import clustered


@pytest.mark.parametrize(
    ("said", "truth", "hit"),
    [
        ("yes", "yes", 1),
        ("Yes, there is a mass.", "YES", 1),
        ("No.", "yes", 0),
        ("The lung is normal, yes.", "yes", 1),
        ("the heart is not enlarged", "no", 0),  # letters of "no" in "not": the original scripts count this as no
        ("It is normal", "no", 0),
        ("yes and no", "yes", 0),
        ("", "no", 0),
        ("there is no evidence", "no", 1),
    ],
)
def test_yes_and_no(said, truth, hit):
    assert score(said, truth) == (True, hit, None, None, None)


@pytest.mark.parametrize(
    ("said", "truth", "hit"),
    [("on the right side", "right side", 1), ("right", "left", 0), ("side right", "right side", 0), ("2 lesions", "two", 1)],
)
def test_closed_questions_with_other_answers(said, truth, hit):
    assert score(said, truth, closed=True).hit == hit


def test_open_questions():
    assert score("a mass in the left lung", "left lung") == (False, None, 1.0, 0.5, pytest.approx(2 / 3))
    assert score("nothing", "left lung") == (False, None, 0.0, 0.0, 0.0)
    assert score("", "left lung") == (False, None, 0.0, 0.0, 0.0)
    assert score("left left left", "left lung").precision == pytest.approx(1 / 3)  # a word is found once for each time it is true
    assert score("yes", "yes", closed=False).recall == 1


def test_f1_is_the_definition():
    rng = np.random.default_rng(0)
    words = ["left", "lung", "mass", "heart", "right", "small"]
    for _ in range(200):
        said, truth = (list(rng.choice(words, rng.integers(1, 8))) for _ in range(2))
        common = sum(min(Counter(said)[w], Counter(truth)[w]) for w in words)
        got = score(" ".join(said), " ".join(truth), closed=False)
        assert got.recall == pytest.approx(common / len(truth))
        assert got.precision == pytest.approx(common / len(said))
        if common:
            assert got.f1 == pytest.approx(2 / (len(truth) / common + len(said) / common))


def test_words_are_compared_without_dress():
    assert normalised("The  3.5-cm Mass, (left)!") == ["3.5", "cm", "mass", "left"]
    assert normalised("an É-panchement two") == ["é", "panchement", "2"]
    assert normalised("12 x2") == ["12", "x", "2"]
    assert normalised("…") == []


def test_summary_clusters_by_image():
    closed = [score("yes", "yes")] * 6 + [score("no", "yes")] * 6
    together = summary(closed, ["a"] * 6 + ["b"] * 6).to_dicts()[0]
    apart = summary(closed, [str(i) for i in range(12)]).to_dicts()[0]
    assert (together["value"], together["n"], together["images"]) == (0.5, 12, 2)
    assert together["high"] - together["low"] > 1.5 * (apart["high"] - apart["low"])
    both = summary([*closed, score("left lung", "lung")], [str(i) for i in range(13)])
    assert both["measure"].to_list() == ["accuracy", "recall", "f1"]
    assert summary([], []).height == 0


@pytest.mark.slow
def test_the_clustered_interval_covers():
    """Images of different difficulty, several questions each: 95 % of the intervals hold the mean difficulty."""
    rng = np.random.default_rng(1)
    covered, narrow = [], []
    for _ in range(1500):
        hard = rng.beta(4, 2, 60)
        clusters = np.repeat(np.arange(60), 6)
        hits = rng.random(360) < hard[clusters]
        _, low, high = clustered(hits.astype(float).tolist(), clusters.tolist())
        covered.append(low <= 4 / 6 <= high)
        _, low, high = clustered(hits.astype(float).tolist(), list(range(360)))  # negative control: images forgotten
        narrow.append(low <= 4 / 6 <= high)
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(narrow) < 0.90


def test_without_variance_the_units_are_the_clusters():
    mean, low, high = clustered([1.0] * 20, ["a"] * 10 + ["b"] * 10)
    assert (mean, high) == (1.0, 1.0)
    assert low < 0.4  # two images, not twenty answers
    assert clustered([0.5], ["a"]) == (0.5, 0.0, 1.0)
