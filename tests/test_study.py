import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import medlens
import medlens._study
from medlens import _views, store
from medlens.errors import BadData, BadInput, BadRun, CannotWrite, NotFinite
from medlens.measures import MEASURES
from medlens.models import load
from medlens.plan import Plan
from medlens.tables import study as of_a_study

PLAN = Plan(limit=40)
IMAGES = len({s.image_id for s in medlens.phantom.samples(PLAN.limit, PLAN.seed)})


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory):
    return medlens.study(phantom, "phantom", PLAN, tmp_path_factory.mktemp("study") / "run")


def picture(tmp_path, name, value=90):
    Image.fromarray(np.full((70, 60), value, np.uint8)).save(tmp_path / name)
    return tmp_path / name


def test_tables_have_the_columns_of_the_contract(run):
    names = [*of_a_study.COLUMNS, *_views.TABLES]
    assert {path.stem for path in run.path.glob("*.parquet")} == set(names)
    for name in names:
        table, columns = getattr(run, name), store.TABLES[name]
        assert dict(table.schema) == {k: v() if isinstance(v, type) else v for k, v in columns.items()}
        # massive: the phantom has none, see test_geometry for those that are planted; words of units: of the published protocol;
        # maps: see test_views
        assert table.height > 0 or name in ("massive", "occurrence", "unit_words", *_views.OF_MAPS)


def test_every_measure_at_every_layer_for_every_group(run):
    """State measures at states 0..L and the normed last; pair measures at blocks 0..L-1. Off-by-one errors end here."""
    for name, measure in MEASURES.items():
        rows = run.rows.filter(measure=name, protocol="sound").filter(pl.col("variant").is_in(["raw", "normed"]))
        raw = [(b, "raw") for b in range(8 if measure.needs == "pairs" else 9)]
        expected = raw if measure.needs == "pairs" else [*raw, (8, "normed")]
        for group in ("image", "text", "template", "answer", "all"):
            mine = rows.filter(pl.col("tokens") == group)
            assert sorted(zip(mine["layer"], mine["variant"], strict=True)) == sorted(expected), (name, group)
    undefined = run.rows.filter(pl.col("value").is_nan())
    assert undefined.height < 0.1 * run.rows.height
    assert (undefined["note"] != "").all()


def states(phantom, run):
    """Rows of every state for each token group, one forward per sample: image and prefix rows once an image."""
    samples = {s.id: s for s in medlens.phantom.samples(PLAN.limit, PLAN.seed)}
    found, images, seen = {}, {}, set()
    for record in run.answers.to_dicts():
        sample = samples[record["sample"]]
        out = medlens.forward(phantom, sample, record["answer"])
        last_image = max(out.tokens.where("image"))
        layers = [*out.hidden_states[:-1], out.raw_last, out.hidden_states[-1]]
        for group in ("image", "text", "template", "answer"):
            places = [p for p in out.tokens.where(group) if p > last_image or sample.image_id not in seen]
            for layer, state in enumerate(layers):
                found.setdefault((group, layer), []).append(state[places])
            images.setdefault(group, []).extend([sample.image_id] * len(places))
        seen.add(sample.image_id)
    return {k: torch.cat(v) for k, v in found.items()}, images


def test_rows_are_the_measures_of_the_states(phantom, run):
    """The whole way (packs, walk, sums) against the functions of arrays on states taken one sample at a time."""
    rows, images = states(phantom, run)
    table = {(r["measure"], r["layer"], r["tokens"], r["variant"]): r for r in run.rows.filter(protocol="sound").to_dicts()}
    for group in ("image", "text"):
        for name, measure in MEASURES.items():
            for layer in range(9):
                x = rows[(group, layer)]
                if measure.needs == "pairs":
                    if layer == 8:
                        continue
                    expected = measure.of_arrays(x, rows[(group, layer + 1)])
                elif name == "mean_cosine_between":
                    expected = measure.of_arrays(x, images[group])
                elif name == "intrinsic_dimension":
                    expected = measure.of_arrays(x, PLAN.keep, 1e-5)  # questions that begin alike: duplicates but for rounding
                else:
                    expected = measure.of_arrays(x)
                got = table[(name, layer, group, "raw")]
                # 2e-3 for dimension: a rounding of 1e-6 in a state moves the ratios of near neighbours
                tolerance = 2e-3 if name == "intrinsic_dimension" else 1e-4
                assert got["n"] == expected.n, (name, layer, group)
                assert got["value"] == pytest.approx(float(expected), rel=tolerance, nan_ok=True), (name, layer, group)
        normed = MEASURES["anisotropy"].of_arrays(rows[(group, 9)])
        assert table[("anisotropy", 8, group, "normed")]["value"] == pytest.approx(float(normed), rel=1e-4)


def test_answers(run):
    joined = run.samples.join(run.answers, on="sample", suffix="_said")
    assert joined.height == 40
    assert (joined["correct"] == (joined["answer"] == joined["answer_said"])).all()
    assert joined["correct"].mean() > 0.9
    assert (joined["logprob"] < 0).all()


def test_manifest(run):
    manifest = run.manifest
    assert manifest["plan"] == PLAN.as_dict()
    assert manifest["model"]["blocks"] == 8
    assert manifest["data"] == {**manifest["data"], "name": "phantom", "samples": 40, "images": IMAGES, "skipped": []}
    assert manifest["command"] == "medlens study phantom phantom --limit 40 --out RUN"
    assert 0 < manifest["peak_memory"] < 2**34


def test_pandas(run):
    assert list(run.rows.to_pandas().columns) == list(store.TABLES["rows"])


def test_the_same_study_is_found_and_another_refused(phantom, run):
    before = run.report.stat().st_mtime_ns
    again = medlens.study(phantom, "phantom", PLAN, run.path)
    assert again.report.stat().st_mtime_ns == before
    with pytest.raises(BadRun, match="another study"):
        medlens.study(phantom, "phantom", Plan(limit=40, seed=1), run.path)


def test_the_key_depends_on_the_weights(run):
    changed = load("phantom")
    with torch.no_grad():
        changed.blocks[0].mlp.up_proj.weight[0, 0] += 0.01
    with pytest.raises(BadRun, match="another study"):
        medlens.study(changed, "phantom", PLAN, run.path)


def test_a_folder_that_is_no_run_is_left_alone(phantom, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadRun, match="not a run"):
        medlens.study(phantom, "phantom", PLAN, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_twice_is_the_same(phantom, run, tmp_path):
    again = medlens.study(phantom, "phantom", PLAN, tmp_path / "again")
    assert again.rows.equals(run.rows, null_equal=True)
    assert again.manifest["key"] == run.manifest["key"]


def test_own_data_given_answers_and_skipping(phantom, tmp_path):
    for k in range(4):
        picture(tmp_path, f"{k}.png", 40 * k)
    (tmp_path / "bad.png").write_bytes(b"no image")
    lines = ["image,question,answer,sex", "0.png,is there a lesion ?,no,f", "1.png,where is it ?,upper left,m"]
    lines += ["gone.png,what ?,no,f", "bad.png,what ?,no,m", "2.png,what ?,,f"]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    with pytest.raises(BadData, match=r"data\.csv line 4: image gone\.png"):
        medlens.study(phantom, tmp_path / "data.csv", Plan(answers="given"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = medlens.study(phantom, tmp_path / "data.csv", Plan(answers="given", skip_bad=True), tmp_path / "run")
    skipped = run.manifest["data"]["skipped"]
    assert len(skipped) == 2
    assert skipped[0].startswith("data.csv line 4: image gone.png")
    assert skipped[1].startswith("sample 0004: image bad.png is not an image")
    assert run.samples["file"].to_list() == ["0.png", "1.png", "2.png"]
    assert run.answers["answer"].to_list() == ["no", "upper left"]
    assert set(run.answers["logprob"]) == set(run.answers["correct"]) == {None}  # compared with itself, every answer is right
    assert "given by the data, not generated" in run.report.read_text()
    assert json.loads(run.samples["tags"][1]) == {"sex": "m"}


def test_given_answers_that_are_not_there(phantom, tmp_path):
    sample = medlens.Sample(image=picture(tmp_path, "a.png"), question="what ?")
    with pytest.raises(BadData, match="none of 1 samples has an answer"):
        medlens.study(phantom, [sample], Plan(answers="given"), tmp_path / "run")


def test_questions_that_cannot_be_put_to_the_model(phantom, tmp_path):
    """Too long for it, empty, or with a control token: named, or left out."""
    path = picture(tmp_path, "a.png")
    asked = ["is there a lesion ?", "lesion " * 5000, " ", "what </s> ?"]
    samples = [medlens.Sample(image=path, question=q, id=f"q{k}") for k, q in enumerate(asked)]
    with pytest.raises(BadData, match="sample q1: its prompt has 5068 tokens, phantom reads at most 1024"):
        medlens.study(phantom, samples, Plan(), tmp_path / "run")
    run = medlens.study(phantom, samples, Plan(skip_bad=True), tmp_path / "run")
    assert run.samples["sample"].to_list() == ["q0"]
    assert [line[:9] for line in run.manifest["data"]["skipped"]] == ["sample q1", "sample q2", "sample q3"]


def test_an_answer_that_is_cut_off_is_said_to_be(phantom, tmp_path):
    run = medlens.study(phantom, "phantom", Plan(limit=5, max_new_tokens=1), tmp_path / "run")
    assert not run.answers["ended"].any()
    assert run.report.read_text().count("cut off at 1 tokens") == 5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, tmp_path, run):
    half = medlens.study("phantom", "phantom", Plan(limit=40, dtype=dtype), tmp_path / "run")
    assert half.manifest["model"]["dtype"] == dtype
    both = half.rows.join(run.rows, on=["measure", "layer", "tokens", "variant"], suffix="_32")
    image = both.filter((pl.col("tokens") == "image") & (pl.col("measure") == "anisotropy"))
    assert ((image["value"] - image["value_32"]).abs() < 0.02).all()


@pytest.mark.parametrize("where", ["a file", "below a file"])
def test_a_place_that_cannot_be_is_said_at_once(tmp_path, where):
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "run" if where == "below a file" else tmp_path / "file"
    with pytest.raises(CannotWrite, match="file is a file"):
        medlens.study("nomodel", "nodata", Plan(), out)  # before anything else is looked at


def test_another_process_was_faster(phantom, tmp_path, monkeypatch):
    """Both started on a free place; the loser says so and leaves the winner's run alone."""

    def meanwhile(folder, real=medlens._study.write_report):
        shutil.copytree(folder, tmp_path / "run")
        (tmp_path / "run" / "winner").touch()
        real(folder)

    monkeypatch.setattr("medlens._study.write_report", meanwhile)
    with pytest.raises(BadRun, match="by another process meanwhile"):
        medlens.study(phantom, "phantom", Plan(limit=2), tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "winner").exists()


def test_no_path_enters_a_run_or_its_report(phantom, tmp_path):
    secret = tmp_path / "Jane_Doe_1950"
    secret.mkdir()
    picture(secret, "scan.png")
    (secret / "broken.png").write_bytes(b"x")
    run = medlens.study(phantom, secret, Plan(question="is there a lesion ?", skip_bad=True), tmp_path / "run")
    for file in run.path.rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert "$DATA" in run.manifest["command"]


def test_forecast_writes_nothing_and_counts_what_walks(phantom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = medlens.forecast(phantom, "phantom", PLAN)
    assert list(tmp_path.iterdir()) == []
    assert (found.samples, found.images) == (40, IMAGES)
    assert found.tokens < 0.4 * found.tokens_unpacked
    assert found.seconds > 1
    assert 2**28 < found.memory < 2**33


def test_watcher_hears_every_step(phantom, tmp_path):
    class Watcher:
        def __init__(self):
            self.phases, self.forecast = [], None

        def planned(self, forecast):
            self.forecast = forecast

        def begin(self, phase, steps):
            self.phases.append([phase, steps, 0])

        def tick(self):
            self.phases[-1][2] += 1

    watcher = Watcher()
    medlens.study(phantom, "phantom", Plan(limit=6), tmp_path / "run", watcher=watcher)
    assert all(steps == ticks for _, steps, ticks in watcher.phases), watcher.phases
    assert watcher.forecast.samples == 6


# ---- failures leave nothing behind


def nothing_left(folder):
    return [p.name for p in folder.iterdir()] == []


def test_a_failing_walk_leaves_nothing(tmp_path):
    model = load("phantom")
    with torch.no_grad():
        model.blocks[5].mlp.down_proj.weight *= 3e38
    with pytest.raises(NotFinite):
        medlens.study(model, "phantom", Plan(limit=3), tmp_path / "runs" / "x")
    assert nothing_left(tmp_path)


def test_too_little_disk_is_said_before_the_work(phantom, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 2**20))
    with pytest.raises(CannotWrite, match="1 MiB free"):
        medlens.study(phantom, "phantom", Plan(limit=2), tmp_path / "run")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", 0),
        ("seed", -1),
        ("answers", "guess"),
        ("keep", 1.0),
        ("max_new_tokens", 0),
        ("neighbour_rows", 2),
        ("instruments", ()),
    ],
)
def test_a_plan_that_makes_no_sense(field, value):
    with pytest.raises(BadInput, match=field):
        Plan(**{field: value})


def test_a_question_for_the_phantoms_own_samples_is_refused(phantom, tmp_path):
    with pytest.raises(BadInput, match="their own questions"):
        medlens.study(phantom, "phantom", Plan(question="what ?"), tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "not a run"), ("{", "damaged"), ("[]", "damaged: it holds"), ('{"format": 99}', "format 99")],
)
def test_a_damaged_run_is_refused(tmp_path, content, says):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(BadRun, match=says):
        medlens.open_run(tmp_path)


def test_a_run_without_its_table_is_refused(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    (copy / "rows.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(BadRun, match=r"rows\.parquet is missing or damaged"):
        _ = medlens.open_run(copy).rows
