"""Units found by attribution, proved and read: against finite differences, brute force, and models that know nothing."""

import copy
import itertools
import math
from dataclasses import replace
from statistics import mean, pstdev

import numpy as np
import pytest
import torch
from transformers.models.mistral.modeling_mistral import MistralRMSNorm

import medlens
from medlens import hooks
from medlens._neurons.cards import verdict
from medlens._neurons.concepts import FEWEST, concepts_of, places_of
from medlens._neurons.find import find
from medlens._neurons.look import Seen, overlap
from medlens.errors import BadInput, BadModel
from medlens.instruments.attribution import Attribution, Place
from medlens.measures.overlap import best_iou, iou
from medlens.measures.units import domain_entropy
from medlens.stats.contrast import Contrasts
from medlens.walk.again import Again
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare, walk
from medlens.walk.intervene import down, units_noted, units_scaled, units_set, units_swapped
from medlens.walk.reverse import steps_back
from medlens.walk.room import Room
from medlens.walk.target import LogOdds, Word
from medlens.walk.units import Names


@pytest.fixture(scope="module")
def asked():
    """Some 30 slices, of which a mass is to be seen on a third."""
    drawn = medlens.phantom.samples(170, 11, "type")
    return [s for s in drawn if s.answer == "mass"][:10] + [s for s in drawn if s.answer != "mass"][:22]


def run(model, asked, folder, cards=2, heads=False, **options):
    return medlens.neurons(model, asked, "mass", "finding", folder, cards=cards, draws=20, heads=heads, **options)


@pytest.fixture(scope="module")
def found(phantom, asked, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medlens._neurons.heads.PAIRS", 2)  # what heads do is tested in test_heads
        return run(phantom, asked, tmp_path_factory.mktemp("neurons") / "run", heads=True)


def log_odds(model, sample, word):
    called = arguments(model, cases(model, [prepare(model, sample)])[0])
    with torch.no_grad():
        p = model.module(**called, use_cache=False).logits[0, -1].double().softmax(-1)
    return float(p[word].log() - torch.cat([p[:word], p[word + 1 :]]).sum().log())


# ---- attribution


def plain_norm(norm, x):
    return norm.weight * x / (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()


@pytest.mark.parametrize("block", [0, 4, 7])
def test_units_of_a_block_add_up_to_the_central_difference(phantom, asked, block, monkeypatch):
    monkeypatch.setattr(MistralRMSNorm, "forward", plain_norm)  # transformers' own computes in float32, whatever the model does
    model = replace(phantom, module=copy.deepcopy(phantom.module).double())
    word = model.tokenizer.convert_tokens_to_ids("mass")
    case = cases(model, [prepare(model, asked[0])])[0]
    name, room = case.prompts[0].sample.id, Room(0)
    walk_there(model, [case], room)
    tracer = Attribution(model, {word: {name: Place("discovery", 0, True)}}, 2)
    tracer.blocks = [block]
    for _ in steps_back(model, [case], [[LogOdds(Word(len(case.prompts[0].tokens) - 1, word))]], [tracer], lambda: None, room):
        pass
    total = float(tracer._sums[word, "discovery"].scores["all"].sums.sum())
    units, eps, either = [(block, u) for u in range(352)], 1e-4, []
    for factor in (1 + eps, 1 - eps):
        with units_scaled(model, units, factor):
            either.append(log_odds(model, asked[0], word))
    difference = (either[0] - either[1]) / (2 * eps)
    assert abs(total) > 0.01
    assert total == pytest.approx(difference, rel=1e-4)


def walk_there(model, laid, room):
    from medlens.walk.forward import steps

    for _ in steps(model, laid, [], lambda: None, room):
        pass


def test_a_planted_unit_is_ranked_first(phantom, tmp_path):
    planted = medlens.phantom.plant_unit(phantom, "cyst", 5, 33, n=120)
    drawn = medlens.phantom.samples(110, 4, "type")
    prompts = [prepare(planted, s) for s in drawn if s.answer != "none"]
    concepts, _ = concepts_of(planted, prompts, "cyst", None)
    places = places_of(prompts, concepts, 0)
    ranked = find(planted, cases(planted, prompts), concepts, places, Names(), tmp_path, lambda: None)
    best, second, *_ = ranked.rows["cyst"]
    assert (best["layer"], best["unit"]) == (5, 33)
    assert best["score"] > 2 * second["score"]
    assert best["direct"] > 0
    assert best["test_contrast_low"] > 0


def test_streamed_as_resident(phantom, asked, tmp_path):
    few = asked[:20]
    tables = []
    for k, model in enumerate((phantom, medlens.load("phantom", memory=1))):
        prompts = [prepare(model, s) for s in few]
        concepts, _ = concepts_of(model, prompts, "mass", "finding")
        (tmp_path / str(k)).mkdir()
        places = places_of(prompts, concepts, 0)
        tables.append(find(model, cases(model, prompts), concepts, places, Names(), tmp_path / str(k), lambda: None))
    assert tables[0].ranked == tables[1].ranked
    one, other = ({k: v for k, v in table.rows["mass"][0].items() if k != "concept"} for table in tables)
    assert one == pytest.approx(other, rel=1e-4)


# ---- proof


def test_the_top_units_matter_more_than_random_ones(found):
    (zero,) = found.effects.filter((found.effects["of"] == "top") & (found.effects["change"] == "zero")).to_dicts()
    assert zero["units"] == round(0.01 * 8 * 352)
    assert zero["high"] < -0.5 < zero["random_most"]
    assert zero["beyond_low"] > 0
    assert zero["p"] == pytest.approx(1 / 21)
    resample = found.effects.filter((found.effects["of"] == "top") & (found.effects["change"] == "resample")).to_dicts()[0]
    assert resample["high"] < 0


def test_effects_are_those_of_plain_forwards(phantom, asked, found):
    """The first dose, once more: sample by sample through transformers, with the weights of the units set to zero."""
    word = phantom.tokenizer.convert_tokens_to_ids("mass")
    dose = found.effects.filter(found.effects["of"] == "dose").sort("units").to_dicts()[0]
    units = [(r["layer"], r["unit"]) for r in found.neurons.head(dose["units"]).to_dicts()]
    edited = replace(phantom, module=copy.deepcopy(phantom.module))
    for block, unit in units:
        edited.blocks[block].mlp.down_proj.weight.data[:, unit] = 0
    tested = [s for s in asked if s.id in found.manifest["neurons"]["test"] and s.answer == "mass"]
    changes = [log_odds(edited, s, word) - log_odds(phantom, s, word) for s in tested]
    assert dose["value"] == pytest.approx(mean(changes), rel=1e-3)
    assert dose["images"] == len(tested) == 5


def test_test_images_had_no_say(asked, phantom, found):
    """Ranks and thresholds are made from discovery images: with others' answers in the test half they stay."""
    prompts = [prepare(phantom, s) for s in asked]
    concepts, _ = concepts_of(phantom, prompts, "mass", "finding")
    halves = {p.half for p in places_of(prompts, concepts, 0)[concepts[0].id].values()}
    assert halves == {"discovery", "test"}
    for place in ("discovery", "test"):
        own = [p for p in places_of(prompts, concepts, 0)[concepts[0].id].values() if p.half == place]
        assert sum(p.true for p in own) == 5
        assert {p.fold for p in own if p.true} == {p.fold for p in own} == set(range(5))


def test_cards_and_page(found):
    assert found.cards.height == 2
    for card in found.cards.to_dicts():
        assert card["verdict"] in ("multimodal", "visual only", "textual only", "neither image nor text", "not causal")
        assert 0 <= card["iou"] <= card["iou_best"] <= 1
        assert len(card["raises"]) == 10
        assert card["text_p"] > 0
        assert card["domains"] == ["ct", "mri", "ultrasound", "xray"]
        assert 0 <= card["entropy"] <= math.log(4)
        assert all((found.path / path).is_file() for path in card["pictures"])
    page = found.report.read_text()
    assert "<script" not in page
    assert all(f"unit {c['layer']}.{c['unit']}" in page for c in found.cards.to_dicts())
    assert found.cards["iou_ratio"].max() > 2 * found.cards["iou_random"].mean()


def test_heads_are_in_run_and_page(found):
    assert found.heads.height == 32
    assert sorted(found.heads["rank"]) == list(range(1, 33))
    assert found.heads["share"].is_between(0, 1).all()
    assert found.heads["top"].sum() == 3
    together = found.effects.filter(found.effects["of"] == "heads")
    assert together["change"].to_list() == ["put in", "resample"]
    assert together["units"].to_list() == [3, 3]
    page = found.report.read_text()
    best = found.heads.sort("rank").row(0, named=True)
    assert f"<td>{best['layer']}.{best['head']} *</td>" in page
    assert "Which heads carry the image" in page
    assert (found.path / "heads-0.png").is_file()


@pytest.mark.parametrize("name", ["phantom:random", "phantom:textonly"])
def test_models_that_see_nothing_have_nothing_multimodal(name, asked, tmp_path, monkeypatch):
    monkeypatch.setattr("medlens._neurons.effects.DOSES", ())
    blind = run(medlens.load(name), asked, tmp_path / "run", cards=1)
    assert set(blind.cards["verdict"]) == {"not causal"}
    low, _ = blind.manifest["neurons"]["known"]["mass"]
    assert low <= 0


def test_verdicts():
    assert [verdict(True, image, text) for image in (True, False) for text in (True, False)] == [
        "multimodal", "visual only", "textual only", "neither image nor text"
    ]  # fmt: skip
    assert {verdict(False, image, text) for image in (True, False) for text in (True, False)} == {"not causal"}


@pytest.mark.slow
def test_the_three_lesions(phantom, tmp_path):
    """Smaller than docs/neurons.md says it was measured: 100 draws and five cards on 400 slices take minutes."""
    drawn = medlens.phantom.samples(180, 11, "type")
    all_three = medlens.neurons(phantom, drawn, by="finding", out=tmp_path / "run", heads=False, cards=1, draws=20)
    top = all_three.effects.filter((all_three.effects["of"] == "top") & (all_three.effects["change"] == "zero"))
    assert sorted(top["concept"]) == ["cyst", "mass", "nodule"]
    assert (top["draws"] == 20).all()
    assert (top["beyond_low"] > 0).all()
    for _, cards in all_three.cards.group_by("concept"):
        assert cards.height == 1
        assert cards["iou_ratio"].mean() >= 2 * cards["iou_random"].mean()


# ---- walking again, noting, swapping


def test_walking_again_is_walking(phantom, asked, tmp_path):
    laid = [cases(phantom, [prepare(phantom, s)])[0] for s in asked[:2]]
    again, rows = Again(phantom, laid, tmp_path), []
    with units_scaled(phantom, [(3, 5), (6, 7)], 3.0):
        again.walk(lambda case, normed: rows.append(normed), 3)
        expected = [medlens.forward(phantom, s).hidden_states[-1] for s in asked[:2]]
    assert torch.allclose(rows[0], expected[0], atol=1e-5)
    assert torch.allclose(rows[1], expected[1], atol=1e-5)


def test_swapped_is_set_to_the_donors(phantom, asked):
    units = [(2, 9), (5, 100), (5, 3)]
    donor, own = (cases(phantom, [prepare(phantom, s)])[0] for s in (asked[20].showing(asked[0].images), asked[20]))
    with units_noted(phantom, units) as noted:
        walk(phantom, [donor], [])
    values = {(2, 9): noted[2][0][:, 0], (5, 3): noted[5][0][:, 0], (5, 100): noted[5][0][:, 1]}
    with hooks.inputs_of(down(phantom, 7)) as seen:
        with units_swapped(phantom, units):
            walk(phantom, [donor, own], [])
        with units_set(phantom, units, values):
            walk(phantom, [own], [])
        walk(phantom, [donor], [])
        walk(phantom, [own], [])
    given, swapped, fixed, plain_donor, plain = seen
    assert torch.equal(given, plain_donor)
    assert torch.equal(swapped, fixed)
    assert not torch.allclose(swapped, plain, atol=1e-4)


# ---- numbers


def test_best_overlap_is_the_best_of_all_choices():
    shares = np.random.default_rng(0).random(9) * (np.arange(9) % 2)
    tried = [iou(np.array(choice), shares) for choice in itertools.product([False, True], repeat=9)]
    assert best_iou(shares) == pytest.approx(max(tried))
    assert iou(np.array([True, True]), np.array([1.0, 0.5])) == pytest.approx(1.5 / 2)


def test_masks_that_are_the_truth_reach_the_best():
    shares = {0: np.eye(20)[3], 1: 0.5 * np.eye(20)[7]}
    seen = Seen([10 * s + np.linspace(1, 2, 20) for s in shares.values()], [])
    right = overlap(seen, seen, {"discovery": shares, "test": shares}, ["a", "b"])
    assert right.ratio == 1
    assert right.best == pytest.approx(0.75)
    twice = overlap(Seen([2 * v for v in seen.values], []), seen, {"discovery": shares, "test": shares}, ["a", "b"])
    assert twice.threshold == pytest.approx(2 * right.threshold)  # of discovery images alone


def test_contrasts_are_means_with_a_jackknife_over_folds():
    draw = np.random.default_rng(3)
    rows = [
        (int(f), bool(t), float(x))
        for f, t, x in zip(draw.integers(0, 4, 60), draw.integers(0, 2, 60), draw.random(60), strict=True)
    ]
    sums = Contrasts(4, 1)
    for fold, true, x in rows:
        sums.add(fold, true, torch.tensor([x]))
    value = lambda left, kind: mean(x for f, t, x in rows if t == kind and f != left)
    without = [value(f, True) - value(f, False) for f in range(4)]
    half = 3.182446 * math.sqrt(3) * pstdev(without)  # Student's t at 0.975 with 3 degrees of freedom
    found = sums.contrast()
    assert float(found.difference.value) == pytest.approx(value(None, True) - value(None, False))
    assert float(found.difference.high - found.difference.value) == pytest.approx(half, rel=1e-5)
    assert float(found.true.value) == pytest.approx(value(None, True))
    with pytest.raises(BadInput, match="rows of both kinds"):
        Contrasts(4, 1).contrast()


def test_domain_entropy():
    p = torch.tensor([[0.2, 0.5, 0.0], [0.2, 0.0, 0.0], [0.6, 0.0, 0.0]])
    expected = -(2 * 0.2 * math.log(0.2) + 0.6 * math.log(0.6))
    one, single, never = domain_entropy(p).tolist()
    assert one == pytest.approx(expected)
    assert single == 0
    assert math.isnan(never)


# ---- bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "what is looked for"),
        ({"concept": "pneumothorax"}, "no token of phantom says 'pneumothorax' alone"),
        ({"concept": "upper left", "by": "place"}, "no token of phantom says 'upper left' alone"),
        ({"concept": "where"}, "is no sample's answer"),
        ({"concept": "cyst", "by": "finding"}, f"is true of . images; {FEWEST} are needed"),
        ({"by": "colour"}, "by is 'colour', which no sample has"),
        ({"by": "place"}, "nothing to look for by place: 'lower left' is more than one word"),
        ({"by": "finding", "draws": 5}, "at least 1 card and 20 draws"),
    ],
)
def test_what_cannot_be_looked_for(phantom, asked, tmp_path, options, said):
    with pytest.raises(BadInput, match=said):
        medlens.neurons(phantom, asked, out=tmp_path / "run", **options)
    assert not any(tmp_path.iterdir())


def test_units_that_are_not_there(phantom):
    with pytest.raises(BadInput, match=r"unit 3\.352: block 3 of phantom has units 0 to 351"), units_noted(phantom, [(3, 352)]):
        pass
    with pytest.raises(BadInput, match="blocks 0 to 7; got 8"), units_swapped(phantom, [(8, 0)]):
        pass


def test_another_name_of_the_mlp(phantom, asked, tmp_path):
    with pytest.raises(BadModel, match=r"looked for in mlp\.wi.*mlp\.gate_proj.*--gate, --down"):
        run(phantom, asked, tmp_path / "run", names=("mlp.wi", "mlp.wo"))


def test_no_hook_is_left(phantom, asked, found):
    assert sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in phantom.module.modules()) == count_in_fresh()


def count_in_fresh():
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in medlens.load("phantom").module.modules())
