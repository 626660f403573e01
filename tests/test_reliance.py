"""Does the answer rest on the image: against plain forwards, and on phantoms that look, follow a mark, or are blind."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import jensenshannon

import medlens
from medlens import _reliance, store
from medlens._gate import BOUND, Gate, Swapped, divergence, gate_of, gates, of_answer, stamp, swapped
from medlens._reliance.consistency import consistency
from medlens._reliance.shortcuts import covered, looks_written, written
from medlens._reliance.swapping import Judged, mean_of
from medlens._swaps import FEWEST, KINDS, Swap, shuffled, swaps
from medlens.errors import BadInput
from medlens.models.prompt import Look, as_batch
from medlens.report.lights import NOT, RESTING, SHORTCUT, lights, reservations, summary, verdict
from medlens.scoring import right
from medlens.spread import student
from medlens.walk.forward import prepare
from medlens.walk.generate import Decoding, answer_prompt

NO_LOOK = Look(dict, ())


@pytest.fixture(scope="module")
def asked():
    """Some 25 slices, asked two questions each: on half of them something is marked, and half show a lesion."""
    return medlens.phantom.samples(48, 3, ("presence", "place"))


@pytest.fixture(scope="module")
def runs(asked, tmp_path_factory):
    """A run of each of three models."""
    folder = tmp_path_factory.mktemp("reliance")
    with pytest.MonkeyPatch.context() as patch:
        _follow_little(patch)
        return {name: medlens.reliance(f"phantom:{name}", asked, folder / name) for name in ("sound", "shortcut", "textonly")}


def _follow_little(patch):
    """Consistency, and where the image is read, are looked at elsewhere."""
    patch.setattr(_reliance, "consistency", lambda model, prompts, **rest: consistency(model, prompts[:6], **rest))
    patch.setattr(_reliance, "FOLLOWED", 2)
    patch.setattr(_reliance, "PATHS", ("image to all",))


@pytest.fixture(scope="module")
def few(phantom):
    prompts = [prepare(phantom, sample) for sample in medlens.phantom.samples(14, 5)]
    said = [medlens.answer(phantom, prompt.sample, 8) for prompt in prompts]
    return prompts, said, swapped(phantom, prompts, answers=said, seed=2)


# ---- numbers


def test_log_odds_of_an_answer_are_those_of_its_probability():
    logits = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = float(np.prod([logits[k].softmax(-1)[word] for k, word in enumerate((2, 5, 0))]))
    assert of_answer(logits, (2, 5, 0)) == pytest.approx(np.log(p / (1 - p)), abs=1e-12)


def test_log_odds_keep_their_digits_where_the_model_is_sure():
    assert of_answer(torch.tensor([[60.0, 0.0]], dtype=torch.float64), (0,)) == pytest.approx(60)


def test_divergence_is_scipys_in_bits():
    one, other = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    assert divergence(one, other) == pytest.approx(jensenshannon(one.softmax(-1), other.softmax(-1), base=2) ** 2)
    assert divergence(one, one) == 0


def test_swapped_is_what_plain_forwards_say(phantom, few):
    prompts, said, rows = few
    named = {p.sample.id: (p, a) for p, a in zip(prompts, said, strict=True)}
    for row in rows[::7]:
        prompt, answer = named[row.sample]
        read = [_forward(phantom, prompt.tokens.ids, answer.ids, look) for look in (prompt.look, row.swap.look)]
        assert [row.before, row.after] == pytest.approx([of_answer(logits, answer.ids) for logits in read], abs=1e-3)
        assert row.divergence == pytest.approx(divergence(read[0][0], read[1][0]), abs=1e-5)


def _forward(model, ids, answer, look):
    """Logits (answer, V) that predict an answer's tokens: one sequence, no pack."""
    with torch.no_grad():
        logits = model.module(input_ids=as_batch((*ids, *answer), model.device), **look.inputs, use_cache=False).logits[0]
    return logits[len(ids) - 1 : -1].double()


def test_changed_is_whether_the_greedy_answer_changes(phantom, few):
    prompts, said, rows = few
    named = {p.sample.id: (p, str(a)) for p, a in zip(prompts, said, strict=True)}
    tried = rows[::4]
    for row in tried:
        prompt, own = named[row.sample]
        again = answer_prompt(phantom, replace(prompt, look=row.swap.look), Decoding(8))
        assert row.changed == (str(again) != own)
    assert {row.changed for row in tried} == {True, False}


# ---- swaps


def test_every_question_has_its_swaps(few):
    prompts, _, rows = few
    of_each = {p.sample.id: [row.swap for row in rows if row.sample == p.sample.id] for p in prompts}
    samples = {p.sample.id: p.sample for p in prompts}
    for sample, found in of_each.items():
        assert len(found) >= FEWEST
        assert {swap.kind for swap in found} <= set(KINDS)
        for swap in found:
            donor = samples.get(swap.donor)
            if swap.kind == "other":
                assert donor.question_type == samples[sample].question_type
                assert donor.answer != samples[sample].answer
            if swap.kind == "alike":
                assert donor.tags["modality"] == samples[sample].tags["modality"]
            assert donor is None or donor.image_id != samples[sample].image_id


def test_one_patient_lends_nothing_and_made_images_make_up_for_it(phantom):
    drawn = medlens.phantom.samples(12, 1)
    prompts = [prepare(phantom, medlens.Sample(s.image, s.question, id=s.id, image_id=s.image_id, patient_id="p")) for s in drawn]
    for found in swaps(phantom, prompts, [""] * len(prompts), 0):
        assert len(found) == FEWEST
        assert {swap.kind for swap in found} == {"blank", "noise", "shuffled"}


def test_shuffling_moves_whole_tiles():
    pixels = np.arange(9 * 10, dtype=np.uint8).reshape(9, 10)
    moved = np.asarray(shuffled(Image.fromarray(pixels), np.random.default_rng(0), 2))
    assert sorted(moved.ravel()) == sorted(pixels.ravel())
    assert (moved[8] == pixels[8]).all()
    tiles = [pixels[y : y + 4, x : x + 5].tobytes() for y, x in itertools.product((0, 4), (0, 5))]
    assert sorted(moved[y : y + 4, x : x + 5].tobytes() for y, x in itertools.product((0, 4), (0, 5))) == sorted(tiles)


# ---- the gate


def _row(shift, kind="noise"):
    return Swapped("s", Swap(kind, 0, "i", NO_LOOK), 1.0, 1.0 + shift, False, 0.0)


@pytest.mark.parametrize(("shifts", "rests"), [([0.1] * 7 + [-2.0], True), ([0.9] * 8, False), ([-0.99, 0.99], False)])
def test_the_largest_shift_decides(shifts, rests):
    found = gate_of("s", [_row(shift) for shift in shifts])
    assert (found.rests, found.swaps, found.bound) == (rests, len(shifts), BOUND)
    assert found.shift == pytest.approx(max(map(abs, shifts)))


def test_without_an_image_nothing_rests_on_it(phantom):
    (found,) = gates(phantom, [prepare(phantom, medlens.Sample(question="is there a lesion ?", id="q"))])
    assert not found.rests
    assert "no image" in found.words


def test_stamp_counts():
    one, other = (Gate(str(rests), rests, 1.0, 1.0, 8, "words") for rests in (True, False))
    assert stamp([one, one]).startswith("all 2")
    assert stamp([one, other]).startswith("1 of 2 answers do not")
    assert stamp([other]) == "words"


def test_sound_answers_pass_and_blind_ones_do_not(runs):
    rests = {name: run.gates["rests"].mean() for name, run in runs.items()}
    assert rests["sound"] >= 0.95
    assert rests["textonly"] <= 0.05


def test_another_place_changes_place_answers(runs):
    kinds = runs["sound"].samples.select("sample", "question_type")
    other = runs["sound"].reliance.filter(pl.col("swap") == "other").join(kinds, on="sample")
    assert other.filter(question_type="place")["changed"].mean() >= 0.95
    assert not runs["textonly"].reliance["changed"].any()


# ---- summed up


def test_means_leave_out_whole_images():
    judged = [Judged(str(k), "abcd"[k % 4], float(x)) for k, x in enumerate((1, 0, 3, 2, 5, 1, 0, 2, 2))]
    found = mean_of(judged, "shift")
    left = [np.mean([j.number for j in judged if j.unit != unit]) for unit in "abcd"]
    half = student(3, 0.025) * np.sqrt(3 / 4 * sum((x - np.mean(left)) ** 2 for x in left))
    mean = np.mean([j.number for j in judged])
    assert (found["value"], found["low"], found["high"]) == pytest.approx((mean, mean - half, mean + half))
    assert (found["n"], found["images"]) == (9, 4)


def test_right_goes_by_the_conventions_of_scoring():
    assert right("Yes, there is.", "yes") == 1
    assert right("no", "yes") == 0
    assert right("the upper left", "upper left") == 1
    assert right("lower right", "upper left") == 0


# ---- marks


def test_marks_are_found_without_being_told():
    drawn = medlens.phantom.samples(60, 8, "presence")
    for sample in drawn:
        grey = np.asarray(sample.image)
        true = next((r.array() for r in sample.regions if r.name == "mark"), np.zeros_like(grey, bool))
        found = looks_written(grey)
        assert not true.any() or (found & true).sum() >= 0.9 * true.sum()


def test_covers_touch_neither_mark_nor_lesion():
    sample = next(s for s in medlens.phantom.samples(80, 8, "presence") if s.tags["mark"] != "none" and s.tags["count"] == 1)
    mark = written(sample, 0)
    assert mark is not None
    lesion = next(r.array() for r in sample.regions if r.name != "mark")
    for control in mark.controls:
        assert control.sum() == mark.mask.sum()
        assert not (control & (mark.mask | lesion)).any()
    changed = np.asarray(covered(sample.image, mark.mask)) != np.asarray(sample.image)
    assert changed.any()
    assert not (changed & ~mark.mask).any()


def test_only_the_shortcut_is_caught(runs):
    followed = {name: set(run.shortcuts.filter(pl.col("followed"))["group"]) for name, run in runs.items()}
    assert followed == {"sound": set(), "shortcut": {"presence", "place"}, "textonly": set()}


# ---- run, page, comparison


def test_three_models_three_verdicts(runs):
    assert [verdict(run) for run in runs.values()] == [RESTING, SHORTCUT, NOT]
    assert [{light.colour for light in lights(run)} for run in runs.values()] == [{"green"}, {"amber"}, {"red"}]


def test_few_images_are_a_reservation(runs, tmp_path):
    assert [reservations(run) for run in runs.values()] == ["", "", ""]  # all green; and behind other verdicts there are none
    few = store.open_run(shutil.copytree(runs["sound"].path, tmp_path / "few"))
    changed = pl.when(pl.col("group") == "place").then(3).otherwise(pl.col("images")).cast(pl.Int64).alias("images")
    few.reliance_by.with_columns(changed).write_parquet(few.path / "reliance_by.parquet")
    few = store.open_run(few.path)
    assert reservations(few) == "with reservations for 1 of 2 types of question"
    told = json.loads((few.path / "manifest.json").read_text())
    told["data"]["name"] = "scans"
    (few.path / "manifest.json").write_text(json.dumps(told))
    page = medlens.make_report(few.path).read_text()
    assert "<strong>rests on the image</strong>, with reservations for 1 of 2 types of question." in page
    assert "its answers to these images mean nothing" in page
    assert "mean nothing" not in runs["sound"].report.read_text()


def test_the_page_says_so(runs):
    for run in runs.values():
        page = run.report.read_text()
        assert verdict(run) in page
        assert "<script" not in page
        assert "Where the image is read" in page


def test_what_comes_from_data_is_escaped(asked, phantom, tmp_path, monkeypatch):
    _follow_little(monkeypatch)
    named = [
        medlens.Sample(s.image, s.question, id=s.id, image_id=s.image_id, question_type="<b>bold</b>") for s in asked[:6]
    ]  # fmt: skip
    run = medlens.reliance(phantom, named, tmp_path / "run")
    page = run.report.read_text()
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
    assert "guess" not in summary(run).drop_nulls().columns or summary(run)["guess"].null_count() == summary(run).height


def test_compared_in_one_table(runs, tmp_path):
    found = medlens.compare(list(runs.values()))
    assert found.summary.row(0) == ("verdict", RESTING, SHORTCUT, NOT)
    assert SHORTCUT in found.write(tmp_path / "out").read_text()


def test_finished_runs_are_found_again(runs, asked):
    assert medlens.reliance("phantom:sound", asked, runs["sound"].path).path == runs["sound"].path


# ---- bad input


def test_nothing_to_swap_in(phantom, tmp_path):
    asked = medlens.phantom.samples(4, 0)
    with pytest.raises(BadInput, match="one image"):
        medlens.reliance(phantom, [s for s in asked if s.image_id == asked[0].image_id], tmp_path / "run")
    with pytest.raises(BadInput, match="none of 1 samples"):
        medlens.reliance(phantom, [medlens.Sample(question="is there a lesion ?", id="q")], tmp_path / "run")
    with pytest.raises(BadInput, match="one process"):
        medlens.reliance(phantom, asked, tmp_path / "run", medlens.Plan(workers=2))
    assert not list(tmp_path.iterdir())
