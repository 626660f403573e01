"""`medlens.phantom.evaluate`: its bookkeeping, against models whose answers are written down here."""

import numpy as np
import polars as pl
import pytest

import medlens
from medlens.phantom import evaluation
from medlens.phantom.questions import QUESTIONS, ask
from medlens.walk.forward import prepare
from medlens.walk.generate import Decoding, answer_prompt, answer_together

N, SEED = 1500, 77


def asked(n=N):
    stream = ask(SEED)
    return [next(stream) for _ in range(n)]


def fake(monkeypatch, says):
    """Let the model's answers be `says(sample)`."""
    monkeypatch.setattr(evaluation, "_answers", lambda model, samples, tick: [says(s) for s in samples])
    return evaluation.evaluate(type("Fake", (), {"name": "fake"})(), N, SEED)  # pyright: ignore


def oracle():
    """What is true of every image and question of the draw, as an oracle that sees both."""
    slices = {a.sample.image_id: a.drawn for a in asked()}
    questions = {a.sample.id: a.question for a in asked()}
    return lambda s: "?" if s.image_id == "blank" else questions[s.id].truth(slices[s.image_id])


def test_a_perfect_reader(monkeypatch):
    found = fake(monkeypatch, oracle())
    table = found.questions()
    assert (table["accuracy"] == 1).all()
    assert (table["follows"] == 1).all()
    assert (table["blank"] == 0).all()
    assert (table["swapped"] == table["predicted"]).all()
    assert (table["unchanged"] == table["predicted"]).all()
    assert table["predicted"].max() < 0.75  # the swap tells a reader from a guesser
    assert table["question"].to_list() == [*QUESTIONS, "all"]
    assert table["n"].sum() == 2 * N
    assert set(found.marks()["share"].round(6)) == {1.0, 0.0}


def test_one_who_never_looks(monkeypatch):
    table = fake(monkeypatch, lambda s: "none").questions()
    rows = {row["question"]: row for row in table.to_dicts()}
    assert (table["unchanged"] == 1).all()
    assert (table["accuracy"] == table["blank"]).all()
    assert rows["type"]["accuracy"] == rows["type"]["guess"] > 0.5
    assert rows["presence"]["accuracy"] == 0


def test_one_who_follows_the_mark(monkeypatch):
    marked = {a.sample.image_id: a.drawn.mark is not None for a in asked()}
    found = fake(monkeypatch, lambda s: "yes" if marked.get(s.image_id) else "no")
    share = {(row["mark and lesion"], row["answer follows the"]): row["share"] for row in found.marks().to_dicts()}
    assert share == {("together", "lesion"): 1, ("apart", "lesion"): 0, ("apart", "mark"): 1}


def test_groups_count_what_they_say(monkeypatch):
    """One who knows nothing of ultrasound and errs on large lesions."""
    truth = oracle()
    slices = {a.sample.image_id: a.drawn for a in asked()}

    def says(sample):
        drawn = slices.get(sample.image_id)
        large = drawn and len(drawn.lesions) == 1 and 2 * drawn.lesions[0].radius >= 12
        return "?" if drawn is None or drawn.modality == "ultrasound" or large else truth(sample)

    found = fake(monkeypatch, says)
    groups = {row["group"]: row for row in found.groups().to_dicts()}
    assert groups["ultrasound"]["modality"] == 0
    assert groups["large"]["presence"] == 0
    assert 0 < groups["ct"]["presence"] < 1
    assert 0 < groups["small"]["presence"] < 1
    assert groups["small"]["larger"] is None  # asked of two lesions only
    by_hand = found.answers.filter(pl.col("modality") == "ct", pl.col("question_type") == "count")
    assert groups["ct"]["count"] == pytest.approx(np.mean([a == b for a, b in by_hand[["said", "truth"]].iter_rows()]))
    assert sum(groups[m]["images"] for m in ("ct", "mri", "xray", "ultrasound")) == len(slices)


def test_the_swapped_image_is_another_that_fits_the_question():
    drawn = asked()
    for a, b in zip(drawn, evaluation._others(drawn, np.random.default_rng(0)), strict=True):
        assert b is not None
        assert b.drawn is not a.drawn
        assert a.question.truth(b.drawn)  # raises where the question does not fit


def test_without_any_other_image_nothing_is_made_up(monkeypatch):
    monkeypatch.setattr(evaluation, "_answers", lambda model, samples, tick: ["yes" for _ in samples])
    table = evaluation.evaluate(type("Fake", (), {"name": "fake"})(), 3, SEED).questions()  # pyright: ignore
    assert table["swapped"].is_null().all()
    assert table["follows"].is_null().all()


def test_no_questions_are_refused(phantom):
    with pytest.raises(medlens.MedlensError, match="n is at least 1; got 0"):
        medlens.phantom.evaluate(phantom, n=0)


def test_same_draw_same_table(phantom):
    one, two = (medlens.phantom.evaluate(phantom, n=40, seed=3) for _ in range(2))
    assert one.answers.equals(two.answers)
    assert one.model == "phantom"


def test_answers_together_are_answers_one_by_one(phantom):
    samples = medlens.phantom.samples(60, seed=5)
    prompts = [prepare(phantom, s) for s in samples]
    done = []
    together = answer_together(phantom, [*prompts, prompts[0]], max_new_tokens=8, tick=lambda: done.append(1))
    one_by_one = [answer_prompt(phantom, p, Decoding(8)) for p in prompts]
    assert together == [*one_by_one, one_by_one[0]]
    assert len(done) == len(samples) + 1
    for a, b in zip(together, one_by_one, strict=False):
        assert (a.ids, a.ended) == (b.ids, b.ended)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    assert len({len(a.ids) for a in together}) > 1  # some end before others


def test_answers_together_stop_at_the_cap(phantom):
    prompts = [prepare(phantom, s) for s in medlens.phantom.samples(8, seed=5, questions=("place", "modality"))]
    cut = answer_together(phantom, prompts, max_new_tokens=1)
    assert all(len(a.ids) == 1 and not a.ended for a in cut)
