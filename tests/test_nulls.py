"""Nulls that cost a walk: random weights, and noise in place of the images."""

import polars as pl
import pytest
import torch
from PIL import Image

import medlens
import tiny
from medlens.data.noise import noise_like
from medlens.errors import BadInput
from medlens.instruments.geometry import Geometry
from medlens.models import load
from medlens.models.null import reinitialised
from medlens.plan import Plan
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, walk

PLAN = Plan(limit=8, answers="given", nulls=("weights", "noise"))
KEY = ["measure", "layer", "tokens", "variant"]


class Keep:
    def __init__(self):
        self.seen = []

    def visit(self, block, case, before, after):
        self.seen.append(after.clone())

    def leave(self, block): ...
    def finish(self, case, raw, normed):
        self.seen.append(normed.clone())


def states(model):
    keep = Keep()
    walk(model, cases(model, [prepare(model, s, s.answer) for s in medlens.phantom.samples(3)]), [keep])
    return torch.cat([state.flatten() for state in keep.seen])


@pytest.fixture(autouse=True)
def quick_report(monkeypatch):
    monkeypatch.setattr("medlens.report.as_files", lambda chart: {"svg": ""})
    monkeypatch.setattr("medlens.report.figures.drawn", lambda *chart: {})


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medlens.report.as_files", lambda chart: {"svg": ""})
        patch.setattr("medlens.report.figures.drawn", lambda *chart: {})
        return medlens.study(phantom, "phantom", PLAN, tmp_path_factory.mktemp("nulls") / "run")


def test_drawn_is_the_same_streamed_and_resident_and_leaves_the_model_alone(phantom):
    before = {name: p.clone() for name, p in phantom.module.named_parameters()}
    drawn = states(reinitialised(phantom, 1))
    assert torch.equal(drawn, states(reinitialised(load("phantom", memory="100kB"), 1)))
    assert torch.equal(drawn, states(reinitialised(phantom, 1)))
    assert not torch.equal(drawn, states(reinitialised(phantom, 2)))
    assert not torch.equal(drawn, states(phantom))
    assert all(torch.equal(p, before[name]) for name, p in phantom.module.named_parameters())


def test_what_is_drawn(phantom):
    null = reinitialised(phantom, 0)
    spread = phantom.text_config.initializer_range
    for name, trained in phantom.module.named_parameters():
        drawn = null.weights.read(name)
        assert drawn.shape == trained.shape
        if name.endswith("bias"):
            assert not drawn.any()
        elif "norm" in name:
            assert (drawn == 1).all()
        elif drawn.numel() > 4000:
            assert float(drawn.std()) == pytest.approx(spread, rel=0.05)
            assert not torch.allclose(drawn, trained)


def test_a_norm_that_adds_one_to_its_weight_and_weights_that_are_tied():
    module, processor = tiny.build("gemma3")
    model = load(module, processor)
    null = reinitialised(model, 0)
    norms = [n for n, _ in module.named_parameters() if n.endswith("input_layernorm.weight")]
    assert norms
    assert not any(null.weights.read(name).any() for name in norms)
    with null.here("around", "head"):
        assert torch.equal(null.head.weight, null.module.get_input_embeddings().weight)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_noise_is_an_image_of_that_size_and_mode(mode):
    image = Image.new(mode, (40, 30))
    noise = noise_like(image, 0, 0)
    assert (noise.size, noise.mode) == (image.size, image.mode)
    assert noise.tobytes() == noise_like(image, 0, 0).tobytes()
    assert len({noise.tobytes(), noise_like(image, 1, 0).tobytes(), noise_like(image, 0, 1).tobytes()}) == 3


def test_the_nulls_lie_away_from_the_model(run, phantom, tmp_path):
    rows = run.rows.filter(pl.col("group") == "all")
    sound = rows.filter(pl.col("protocol") == "sound")
    for null in ("null: weights", "null: noise"):
        both = sound.join(rows.filter(pl.col("protocol") == null), on=KEY, suffix="_null").filter(pl.col("variant") == "raw")
        summed = both.filter(~pl.col("measure").str.starts_with("intrinsic_dimension"))  # which drops duplicates: there are others
        assert set(summed["n"] - summed["n_null"]) == {0}
        for measure in ("anisotropy", "mean_cosine"):
            image = both.filter(pl.col("measure") == measure, pl.col("tokens") == "image")
            assert image.height == phantom.depth + 1
            assert ((image["value"] - image["value_null"]).abs() > 1e-3).mean() > 0.8
    both = sound.join(rows.filter(pl.col("protocol") == "null: weights"), on=KEY, suffix="_null")
    linear = both.filter(pl.col("measure") == "linearity_of_update", pl.col("tokens") == "all", pl.col("variant") == "raw")
    assert (linear["value"] - linear["value_null"]).abs().mean() > 0.01
    alone = medlens.study(phantom, "phantom", Plan(limit=8, answers="given", nulls=()), tmp_path / "alone")
    assert alone.rows.equals(run.rows.filter(pl.col("protocol") == "sound"), null_equal=True)


class Interrupted(BaseException):
    """Like Ctrl-C."""


@pytest.mark.parametrize(("null", "block"), [("null: weights", 0), ("null: weights", 5), ("null: noise", 3)])
def test_a_study_that_was_stopped_in_a_null_goes_on_there(phantom, run, tmp_path, monkeypatch, null, block):
    walked, real = [], Geometry.visit

    def visit(self, b, *args):
        if (self.protocol, b) == (null, block) and not walked:
            raise Interrupted
        real(self, b, *args)

    monkeypatch.setattr(Geometry, "visit", visit)
    with pytest.raises(Interrupted):
        medlens.study(phantom, "phantom", PLAN, tmp_path / "run")

    def note(self, b, *args):
        walked.append((self.protocol, b))
        real(self, b, *args)

    monkeypatch.setattr(Geometry, "visit", note)
    monkeypatch.setattr("medlens._study.foresee", lambda *a: no_forecast())
    again = medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    assert walked[0] == (null, block)
    assert not any(protocol == "sound" for protocol, _ in walked)
    assert (again.path / "rows.parquet").read_bytes() == (run.path / "rows.parquet").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def no_forecast():
    return medlens.Forecast(8, 2, 1, 1, 0.0, 0, 0, 0)


def test_not_shared_out_yet(tmp_path):
    for plan in (Plan(nulls=("noise",), workers=2), Plan(by=("modality",), workers=2)):
        with pytest.raises(BadInput, match="not with --workers"):
            medlens.study("phantom", "phantom", plan, tmp_path / "run")
    with pytest.raises(BadInput, match="null weights: not with --workers"):
        medlens.study_shard("phantom", "phantom", Plan(nulls=("weights",)), tmp_path / "run", "1/2")
    assert list(tmp_path.iterdir()) == []


def test_the_command_repeats_it(run):
    assert "--null weights --null noise" in run.manifest["command"]
