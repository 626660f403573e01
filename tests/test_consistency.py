"""Consistency, calibration and abstaining: against asking one by one, loops, and models that fail."""

import itertools
import math
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

import medlens
from medlens import store
from medlens._reliance.confidence import COVERAGES, Judged, abstaining, calibration, judged
from medlens._reliance.consistency import (
    KINDS,
    SIDED,
    changes,
    consistency,
    contradictions,
    contradicts,
    mirrored_words,
    paraphrases,
)
from medlens.measures.calibration import (
    brier,
    equal_mass_bins,
    expected_calibration_error,
    selective_accuracy,
    squared_calibration_error,
)
from medlens.report.confidence import confidence_section
from medlens.report.consistency import consistency_section
from medlens.stats.intervals import clustered
from medlens.types import Sample
from medlens.walk.cases import cases
from medlens.walk.forward import prepare
from medlens.walk.generate import answer_together

module = sys.modules["medlens._reliance.consistency"]  # the package has a function of this name
PICTURES = module.PICTURES


@pytest.fixture(scope="module")
def prompts(phantom):
    """Place and side on twelve slices, a third of them healthy."""
    drawn = medlens.phantom.samples(100, 17, ("place", "side"))
    ill, healthy = [s for s in drawn if s.answer != "none"][:16], [s for s in drawn if s.answer == "none"][:8]
    return [prepare(phantom, sample) for sample in ill + healthy]


@pytest.fixture(scope="module")
def each(phantom, prompts):
    return consistency(phantom, prompts)


def of(rows, kind, group):
    (row,) = [row for row in rows if (row["kind"], row["question_type"]) == (kind, group)]
    return row


def test_left_and_right_swap_in_words():
    assert mirrored_words("Left lung, RIGHT rib; the right one is bright, upright, leftover") == (
        "Right lung, LEFT rib; the left one is bright, upright, leftover"
    )
    assert all(mirrored_words(mirrored_words(text)) == text for text in ("upper left", "Is it Right or left?", ""))


@pytest.mark.parametrize(
    ("said", "expected", "apart"),
    [
        ("Yes", "yes, it is", True),  # a third of the words: too few to say the same
        ("yes", "Yes.", False),
        ("yes", "no", True),
        ("upper left", "lower left", True),
        ("upper left", "upper right", True),
        ("the mass", "mass", False),
        ("two small nodules in the lung", "three small nodules in the lung", True),
        ("there is a large mass in the lung", "a large mass is in the lung", False),
        ("there is no mass in the lung", "there is a mass in the lung", True),
        ("", "", False),
        ("", "mass", True),
    ],
)
def test_what_contradicts(said, expected, apart):
    assert contradicts(said, expected) == contradicts(expected, said) == apart


def test_answers_that_name_a_side_swap_in_a_mirror_and_others_do_not(each, prompts):
    rows = contradictions(each)
    assert of(rows, "mirrored", SIDED)["n"] >= 16
    assert of(rows, "mirrored", SIDED)["contradicted"] <= 0.05
    swapped = [row for row in each if row["kind"] == "mirrored" and row["sided"] and not row["contradicted"]]
    assert all(row["own"] != row["said"] for row in swapped)
    assert of(rows, "mirrored", "all")["contradicted"] <= 0.05
    assert of(rows, "paraphrased", "all")["contradicted"] <= 0.05
    assert {row["kind"] for row in each} == set(KINDS) - {"order"}  # none of these questions is closed


def test_relations_turn_round_in_a_mirror(phantom):
    """The same question of the mirrored image: "left of the midline?" is answered the other way."""
    drawn = [s for s in medlens.phantom.samples(80, 18, "relation") if s.answer != "none"][:20]
    mirrored = [Sample(ImageOps.mirror(s.image), s.question, image_id=f"mirrored {s.image_id}") for s in drawn]
    own, other = (answer_together(phantom, [prepare(phantom, s) for s in asked]) for asked in (drawn, mirrored))
    assert np.mean([{str(a), str(b)} == {"yes", "no"} for a, b in zip(own, other, strict=True)]) >= 0.95


def test_models_that_do_not_look_or_look_at_the_mark_have_nothing_that_swaps(prompts):
    for name in ("phantom:textonly", "phantom:shortcut"):
        model = medlens.load(name)
        rows = contradictions(consistency(model, [prepare(model, prompt.sample) for prompt in prompts[:10]]))
        sided = of(rows, "mirrored", SIDED)
        if name == "phantom:textonly":  # consistent, because it sees nothing; but nothing has shown it
            assert sided["n"] == 0
            assert sided["contradicted"] is None
            assert "names a side" in sided["note"]
            assert of(rows, "brighter", "all")["contradicted"] == 0
        else:
            assert sided["contradicted"] > 0.3


def test_asked_together_is_asked_one_by_one(phantom, each, prompts):
    """Some of the changed questions, each with its own picture, through transformers' own generation."""
    images = {prompt.sample.id: prompt.sample.image for prompt in prompts}
    for row in each[::30]:
        image, kind = images[row["sample"]], row["kind"]
        picture = ImageOps.mirror if kind == "mirrored" else PICTURES.get(kind, lambda image: image)
        assert str(medlens.answer(phantom, Sample(picture(image), row["question"]), 16)) == row["said"]


def test_questions_on_a_picture_share_a_pack(phantom, prompts, monkeypatch):
    laid = []

    def spied(model, asked, *args, **kwargs):
        laid.append(cases(model, asked))
        return answers(model, asked, *args, **kwargs)

    answers = module.answers
    monkeypatch.setattr(module, "answers", spied)
    both = [p for p in prompts if p.image == prompts[0].image]
    assert len(both) == 2
    consistency(phantom, both)
    assert [len(packs) for packs in laid] == [1, 1 + len(PICTURES) + 1]  # own; paraphrases, each picture, the mirror


def test_shares_and_intervals_are_those_of_the_rows(each):
    for row in contradictions(each):
        own = [e for e in each if row["kind"] in ("any", e["kind"])]
        own = [
            e for e in own if row["question_type"] in ("all", e["question_type"]) or (row["question_type"] == SIDED and e["sided"])
        ]
        expected = clustered([float(e["contradicted"]) for e in own], [e["unit"] for e in own])
        assert (row["contradicted"], row["low"], row["high"]) == pytest.approx(expected)
        assert row["n"] == len(own)


def test_closed_questions_are_asked_in_both_orders(phantom):
    drawn = medlens.phantom.samples(2, 3, "presence")
    each = consistency(phantom, [prepare(phantom, sample) for sample in drawn])
    order = [row for row in each if row["kind"] == "order"]
    assert len(order) == 2
    assert all(row["question"].endswith("no or yes ?") for row in order)
    kinds = [change.kind for change in changes(drawn[0], "mass")]
    assert "order" not in kinds
    assert kinds.count("paraphrased") == 3


def test_templates_reword_questions_that_have_no_paraphrases():
    assert paraphrases("Is there a mass in this image?")[0] == "Does the image show a mass?"
    assert paraphrases("Why?") == ["Look at the image and answer. Why?"]
    assert all("\\" not in words for words in paraphrases("How many ribs are there ?"))


def test_pictures_keep_size_and_kind():
    grey = Image.fromarray(np.arange(63 * 40, dtype=np.uint32).reshape(63, 40).astype(np.uint8))
    for image, (name, picture) in itertools.product((grey, grey.convert("RGB")), PICTURES.items()):
        made = picture(image)
        assert (made.size, made.mode) == (image.size, image.mode), name
        assert np.asarray(made).tolist() != np.asarray(image).tolist(), name


def test_without_images_there_is_nothing_to_change(phantom, prompts):
    blind = prepare(phantom, Sample(question="is there a lesion on the image ?", id="blind"))
    assert consistency(phantom, [blind]) == []
    assert contradictions([]) == []


# ---- calibration


def drawn(n, seed=0):
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.3, 1, n)
    return sure.tolist(), (rng.random(n) < sure).astype(float).tolist()


def test_calibration_is_what_loops_give():
    sure, right = drawn(103)
    order = sorted(range(103), key=lambda k: sure[k])
    sizes = [11] * 3 + [10] * 7  # 103 in ten parts
    ece = squared = at = 0.0
    for size in sizes:
        part, at = order[int(at) : int(at) + size], at + size
        a, c = sum(right[k] for k in part) / size, sum(sure[k] for k in part) / size
        ece += size * abs(a - c) / 103
        squared += size * ((a - c) ** 2 - a * (1 - a) / (size - 1)) / 103
    assert expected_calibration_error(sure, right) == pytest.approx(ece)
    assert squared_calibration_error(sure, right) == pytest.approx(squared)
    assert brier(sure, right) == pytest.approx(sum((s - r) ** 2 for s, r in zip(sure, right, strict=True)) / 103)
    assert [b.n for b in equal_mass_bins(sure, right)] == sizes


def test_the_debiased_error_of_calibrated_answers_is_around_zero_and_ece_is_not():
    squared, ece = zip(
        *[(squared_calibration_error(*d), expected_calibration_error(*d)) for d in map(drawn, [100] * 300, range(300))],
        strict=False,
    )
    assert abs(np.mean(squared)) < 4 * np.std(squared) / math.sqrt(300)
    assert min(ece) > 0.03
    wrong = [(s, 1 - r) for s, r in zip(*drawn(100), strict=True)]
    assert squared_calibration_error(*zip(*wrong, strict=True)) > 0.05


def test_selective_accuracy_is_the_mean_over_all_orders_of_ties():
    sure, right = [0.9, 0.5, 0.5, 0.5, 0.1], [1, 1, 0, 0, 1]
    for kept in (1, 2, 3, 4, 5):
        orders = [p for p in itertools.permutations(range(5)) if all(sure[a] >= sure[b] for a, b in itertools.pairwise(p))]
        expected = np.mean([np.mean([right[k] for k in p[:kept]]) for p in orders])
        assert selective_accuracy(sure, right, kept / 5) == pytest.approx(expected)
    assert math.isnan(selective_accuracy(sure, right, 0.0))
    assert math.isnan(brier([], []))
    assert math.isnan(expected_calibration_error([], []))
    assert math.isnan(squared_calibration_error([0.5], [1]))


def test_confidence_is_the_probability_of_the_answer(phantom, prompts):
    said = answer_together(phantom, prompts[:4], 16)
    found = judged(prompts[:4], said)
    assert [one.confidence for one in found] == pytest.approx([math.prod(map(math.exp, text.logprobs)) for text in said])
    assert [one.right for one in found] == [float(str(t) == p.sample.answer) for p, t in zip(prompts[:4], said, strict=True)]
    unknown = replace(prompts[0], sample=Sample(prompts[0].sample.image, "what ?"))
    assert judged([unknown, prompts[0]], [said[0], "mass"]) == []  # no truth; no probabilities


def test_abstaining_buys_what_it_withholds():
    """Forty images of four answers: one is wrong, and least sure; the gate finds it, consistency withholds a right one."""
    answers = [Judged(f"{i}-{k}", str(i), 0.9 - 0.2 * k, float(k < 3), closed=k > 1) for i in range(40) for k in range(4)]
    rests, consistent = ({a.sample: not a.sample.endswith(end) for a in answers} for end in ("3", "0"))
    rows = abstaining(answers, rests, consistent)
    value = {(r["curve"], round(r["coverage"], 3)): r["value"] for r in rows}
    assert value["confidence", 1.0] == 0.75
    assert value["confidence", 0.7] == 1
    assert len(COVERAGES) == 10
    assert value["rests", 0.75] == 1
    assert value["consistent", 0.75] == pytest.approx(2 / 3)
    assert value["both", 0.5] == 1
    control = [r for r in rows if r["curve"] == "random"]
    assert all(r["value"] == 0.75 and r["low"] <= 0.75 <= r["high"] for r in control)
    assert {r["coverage"] for r in control} == {r["coverage"] for r in rows}
    nothing = abstaining(answers, dict.fromkeys(rests, False), {})
    assert [r["note"] for r in nothing if r["curve"] == "rests"] == ["every answer would be withheld"]
    assert abstaining([], {}, {}) == []
    assert calibration([]) == []


def test_tables_and_sections_are_made_of_the_rows(each):
    answers = [
        Judged(f"{i}-{k}", str(i), 0.5 + 0.01 * i, float((i + k) % 3 > 0), closed=k > 1) for i in range(20) for k in range(4)
    ]
    made = {"changes": each, "consistency": contradictions(each), "calibration": calibration(answers)}
    made["confidence"] = abstaining(answers, {}, {})
    tables = {name: pl.DataFrame(rows, store.TABLES[name], orient="row") for name, rows in made.items()}
    assert all(set(rows[0]) == set(store.TABLES[name]) for name, rows in made.items())
    bins = tables["calibration"].filter(measure="bin", group="all")
    assert bins["n"].sum() == 80
    assert (bins["low"] <= bins["value"]).all()
    assert (bins["value"] <= bins["high"]).all()
    section = consistency_section(tables["consistency"])
    assert section["said"].endswith("swap left and right when the image is mirrored.")
    assert "<svg" in section["chart"]
    charts = confidence_section(tables["calibration"], tables["confidence"])
    assert "<svg" in charts["reliability"]
    assert "<svg" in charts["abstaining"]
    assert len(charts["points"]) == 3
