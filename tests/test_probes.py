"""Probes against scikit-learn, on data that has nothing to find, and on a phantom whose inside is known."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

import bare
import medlens
import tiny
from medlens import hooks
from medlens.errors import BadInput, BadModel, NotFinite
from medlens.measures.gap import modality_gap, split
from medlens.measures.probes import PENALTIES, _held_out, linear_probe
from medlens.models.tower import fed_from, tower_layers
from medlens.plan import Plan
from medlens.walk.cases import cases
from medlens.walk.forward import forward, prepare
from medlens.walk.tower import before_the_decoder

CHARTS = True

QUICK = Plan(neighbour_rows=64, thorough=False)  # of the geometry, which these tests do not look at
GOLDEN = Path(__file__).parent / "golden" / "llava_med" / "seed0"


def drawn(n, d, classes=3, strength=0.0, seed=0):
    """Rows, one an image, whose labels lie `strength` apart along one axis each; folds as they come."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(n)[torch.randperm(n, generator=generator)] % classes
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x[torch.arange(n), truth] += strength
    return x, [f"class {k}" for k in truth.tolist()], list(range(n)), [k % 5 for k in range(n)]


# ---- the probe


@pytest.mark.parametrize(("n", "d"), [(60, 7), (40, 90)])
def test_what_is_read_is_what_scikit_learn_reads(n, d):
    x, labels, _, fold = drawn(n, d, strength=1.5)
    truth, fold = np.unique(labels, return_inverse=True)[1], np.array(fold)

    def read(trained, tested, penalty):
        scaler = StandardScaler().fit(x[trained].numpy())
        ridge = RidgeClassifier(alpha=penalty * d, solver="svd").fit(scaler.transform(x[trained].numpy()), truth[trained])
        return ridge.predict(scaler.transform(x[tested].numpy()))

    expected = np.empty(n, dtype=int)
    for k in range(5):
        right = [
            sum((read((fold != k) & (fold != j), fold == j, p) == truth[fold == j]).sum() for j in range(5) if j != k)
            for p in PENALTIES
        ]
        expected[fold == k] = read(fold != k, fold == k, PENALTIES[int(np.argmax(right))])
    found = _held_out(x, torch.tensor(truth)[None], torch.tensor(fold), 3)
    assert found[0].tolist() == expected.tolist()


def test_what_is_separable_is_read():
    found = linear_probe(*drawn(100, 20, strength=12))
    assert found.accuracy.value == found.balanced.value == 1
    assert found.accuracy.low == found.balanced.low < 1
    assert found.majority.value < 0.5
    assert found.control.low < 0.35 < found.control.high
    assert found.selectivity.low > 0.5
    assert found.p == pytest.approx(1 / 51)


@pytest.mark.parametrize("d", [5, 300])  # also where there are more columns than rows, and any labels could be fitted
def test_what_is_unrelated_is_not(d):
    found = [linear_probe(*drawn(90, d, seed=seed), controls=20) for seed in range(12)]
    assert sum(f.selectivity.low <= 0 <= f.selectivity.high for f in found) >= 10
    assert abs(np.mean([f.selectivity.value for f in found])) < 0.06
    assert sum(f.p < 0.06 for f in found) <= 2


def test_rows_of_an_image_that_are_alike_are_not_read_twice():
    """Forty images, five rows each that are almost the same: fresh images are at chance, and the interval knows of 40 units."""
    x, labels, image, fold = drawn(40, 200)
    rows, again = x.repeat_interleave(5, 0) + 1e-3 * torch.randn(200, 200), [k for k in range(40) for _ in range(5)]
    once = linear_probe(x, labels, image, fold)
    found = linear_probe(rows, [labels[k] for k in again], [image[k] for k in again], [fold[k] for k in again])
    width = found.accuracy.high - found.accuracy.low
    assert found.selectivity.low <= 0 <= found.selectivity.high
    assert width > 0.8 * (once.accuracy.high - once.accuracy.low)


def test_balanced_accuracy_does_not_count_the_commonest():
    x, _, image, fold = drawn(100, 6)
    labels = ["rare" if k % 9 == 0 else "common" for k in range(100)]
    found = linear_probe(x, labels, image, fold)
    assert found.majority.value == pytest.approx(0.88)
    assert found.accuracy.value == pytest.approx(0.88, abs=0.05)
    assert found.balanced.value == pytest.approx(0.5, abs=0.1)
    assert found.selectivity.value == pytest.approx(0, abs=0.05)


def test_labels_of_questions_are_shuffled_by_row():
    """An image with several labels: shuffled over images the control would be no control."""
    x, labels, _, _ = drawn(120, 10, strength=12)
    found = linear_probe(x, labels, [k // 4 for k in range(120)], [k // 4 % 5 for k in range(120)])
    assert found.accuracy.value == 1
    assert found.control.value < 0.5


@pytest.mark.parametrize("rows", [slice(None, 1), slice(None)])
def test_one_value_and_rare_values_are_undefined(rows):
    x, _, image, fold = drawn(20, 4)
    found = linear_probe(x[rows], (["a"] * 17 + ["b"] * 3)[rows], image[rows], fold[rows])
    assert np.isnan(found.accuracy.value)
    assert np.isnan(found.selectivity.value)
    assert "two values with at least" in found.accuracy.value.note


def test_rare_values_are_left_out_and_said():
    x, labels, image, fold = drawn(60, 8, strength=12)
    labels[:2] = ["odd", "odd"]
    found = linear_probe(x, labels, image, fold)
    assert found.accuracy.value.n == 58
    assert found.accuracy.value.note == "left out: 1 value of fewer than 5 images"
    assert set(found.classes) == {"class 0", "class 1", "class 2"}


def test_constant_columns_change_nothing():
    x, labels, image, fold = drawn(60, 8, strength=2)
    plain = linear_probe(x, labels, image, fold)
    wider = linear_probe(torch.cat([x, torch.full((60, 3), 7e5, dtype=torch.float64)], 1), labels, image, fold)
    assert plain.accuracy == wider.accuracy
    assert plain.control == wider.control
    still = linear_probe(torch.ones(60, 4), labels, image, fold)
    assert still.accuracy.value.note == "the states do not vary"


def test_what_is_no_probe():
    x, labels, image, fold = drawn(30, 4)
    with pytest.raises(BadInput, match="30 rows but 29 labels"):
        linear_probe(x, labels[1:], image, fold)
    with pytest.raises(BadInput, match="different folds"):
        linear_probe(x, labels, [k // 2 for k in range(30)], fold)
    with pytest.raises(BadInput, match="controls is 0"):
        linear_probe(x, labels, image, fold, controls=0)
    with pytest.raises(NotFinite):
        linear_probe(x.index_fill(0, torch.tensor([3]), float("nan")), labels, image, fold)
    assert "images in 2 folds" in linear_probe(x, labels, image, [k % 2 for k in range(30)]).accuracy.value.note


# ---- the gap


def test_the_gap_is_the_distance_of_the_mean_directions():
    x, y = torch.randn(50, 8) + 3, torch.randn(20, 8)
    u, v = ((rows.double() / rows.double().norm(dim=1, keepdim=True)).mean(0) for rows in (x, y))
    assert float(modality_gap(x, y)) == pytest.approx(float((u - v).norm()), abs=1e-12)
    assert modality_gap(x, 5 * x) == pytest.approx(0, abs=1e-7)
    assert modality_gap(x[:1], -x[:1]) == pytest.approx(2)
    halves = split(x, y, torch.Generator().manual_seed(0))
    assert [len(rows) for rows in halves] == [50, 20]
    assert sorted(torch.cat(halves)[:, 0].tolist()) == sorted(torch.cat([x, y])[:, 0].tolist())
    assert modality_gap(*halves) < 0.5 * modality_gap(x, y)


def test_a_gap_needs_both():
    assert "50 image rows and 0 text rows" in modality_gap(torch.randn(50, 8), torch.zeros(4, 8)).note


# ---- the tower


def test_the_tower_is_what_transformers_says_it_is(phantom):
    sample = medlens.phantom.samples(1, seed=5)[0]
    case = cases(phantom, [prepare(phantom, sample)])[0]
    hooked = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in phantom.module.modules()]
    tower = phantom.module.model.vision_tower
    with torch.no_grad():
        expected = tower(case.look.inputs["pixel_values"], output_hidden_states=True).hidden_states
    with hooks.outputs_of_each([phantom.module.model.multi_modal_projector]) as projected:
        found = before_the_decoder(phantom, case)
    assert len(found.states) == len(tower_layers(phantom)) + 1 == len(expected) == 5
    for rows, theirs in zip(found.states, expected, strict=True):
        assert torch.equal(rows, theirs[0, 1:])  # without the class token
    assert torch.equal(found.projected, projected[0][0])
    seen = forward(phantom, sample)
    assert torch.equal(found.projected, seen.hidden_states[0][seen.tokens.where("image")])
    assert fed_from(phantom) == 3
    assert hooked == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in phantom.module.modules()]


def test_streamed_is_resident(phantom):
    streamed, sample = medlens.load("phantom", memory="100MiB"), medlens.phantom.samples(1)[0]
    with streamed.here("around", "norm"):
        found = before_the_decoder(streamed, cases(streamed, [prepare(streamed, sample)])[0])
    expected = before_the_decoder(phantom, cases(phantom, [prepare(phantom, sample)])[0])
    assert all(map(torch.equal, (*found.states, found.projected), (*expected.states, expected.projected)))


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *bare.FAMILIES])
def test_every_family_has_its_tower(family):
    if family in tiny.FAMILIES:
        torch.manual_seed(0)
        model = medlens.load(*tiny.build(family))
        prompt = prepare(model, medlens.phantom.samples(1)[0])
    else:
        model, look = bare.build(family)
        prompt = bare.prompt(model, look, "is there a lesion ?")
    found = before_the_decoder(model, cases(model, [prompt])[0])
    config = model.module.config.vision_config
    assert len(found.states) == 1 + (getattr(config, "num_hidden_layers", None) or config.depth)
    assert len({rows.shape for rows in found.states}) == 1
    assert len(found.states[0]) > 0 < len(found.projected)  # some put a new line behind each row of patches


def test_a_family_without_a_tower_says_so(tiny_llava, tmp_path, monkeypatch):
    model = tiny_llava()
    monkeypatch.setattr(type(model.module), "get_encoder", lambda self, modality=None: self)
    with pytest.raises(BadModel, match=r"no vision tower .* in a llava"):
        tower_layers(model)
    run = medlens.probe(model, medlens.phantom.samples(60), out=tmp_path / "run", controls=2)
    assert "no vision tower" in run.manifest["probe"]["note"]
    assert "no vision tower" in run.report.read_text()
    assert set(run.rows["tokens"]) == {"image", "last", "question", "image and text"}


# ---- the job


@pytest.fixture(scope="module")
def samples():
    return medlens.phantom.samples(400)


@pytest.fixture(scope="module")
def run(phantom, samples, tmp_path_factory):
    tags = ("modality", "lesion", "laterality", "question_type")
    return medlens.probe(phantom, samples, tags, tmp_path_factory.mktemp("probes") / "run", controls=20)


def values(run, measure, tokens, group):
    found = run.rows.filter(
        (pl.col("measure") == measure) & (pl.col("tokens") == tokens) & (pl.col("group") == group) & (pl.col("variant") == "raw")
    )
    return dict(found.sort("layer").select("layer", "value").iter_rows())


def test_the_sound_phantom_knows_what_it_sees(run):
    accuracy = values(run, "probe_accuracy", "tower", "modality")
    assert list(accuracy) == [0, 1, 2, 3, 4]
    assert min(accuracy[t] for t in (1, 2, 3)) >= 0.95
    assert len(values(run, "probe_accuracy", "image", "modality")) == 9
    assert max(values(run, "probe_selectivity", "image", "lesion").values()) > 0.25
    assert values(run, "probe_selectivity", "last", "laterality")[8] > 0.25
    question = values(run, "probe_accuracy", "question", "laterality")[0]
    assert values(run, "probe_accuracy", "last", "laterality")[8] > question + 0.2


def test_controls_are_at_chance_and_undefined_says_why(run):
    control = run.rows.filter(pl.col("measure") == "probe_control", pl.col("value").is_not_nan())
    common = run.rows.filter(pl.col("measure") == "probe_majority", pl.col("value").is_not_nan())
    both = control.join(common, on=["layer", "tokens", "group"])
    assert both.height > 60
    assert ((both["value"] - both["value_right"]).abs() < 0.15).all()
    lost = run.rows.filter(pl.col("measure") == "probe_accuracy", pl.col("value").is_nan())
    assert set(lost["note"]) == {
        "questions on one image differ in it: read at the last token alone",
        "the states do not vary",  # the last token of the template, before any block
    }


def test_the_gap_closes_nowhere_and_its_floor_is_small(run):
    gap, floor = (values(run, name, "image and text", "all") for name in ("modality_gap", "modality_gap_floor"))
    assert list(gap) == list(floor) == list(range(9))
    assert all(gap[b] > 5 * floor[b] for b in gap)
    found = run.rows.filter(pl.col("measure") == "modality_gap")
    assert (found["low"] <= found["value"]).all()
    assert set(found["variant"]) == {"raw", "normed"}


def test_the_tower_has_a_geometry(run):
    for measure, count in (("anisotropy", 5), ("intrinsic_dimension", 5), ("mean_cosine", 5), ("linearity", 4)):
        found = values(run, measure, "tower", "all")
        assert list(found) == list(range(count)), measure
        assert all(map(np.isfinite, found.values()))


def test_the_page_and_its_picture(run):
    page = run.report.read_text()
    assert page.count("<svg") == 6
    assert "http" not in page.replace("http://www.w3.org", "").replace('http-equiv="Content', "")
    assert (run.path / "probe.png").read_bytes()[:4] == b"\x89PNG"
    assert medlens.open_run(run.path).samples.height == 400


def test_a_finished_one_is_not_repeated(run, phantom, samples):
    before = (run.path / "rows.parquet").stat().st_mtime_ns
    again = medlens.probe(phantom, samples, run.manifest["probe"]["tags"], run.path, controls=20)
    assert (again.path / "rows.parquet").stat().st_mtime_ns == before
    with pytest.raises(medlens.MedlensError, match="another"):
        medlens.probe(phantom, samples, ("mark",), run.path)


def test_a_model_that_is_blind_knows_only_what_the_question_says(samples, tmp_path):
    """Its tower sees; nothing of that enters the decoder."""
    run = medlens.probe("phantom:textonly", samples, ("modality", "laterality"), tmp_path / "run", QUICK, controls=20)
    assert min(list(values(run, "probe_accuracy", "tower", "modality").values())[1:4]) >= 0.95
    for tag in ("modality", "laterality"):
        assert all(map(np.isnan, values(run, "probe_accuracy", "image", tag).values()))
        last, question = (values(run, "probe_accuracy", tokens, tag) for tokens in ("last", "question"))
        assert all(last[b] < question[0] + 0.1 for b in range(1, 9))


def test_shuffled_tags_are_at_chance(phantom, samples, tmp_path):
    import dataclasses

    images = list(dict.fromkeys(s.image_id for s in samples))
    order = np.random.default_rng(0).permutation(len(images))
    given = {image: "ab"[int(k) % 2] for image, k in zip(images, order, strict=True)}
    tagged = [dataclasses.replace(s, tags={"coin": given[s.image_id]}) for s in samples]
    run = medlens.probe(phantom, tagged, ("coin",), tmp_path / "run", QUICK, controls=20)
    found = run.rows.filter(pl.col("measure") == "probe_selectivity", pl.col("value").is_not_nan())
    assert found["value"].abs().max() < 0.25  # one coin, read at 23 states that are much alike
    assert abs(found["value"].mean()) < 0.1


@pytest.mark.parametrize(
    ("tags", "plan", "says"),
    [
        (("modalty",), {}, "nearest: modality"),
        (("source",), {}, "every sample with a source has the same one, 'phantom'"),
        (("radius", "lateralty"), {}, "nearest: laterality"),
        ((), {}, "expected one or more"),
        ("modality", {}, "expected one or more"),
        (("modality",), {"limit": 6}, "2 images or patients for 5 folds"),
        (("modality",), {"folds": 2}, "at least 3"),
        (("modality",), {"workers": 2}, "one process"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(phantom, tmp_path, tags, plan, says):
    with pytest.raises(BadInput, match=says) as caught:
        medlens.probe(phantom, "phantom", tags, tmp_path / "run", Plan(**{"limit": 60, **plan}))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys):
    from typer.testing import CliRunner

    from medlens.cli import app

    words = ["probe", "phantom", "--by", "modality", "--limit", "200", "--controls", "3", "--json", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert {b["tokens"] for b in told["best"]} == {"tower", "question", "last", "image"}
    assert Path(told["report"]).is_file()


@pytest.mark.real
def test_real_radiographs_by_organ(real_data, tmp_path):
    """A checkpoint of LLaVA-Med's layout with random weights: it runs through."""
    run = medlens.probe(
        GOLDEN / "checkpoint", real_data / "vqa_rad", ("organ",), tmp_path / "run",
        Plan(limit=60, vision_tower=str(GOLDEN / "clip")), controls=10,
    )  # fmt: skip
    found = run.rows.filter(pl.col("measure") == "probe_selectivity", pl.col("tokens") == "tower")
    assert found.height >= 2
    assert found["value"].is_between(-1, 1).any() or found["note"].str.contains("needed").all()
