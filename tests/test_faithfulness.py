"""Where maps lie, what they are worth, and who is best: measures beside obvious loops, cards and the benchmark on the phantoms."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import medlens
from medlens._explain.card import _judged
from medlens._gate import Gate
from medlens.errors import BadData, BadInput
from medlens.measures.faithfulness import area, rank_correlation, schedule
from medlens.measures.localization import covered_shares, energy, iou_ratio, pointing
from medlens.models.registration import boxes
from medlens.plan import Plan
from medlens.saliency.asked import Asked
from medlens.saliency.integrated import integrated_gradients
from medlens.saliency.pixels import covered, mean_colour, pixels_of, values_on
from medlens.stats.intervals import jackknife
from medlens.types import Value
from medlens.walk.cases import cases
from medlens.walk.forward import prepare
from medlens.walk.target import LogOdds, Word

CHARTS = True
BOXES = np.array([[8 * (k % 4), 8 * (k // 4), 8 * (k % 4) + 8, 8 * (k // 4) + 8] for k in range(16)], float)
MASK = np.zeros((32, 32), bool)
MASK[9:15, 17:22] = True  # inside cell 6 alone


# ---- measures


def test_shares_are_those_of_fine_sampling():
    draw = np.random.default_rng(0)
    mask = draw.random((20, 30)) < 0.4
    edges = draw.uniform(-5, 25, (6, 4))
    boxes = np.stack([edges[:, 0], edges[:, 1], edges[:, 0] + abs(edges[:, 2]) + 1, edges[:, 1] + abs(edges[:, 3]) + 1], 1)
    boxes[-1] = np.nan
    found = covered_shares(boxes, mask)
    for (left, top, right, bottom), share in zip(boxes[:-1], found, strict=False):
        x = left + (np.arange(1000) + 0.5) / 1000 * (right - left)
        y = top + (np.arange(1000) + 0.5) / 1000 * (bottom - top)
        inside = ((y >= 0) & (y < 20))[:, None] & ((x >= 0) & (x < 30))[None]
        sampled = mask[np.clip(y.astype(int), 0, 19)][:, np.clip(x.astype(int), 0, 29)] & inside
        assert abs(sampled.mean() - share) < 5e-3
    assert found[-1] == 0


def test_pointing():
    at = lambda cell: np.eye(16)[cell]
    assert pointing(at(6), BOXES, MASK, 0) == 1
    assert pointing(at(5), BOXES, MASK, 4) == 0  # its middle is 5 pixels away
    assert pointing(at(5), BOXES, MASK, 5) == 1
    assert pointing(at(5) + at(6), BOXES, MASK, 0) == 0.5
    assert pointing(np.ones(16), BOXES, MASK, 0) == 1 / 16  # knows nothing: what chance does
    assert pointing(at(6), BOXES, np.zeros_like(MASK), 99) == 0


def test_iou_and_energy():
    shares = covered_shares(BOXES, MASK)
    assert iou_ratio(np.eye(16)[6], shares, 1 / 16) == 1  # the best that cells can do
    assert iou_ratio(np.eye(16)[0], shares, 1 / 16) == 0
    assert energy(np.eye(16)[6], shares) == pytest.approx(30 / 64)
    assert energy(np.eye(16)[6] - np.eye(16)[0], shares) == pytest.approx(30 / 64)  # what speaks against has no energy
    assert np.isnan(energy(-np.ones(16), shares))


def test_curves():
    assert area([1, 1, 1]) == 1
    assert area([4, 2, 0]) == 2
    assert schedule(64, 8) == list(range(0, 65, 8))
    assert schedule(10, 4) == [0, 2, 5, 8, 10]
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 8, 9])) == pytest.approx(1)
    assert rank_correlation(np.ones(3), np.array([1.0, 2, 3])) == 0


# ---- cards


@pytest.fixture(scope="module")
def ill():
    drawn = medlens.phantom.samples(40, 31, "presence")
    return [s for s in drawn if [r.name != "mark" for r in s.regions].count(True) == 1]


@pytest.fixture(scope="module")
def told(phantom, ill):
    return medlens.explain(phantom, ill[0], methods=("relevance", "centre"), tokens=False)


def test_a_card(told):
    relevance, centre = told.cards
    assert told.gate.rests
    assert relevance.verdict == "trust"
    assert {(c.check, c.of) for c in relevance.checks} >= {
        ("deletion", "blur"),
        ("insertion", "noise"),
        ("slight noise", "rank correlation"),
    }
    assert "its energy lies on" in relevance.said
    assert centre.verdict == "do not trust"
    assert any("the same when the weights are drawn anew" in why for why in centre.why)  # it never looked at any weight


def test_a_model_that_does_not_look_is_not_trusted(ill):
    blind = medlens.explain("phantom:textonly", ill[0], methods=("relevance",), tokens=False)
    assert not blind.gate.rests
    assert blind.cards[0].verdict == "do not trust"
    assert "does not depend on the image" in blind.cards[0].why[0]


@pytest.mark.slow
def test_the_shortcut_is_seen_on_the_mark():
    """Where there are a mark and a lesion: what covering pixels takes from the "yes" of the model that was taught the mark."""
    model, drawn = medlens.load("phantom:shortcut"), medlens.phantom.samples(60, 32, "presence")
    both = [s for s in drawn if {r.name == "mark" for r in s.regions} == {True, False}][:4]
    lost = {"mark": 0.0, "lesion": 0.0}
    for sample in both:
        (found,) = medlens.explain(
            model, sample, target="yes", methods=("pixel_occlusion",), tokens=False, card=False
        ).maps  # fmt: skip
        for region in sample.regions:
            shares = covered_shares(found.boxes, region.array())
            lost["mark" if region.name == "mark" else "lesion"] += float((np.maximum(found.values, 0) * shares).sum())
    assert lost["mark"] > 3 * lost["lesion"]


@pytest.mark.slow
def test_deletion_by_the_best_method_beats_random_order(phantom):
    """60 samples, 8 steps: what integrated gradients mark goes first, or as many tokens in random order; intervals apart."""
    draw, areas = np.random.default_rng(0), {"own": [], "random": []}
    drawn = medlens.phantom.samples(700, 33, "presence")
    for sample in [s for s in drawn if [r.name != "mark" for r in s.regions].count(True) == 1][:60]:
        prompt = prepare(phantom, sample)
        word = phantom.tokenizer.convert_tokens_to_ids("yes")
        asked = Asked(cases(phantom, [prompt])[0], LogOdds(Word(len(prompt.tokens) - 1, word)))
        image = sample.image
        placed = boxes(phantom, image, prompt.look)
        inside, blank = pixels_of(placed, (image.height, image.width)), mean_colour(image)
        values = integrated_gradients(phantom, asked, 4).values
        for name, order in (("own", np.argsort(-values)), ("random", draw.permutation(len(values)))):
            pictures = [covered(image, blank, inside, order[:n]) for n in schedule(len(values), 8)]
            areas[name].append(area(values_on(phantom, prompt, asked.target, pictures)))
    assert len(areas["own"]) == 60
    own, random = (
        jackknife(Value(np.mean(of), 60), [Value(float(np.mean(np.delete(of, k))), 59) for k in range(60)]) for of in areas.values()
    )
    assert own.high < random.low


def test_the_verdict_is_a_function_of_the_checks(told):
    checks = told.cards[0].checks
    rests, not_so = (replace(told.gate, rests=rests) for rests in (True, False))
    assert _judged("m", checks, rests).verdict == "trust"
    assert _judged("m", checks, not_so).verdict == "do not trust"
    worse = [c._replace(passed=False) if c.check == "deletion" else c for c in checks]
    assert "random order (" in _judged("m", worse, rests).why[0]
    assert isinstance(told.gate, Gate)


def test_what_is_taken_away_is_what_the_tokens_cover(told):
    image, inside = told.image, [np.zeros(told.maps[0].size, bool) for _ in range(2)]
    inside[0][:4, :4], inside[1][4:, :4] = True, True
    gone = np.asarray(covered(image, np.zeros_like(np.asarray(image)), inside, np.array([1])))
    assert (gone[4:, :4] == 0).all()
    assert (gone[:4] == np.asarray(image)[:4]).all()


def test_the_card_is_written(told, tmp_path):
    page = told.write(tmp_path / "maps").read_text()
    assert "do not trust" in page
    assert "✓" in page
    assert pl.read_parquet(tmp_path / "maps" / "checks.parquet")["method"].unique().sort().to_list() == ["centre", "relevance"]
    manifest = json.loads((tmp_path / "maps" / "manifest.json").read_text())
    assert manifest["gate"]["rests"]
    assert manifest["truth"] == "yes"
    assert "<dt>True answer</dt><dd><bdi>yes</bdi></dd>" in page


# ---- the benchmark


@pytest.fixture(scope="module")
def board(phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("board") / "run"
    return medlens.benchmark_maps(phantom, methods=("gradcam_attention", "relevance"), out=out, plan=Plan(limit=150, seed=5))


def of(board, method, kind="all", measure="pointing"):
    return board.leaderboard.filter(question_type=kind, finding="all", method=method, measure=measure).to_dicts()[0]


def test_the_leaderboard(board):
    relevance, centre, uniform = (of(board, name) for name in ("relevance", "centre", "uniform"))
    assert relevance["value"] >= 0.85
    assert relevance["low"] > centre["high"]
    assert uniform["value"] < 0.15
    assert {row["best"] for row in board.leaderboard.filter(method="centre").to_dicts()} == {False}
    assert set(board.leaderboard["question_type"]) == {"all", "type", "presence", "place"}
    assert set(board.leaderboard["finding"]) >= {"all", "mass", "cyst", "nodule"}


def test_the_block_was_chosen_on_other_images(board):
    curve = board.layers.filter(question_type="type", method="gradcam_attention")
    best = curve.filter(half="discovery").sort("value")["layer"][-1]
    chosen = of(board, "gradcam_attention", "type")
    assert (
        curve.filter(half="discovery", layer=chosen["layer"])["value"][0] == curve.filter(half="discovery", layer=best)["value"][0]
    )
    assert chosen["value"] == curve.filter(half="test", layer=chosen["layer"])["value"][0]
    discovery, test = (curve.filter(half=half)["images"].max() for half in ("discovery", "test"))
    assert 0 < discovery < test


def test_its_page(board):
    page = board.report.read_text()
    assert "<script" not in page
    assert page.count("<svg") == 8
    assert "Questions of place" in page


def test_a_random_model_does_not_find_it(tmp_path):
    run = medlens.benchmark_maps("phantom:random", methods=("relevance",), out=tmp_path / "run", plan=Plan(limit=120, seed=5))
    assert of(run, "relevance")["high"] < 0.5


def test_bad_input(phantom, tmp_path, ill):
    with pytest.raises(BadInput, match="methods are"):
        medlens.benchmark_maps(phantom, methods=("saliency",), out=tmp_path / "a")
    with pytest.raises(BadInput, match="images have something to be found; 33 are needed"):
        medlens.benchmark_maps(phantom, ill, out=tmp_path / "b")
    bare = [medlens.Sample(s.image, s.question, id=s.id, answer=s.answer) for s in ill]
    with pytest.raises(BadData, match="has an answer and a region"):
        medlens.benchmark_maps(phantom, bare, out=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
