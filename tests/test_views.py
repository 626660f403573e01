"""What a study shows of single samples: where tokens look, what fires, and maps with their cards."""

import shutil
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import medlens
from medlens import _explain, _tokens, _views, hooks
from medlens._explain import explain
from medlens.errors import BadInput, BadModel, BadRun
from medlens.measures.sinks import TIMES, sinks
from medlens.models.prompt import read
from medlens.overlay import svg
from medlens.plan import Plan
from medlens.types import Heatmap
from medlens.unfinished import Unfinished
from medlens.walk.forward import forward, prepare

MAPS = True
PLAN = Plan(limit=12, instruments=("tokens", "maps"), lens_images=2, map_images=1, seed=5)


@pytest.fixture(scope="module", autouse=True)
def _two_methods():
    """A card costs hundreds of walks a map; what is tested here is that it comes into the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_explain, "METHODS", ("relevance",))
        patch.setattr(_explain, "COVERED", "gradcam_attention")
        yield


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory):
    return medlens.study(phantom, "phantom", PLAN, tmp_path_factory.mktemp("views") / "run")


@pytest.fixture(scope="module")
def first(run):
    """The first sample that is shown, with the answer that the model gave."""
    name = run.looks["sample"][0]
    (sample,) = [s for s in medlens.phantom.samples(PLAN.limit, PLAN.seed) if s.id == name]
    return sample, run.answers.filter(sample=name)["answer"][0]


# ---- sinks


def test_a_sink_is_what_half_of_those_who_look_look_at():
    weights = torch.full((4, 40), 0.5 / 40)
    weights[:2, 7] = 0.5
    weights[0, 9] = 0.9
    assert sinks(weights).nonzero()[:, 0].tolist() == [7]
    weights[1, 7] = 0.1
    assert not sinks(weights).any()


def test_no_looker_and_few_tokens_make_no_sink():
    assert not sinks(torch.zeros(0, 30)).any()
    assert sinks(torch.eye(3)[:1].repeat(5, 1)).sum() == 0  # of three tokens none has ten even shares
    assert TIMES > 3
    with pytest.raises(ValueError, match="lookers"):
        sinks(torch.zeros(3))


def test_rings_mark_them_on_the_picture():
    boxes = np.array([[0, 0, 8, 8], [8, 0, 16, 8]], float)
    grey = Image.new("L", (16, 8), 90)
    drawn = svg(Heatmap("raw_attention", "t", np.array([0.9, 0.1]), boxes, (8, 16), sinks=(0,)), grey)
    assert drawn.count("<circle") == 2
    assert "whoever looks" in drawn
    assert "<circle" not in svg(Heatmap("raw_attention", "t", np.array([0.9, 0.1]), boxes, (8, 16)), grey)


# ---- tokens


def test_where_a_token_looks_is_its_row_of_attention(phantom, run, first):
    sample, said = first
    walked = forward(phantom, sample, said)
    image = walked.tokens.where("image")
    looks = run.looks.filter(sample=sample.id)
    behind = [k for k in range(len(walked.tokens)) if k > max(image)]
    assert looks.filter(layer=0)["position"].to_list() == behind
    for layer, position, weights in looks.select("layer", "position", "weights").iter_rows():
        expected = walked.attentions[layer].mean(0)[position, image]
        np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert looks["token"].to_list()[: len(behind)] == [walked.tokens.texts[k] for k in behind]


def test_what_fires_is_what_writes_most(phantom, run, first):
    """By hand: the MLP once more, unit by unit, at one token of one block."""
    sample, said = first
    block = 4
    part = phantom.blocks[block].mlp.down_proj
    columns = part.weight.detach()
    with hooks.inputs_of(part) as entered:
        walked = forward(phantom, sample, said)
    for position in (3, len(walked.tokens) - 1):
        activations = entered[0][0, position]
        written = [float((activations[u] * columns[:, u]).norm()) for u in range(len(activations))]
        expected = sorted(range(len(written)), key=lambda u: -written[u])[: _tokens.UNITS]
        (row,) = run.fires.filter(sample=sample.id, layer=block, position=position).to_dicts()
        assert row["units"] == expected
        np.testing.assert_allclose(row["activations"], activations[expected], rtol=1e-5)


def test_what_a_unit_writes(phantom, run):
    row = run.unit_writes.to_dicts()[len(run.unit_writes) // 2]
    column = phantom.blocks[row["layer"]].mlp.down_proj.weight[:, row["unit"]]
    scores = (phantom.head.weight * phantom.norm.weight) @ column
    words = phantom.tokenizer.convert_ids_to_tokens(scores.argsort(descending=True).tolist())
    assert row["raises"] == words[: _tokens.WORDS]
    assert row["lowers"] == words[::-1][: _tokens.WORDS]
    every = {(layer, u) for layer, units in run.fires.select("layer", "units").iter_rows() for u in units}
    assert {(r["layer"], r["unit"]) for r in run.unit_writes.to_dicts()} == every


def test_a_model_without_such_units_still_looks(phantom, first, monkeypatch):
    def none(*_):
        raise BadModel("no units")

    monkeypatch.setattr(_tokens, "part_of", none)
    found = _tokens.shown(phantom, [prepare(phantom, first[0])])
    assert found["looks"]
    assert found["fires"] == found["unit_writes"] == []


# ---- maps


def test_maps_are_those_of_explain_with_their_verdicts(phantom, run):
    name = run.trust["sample"][0]
    (sample,) = [s for s in medlens.phantom.samples(PLAN.limit, PLAN.seed) if s.id == name]
    found = explain(phantom, sample, tokens=False, seed=PLAN.seed)
    assert run.trust["method"].to_list() == [m.method for m in found.maps]
    assert run.trust["verdict"].to_list() == [c.verdict for c in found.cards]
    for k, heatmap in enumerate(found.maps):
        np.testing.assert_allclose(run.maps.filter(map=k)["value"], heatmap.values, atol=1e-6)
    assert run.gates.select("sample", "rests").rows() == [(name, found.gate.rests)]
    assert run.checks.height == sum(len(c.checks) for c in found.cards)


def test_pictures_lie_where_the_table_says(run):
    for picture in run.trust["picture"]:
        with Image.open(run.path / picture) as opened:
            assert min(opened.size) > 300


def test_a_sample_without_a_map_is_said_and_does_not_stop_the_study(phantom, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise BadModel("the image tokens of this family cannot be placed")

    monkeypatch.setattr(_views, "explain", refused)
    run = medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    assert run.trust.select("verdict", "why").rows() == [("no map", "the image tokens of this family cannot be placed")]
    assert run.maps.is_empty()


def test_none_are_made_of_a_wide_model_unless_they_are_asked_for(phantom, first, monkeypatch):
    prompts = [prepare(phantom, first[0])]
    free = Plan(instruments=("maps",))
    assert len(_views.chosen(phantom, free, prompts).maps) == 1
    monkeypatch.setattr(_views, "WIDE", 64)
    assert _views.chosen(phantom, free, prompts).maps == []
    assert len(_views.chosen(phantom, Plan(map_images=3), prompts).maps) == 1
    assert _views.chosen(phantom, Plan(protocol="published"), prompts).number == {}
    with pytest.raises(BadInput, match="map_images"):
        Plan(map_images=-1)


# ---- stopped, and shared


@pytest.fixture(scope="module")
def whole(phantom, tmp_path_factory):
    """With maps that cost little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_views, "explain", partial(explain, methods=("centre",)))
        yield medlens.study(phantom, "phantom", PLAN, tmp_path_factory.mktemp("cheap") / "run")


def same(one, other):
    for name in _views.TABLES:
        a, b = getattr(one, name), getattr(other, name)
        keys = [c for c in a.columns if a[c].dtype not in (pl.Float64, pl.List(pl.Float32))]
        assert a.select(keys).equals(b.select(keys)), name
        for column in set(a.columns) - set(keys):
            x, y = (frame[column].explode() if frame[column].dtype == pl.List else frame[column] for frame in (a, b))
            np.testing.assert_allclose(x.to_numpy(), y.to_numpy(), atol=1e-5)


def torn(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replaced(path):
    """By what can be read, and is another's."""
    if path.suffix == ".json":
        path.write_text('{"kept": {"..": {}, "maps-001": {}}}')
    else:
        Image.new("L", (9, 9)).save(path) if path.suffix == ".png" else pl.DataFrame({"sample": ["x"]}).write_parquet(path)


def added(path):
    (path.parent / "more" / "x").mkdir(parents=True)


@pytest.fixture(scope="module")
def stopped(phantom, tmp_path_factory):
    """Left by a study that was stopped when all of it was shown."""
    place = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_views, "explain", partial(explain, methods=("centre",)))
        patch.setattr(_views, "gather", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            medlens.study(phantom, "phantom", PLAN, place / "run")
    return place


@pytest.mark.parametrize("harm", [Path.unlink, torn, replaced, added])
@pytest.mark.parametrize("name", ["tokens/looks.parquet", "maps-001/trust.parquet", "maps-001/001-centre.png", "progress.json"])
def test_nothing_is_shown_that_is_not_what_was_found(stopped, tmp_path, harm, name):
    """Who gathers refuses it; who makes takes it away."""
    views = shutil.copytree(stopped / "run.part" / "views", tmp_path / "run" / "views")
    work = Unfinished(views, views)
    assert _views.whole(work)
    harm(views / name)
    assert not _views.whole(work)
    with pytest.raises(BadRun, match=r"^run/views is missing or damaged; the same command makes it again$"):
        _views.gather([work], tmp_path)
    _views._tidy(work)
    assert _views.whole(work)
    lost = {"tokens": ["maps-001"], "maps-001": ["tokens"]}.get(name.split("/")[0], ["maps-001", "tokens"] if harm is added else [])
    assert sorted(path.name for path in views.iterdir() if path.is_dir()) == lost


def test_what_is_whole_is_not_shown_again_and_what_is_torn_is(phantom, whole, stopped, tmp_path, monkeypatch):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    torn(tmp_path / "run.part" / "views" / "maps-001" / "001-centre.png")
    monkeypatch.setattr(_views, "explain", partial(explain, methods=("centre",)))
    monkeypatch.setattr(_views, "shown", Mock(side_effect=AssertionError))
    run = medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    same(run, whole)
    assert (run.path / "maps" / "001-centre.png").read_bytes() == (whole.path / "maps" / "001-centre.png").read_bytes()


def test_shares_show_what_the_whole_shows(phantom, whole, tmp_path):
    for k in (1, 2):
        share = medlens.study_shard(phantom, "phantom", PLAN, tmp_path / "run", f"{k}/2")
    (share / "part-03.safetensors").unlink()
    shutil.rmtree(share / "views")
    with pytest.raises(BadRun, match=r"^2-of-2/part-03\.safetensors is missing or damaged"):
        medlens.merge(tmp_path / "run")
    medlens.study_shard(phantom, "phantom", PLAN, tmp_path / "run", "2/2")  # makes again what is not there
    same(medlens.merge(tmp_path / "run"), whole)


def test_the_answer_is_read_with_the_question(phantom, run, first):
    sample, said = first
    prompt = prepare(phantom, sample)
    assert run.looks.filter(sample=sample.id, layer=0)["position"].max() == len(read(phantom, sample, prompt.look, said)) - 1
