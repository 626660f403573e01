"""`medlens.answer_all` and `medlens answer`: the file, its scores, and what happens when it is stopped."""

import json

import pytest

import medlens
from medlens.errors import BadInput, BadRun
from medlens.plan import Plan
from medlens.scoring import score

PLAN = Plan(limit=30, max_new_tokens=8)


@pytest.fixture(scope="module")
def whole(phantom, tmp_path_factory):
    return medlens.answer_all(phantom, "phantom", PLAN, tmp_path_factory.mktemp("answers") / "answers.jsonl")


def test_lines_are_the_creators_format(whole, phantom):
    lines = [json.loads(line) for line in whole.path.read_text().splitlines()]
    assert lines == whole.records
    samples = medlens.phantom.samples(30)
    for line, sample in zip(lines, samples, strict=True):
        assert list(line) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
        assert (line["question_id"], line["prompt"], line["model_id"]) == (sample.id, sample.question, "phantom")
        assert line["text"] == medlens.answer(phantom, sample, 8)
        assert line["metadata"]["answer"] == sample.answer
    assert len({line["answer_id"] for line in lines}) == 30


def test_scores_are_those_of_the_lines(whole):
    closed = [r for r in whole.records if r["metadata"]["closed"]]
    row = whole.scores.filter(questions="closed").to_dicts()[0]
    assert row["n"] == len(closed)
    assert row["value"] == pytest.approx(sum(score(r["text"], r["metadata"]["answer"]).hit for r in closed) / len(closed))
    assert row["low"] <= row["value"] <= row["high"]


def test_a_stopped_job_goes_on(whole, phantom, tmp_path):
    """After a kill, also in the middle of a line."""
    out, part = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.part"
    lines = whole.path.read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:7]) + lines[7][:20])
    asked = []

    class Watcher:
        def planned(self, forecast): ...
        def begin(self, phase, steps):
            self.phase = phase

        def tick(self):
            asked.append(self.phase)

    found = medlens.answer_all(phantom, "phantom", PLAN, out, watcher=Watcher())
    assert out.read_text() == whole.path.read_text()
    assert found.records == whole.records
    assert not part.exists()
    assert asked.count("answering") == 30


def test_an_answer_with_other_separators_is_one_line(phantom, tmp_path, monkeypatch):
    """U+2028 ends a line for str.splitlines, not in a file of JSON lines: such a job must be found again."""
    odd = medlens.Answer("left\u2028and \x85 right", [5], [-0.1])
    monkeypatch.setattr("medlens._answers.answer_prompt", lambda *_: odd)
    first = medlens.answer_all(phantom, "phantom", Plan(limit=3), tmp_path / "a.jsonl")
    assert medlens.answer_all(phantom, "phantom", Plan(limit=3), tmp_path / "a.jsonl").records == first.records


def test_a_finished_job_is_found_so(whole, phantom, monkeypatch):
    monkeypatch.setattr("medlens._answers.answer_prompt", lambda *_: pytest.fail("asked again"))
    assert medlens.answer_all(phantom, "phantom", PLAN, whole.path).records == whole.records


@pytest.mark.parametrize("held", ["other", "text", "json"])
def test_another_jobs_file_is_left_alone(whole, phantom, tmp_path, held):
    out = tmp_path / "answers.jsonl"
    content = {"other": whole.path.read_text(), "text": "precious\n", "json": '{"precious": 1}\n'}[held]
    out.write_text(content)
    with pytest.raises(BadRun, match=r"answers\.jsonl holds .*; choose another --out"):
        medlens.answer_all(phantom, "phantom", Plan(limit=30, max_new_tokens=8, seed=1), out)
    assert out.read_text() == content


def test_what_the_data_call_closed_is_closed(phantom, tmp_path):
    (sample,) = medlens.phantom.samples(1, questions="modality")
    for said, closed in (("CLOSED ", True), ("OPEN", False)):
        asked = medlens.Sample(sample.image, sample.question, id="1", answer=sample.answer, tags={"answer_type": said})
        (record,) = medlens.answer_all(phantom, [asked], PLAN, tmp_path / f"{closed}.jsonl").records
        assert record["metadata"]["closed"] is closed
        assert record["question_id"] == 1


def test_without_true_answers_there_are_no_scores(phantom, tmp_path):
    (sample,) = medlens.phantom.samples(1)
    found = medlens.answer_all(phantom, [medlens.Sample(sample.image, sample.question)], PLAN, tmp_path / "answers.jsonl")
    assert found.scores.height == 0
    assert "answer" not in found.records[0]["metadata"]


def test_drawn_answers(phantom):
    """By seed; the sharper the distribution the more often the greedy one; the caller's generator is left alone."""
    import torch

    torch.manual_seed(3)
    before = torch.get_rng_state()
    model, (sample,) = medlens.load("phantom:random"), medlens.phantom.samples(1)
    hot = [str(medlens.answer(model, sample, 6, temperature=5.0, seed=s)) for s in (1, 1, 2, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert hot[0] == hot[1]
    assert len(set(hot)) > 2
    greedy = medlens.answer(model, sample, 6)
    assert {medlens.answer(model, sample, 6, temperature=5.0, top_p=1e-6, seed=s) for s in range(3)} == {greedy}
    assert greedy.logprobs == pytest.approx(medlens.answer(model, sample, 6, temperature=5.0, top_p=1e-6).logprobs)


def test_stop_words(phantom):
    sample = next(s for s in medlens.phantom.samples(200) if s.question_type == "place" and s.answer != "none")
    whole = medlens.answer(phantom, sample)
    first, second = whole.split()
    cut = medlens.answer(phantom, sample, stop=[second])
    assert (str(cut), cut.ended) == (first, True)
    assert len(cut.ids) == 2
    assert medlens.answer(phantom, sample, stop=["zebra"]) == whole


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("temperature", -1, "0 \\(greedy\\)"),
        ("top_p", 0, "a share"),
        ("top_p", 1.5, "a share"),
        ("stop", ("",), "none of them empty"),
    ],
)
def test_settings_that_make_no_sense(field, value, says):
    with pytest.raises(BadInput, match=says):
        Plan(**{field: value})
