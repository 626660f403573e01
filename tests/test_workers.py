"""Several processes, machines or jobs share a study: the rows of one, to rounding; whatever dies on the way."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

import medlens
from medlens._crew import Processes
from medlens._instruments import instruments_for
from medlens.errors import BadInput, BadRun, MedlensError, WorkerLost
from medlens.plan import Plan
from medlens.walk.cases import cases, folds_of
from medlens.walk.forward import prepare, steps
from medlens.walk.layout import Layout, layout_of, rings
from medlens.walk.room import Room
from medlens.walk.shares import shares

PLAN = Plan(limit=24)
KEY = ["protocol", "measure", "layer", "tokens", "group", "variant"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of one process."""
    return medlens.study("phantom", "phantom", PLAN, tmp_path_factory.mktemp("one") / "run")


@pytest.fixture(autouse=True)
def quick_report(monkeypatch):
    monkeypatch.setattr("medlens.report.as_files", lambda chart: {"svg": ""})
    monkeypatch.setattr("medlens.report.figures.drawn", lambda *chart: {})


def assert_same(run, one):
    """Every row to 1e-6; answers and samples exactly."""
    both = run.rows.join(one.rows, on=KEY, suffix="_one", nulls_equal=True)
    assert both.height == run.rows.height == one.rows.height
    assert (both["n"] == both["n_one"]).all()
    assert (both["value"].is_nan() == both["value_one"].is_nan()).all()
    apart = both.filter(pl.col("value").is_not_nan()).with_columns(
        apart=(pl.col("value") - pl.col("value_one")).abs() / pl.col("value_one").abs().clip(1e-3)
    )
    assert apart["apart"].max() < 1e-6, apart.sort("apart")[-1]
    assert run.samples.equals(one.samples, null_equal=True)
    assert run.answers.drop("logprob").equals(one.answers.drop("logprob"), null_equal=True)


@pytest.fixture(scope="module")
def laid(phantom):
    prompts = [prepare(phantom, s, s.answer) for s in medlens.phantom.samples(60)]
    return cases(phantom, prompts)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_shares_are_whole_images_and_nearly_equal(laid, count):
    layout = layout_of(laid, 5)
    fold_of, found = layout.fold_of, shares(laid, layout, count)
    assert sorted(id(case) for share in found for case in share) == sorted(map(id, laid))
    images = [{case.image for case in share} for share in found]
    assert sum(map(len, images)) == len(fold_of)
    assert all((image in share) == (partner in share) for share in images for image, partner in layout.partner_of.items())
    tokens = [sum(len(case.pack.ids) for case in share) for share in found]
    largest = max(sum(len(c.pack.ids) for c in laid if c.image in ring) for ring in rings(fold_of))
    assert max(tokens) - min(tokens) <= 2 * largest
    if count <= 5:  # few folds each
        assert max(len({fold_of[i] for i in share}) for share in images) <= 5 // count + 2


def test_folds_are_whole_patients(phantom):
    """Images of one patient fall into one fold; patients are dealt out as they come."""
    drawn = medlens.phantom.samples(60)
    images = list(dict.fromkeys(s.image_id for s in drawn))
    patient = {image: f"p{k // 2}" for k, image in enumerate(images)}  # two images each
    named = [
        medlens.Sample(image=s.image, question=s.question, id=s.id, image_id=s.image_id, patient_id=patient[s.image_id])
        for s in drawn
    ]
    found = folds_of(cases(phantom, [prepare(phantom, s) for s in named]), 3)
    assert [found[image] for image in images] == [k // 2 % 3 for k in range(len(images))]


def test_what_is_handed_over_and_taken_is_the_same(phantom, laid):
    """Through named tensors, in two shares, against all at once."""
    plan, layout = Plan(neighbour_rows=256), layout_of(laid, 3)
    whole, merged = instruments_for(plan, layout), instruments_for(plan, Layout(3))
    halves = [instruments_for(plan, layout) for _ in range(2)]
    for passed in steps(phantom, laid, [whole], lambda: None, Room()):
        (whole.leave if passed < phantom.depth else whole.conclude)(passed)
    walks = [steps(phantom, share, [g], lambda: None, Room()) for share, g in zip(shares(laid, layout, 2), halves, strict=True)]
    for passed in range(phantom.depth + 1):
        for half, walking in zip(halves, walks, strict=True):
            assert next(walking) == passed
            merged.take(half.hand_over() if passed < phantom.depth else half.hand_over_last())
        (merged.leave if passed < phantom.depth else merged.conclude)(passed)
    assert len(merged.findings.rows) == len(whole.findings.rows)
    for a, b in zip(merged.findings.rows, whole.findings.rows, strict=True):
        assert a[:6] == b[:6]
        assert a.n == b.n
        assert a.value == pytest.approx(b.value, rel=1e-6, abs=1e-9, nan_ok=True), a


def test_what_is_taken_twice_is_not_the_same(phantom, laid):
    """Negative control: a part that is merged twice must show."""
    geometry, twice = (instruments_for(Plan(neighbour_rows=256), Layout()) for _ in range(2))
    walking = steps(phantom, laid[:4], [geometry], lambda: None, Room())
    next(walking)
    part = geometry.hand_over()
    twice.take(part)
    with pytest.raises(BadInput, match="closed"):
        twice.take(part)


@pytest.mark.slow
def test_two_processes(one, tmp_path):
    run = medlens.study("phantom", "phantom", Plan(limit=24, workers=2), tmp_path / "run")
    assert_same(run, one)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(one, tmp_path):
    killed = []

    def kill():
        while not killed:
            for part in tmp_path.glob("run.part/worker-1/state-0[3-6].bin"):
                for process in Path("/proc").glob("[0-9]*"):
                    if is_worker(process, str(part.parent)):
                        os.kill(int(process.name), signal.SIGKILL)
                        killed.append(part.name)
                        return
            time.sleep(0.002)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    run = medlens.study("phantom", "phantom", Plan(limit=24, workers=2), tmp_path / "run")
    assert killed
    assert_same(run, one)


def is_worker(process, folder):
    try:
        if b"medlens._share" not in (process / "cmdline").read_bytes():
            return False
        return any(str(fd.readlink()).startswith(folder) for fd in (process / "fd").iterdir())
    except OSError:
        return False


def test_a_workers_error_is_told(tmp_path, monkeypatch):
    """What a worker refuses is said as if we had refused it."""

    def start(self, worker, begun, real=Processes._start):
        (tmp_path / "run.part" / "worker-1" / "failed").write_text("weights of clay")
        real(self, worker, begun)

    monkeypatch.setattr(Processes, "_start", start)
    with pytest.raises(MedlensError, match="worker 1: weights of clay"):
        medlens.study("phantom", "phantom", Plan(limit=8, workers=2), tmp_path / "run")


def test_objects_in_memory_cannot_be_shared(phantom, tmp_path):
    with pytest.raises(BadInput, match="by name or path"):
        medlens.study(phantom, "phantom", Plan(limit=8, workers=2), tmp_path / "run")


# ---- a job array


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "run"
    for number in (2, 1):
        medlens.study_shard("phantom", "phantom", PLAN, out, f"{number}/2")
    return out


def copied(shards, tmp_path):
    shutil.copytree(shards.with_name("run.shards"), tmp_path / "run.shards")
    return tmp_path / "run"


def test_shares_merge(shards, one, tmp_path):
    out = copied(shards, tmp_path)
    run = medlens.merge(out)
    assert_same(run, one)
    assert run.manifest["identity"] == one.manifest["identity"]
    assert medlens.merge(out).path == out  # and is found so
    assert medlens.study("phantom", "phantom", PLAN, out).path == out


def test_a_share_goes_on_where_it_was(shards, one, tmp_path, monkeypatch):
    out = copied(shards, tmp_path)
    folder = tmp_path / "run.shards" / "1-of-2"
    (folder / "manifest.json").unlink()
    for block in (5, 6, 7, 8):
        (folder / f"part-{block:02d}.safetensors").unlink()
    medlens.study_shard("phantom", "phantom", PLAN, out, "1/2")
    assert_same(medlens.merge(out), one)


def test_shares_that_do_not_belong_together(shards, tmp_path):
    out = copied(shards, tmp_path)
    shutil.rmtree(tmp_path / "run.shards" / "2-of-2")
    with pytest.raises(BadRun, match="share 2 of 2 is not done"):
        medlens.merge(out)
    medlens.study_shard("phantom", "phantom", Plan(limit=25), out, "2/2")
    with pytest.raises(BadRun, match=r"2-of-2 is a share of another study \(plan and data differ\)"):
        medlens.merge(out)
    with pytest.raises(BadRun, match="holds no shares"):
        medlens.merge(tmp_path / "other")
    with pytest.raises(BadRun, match="another study"):
        medlens.study_shard("phantom", "phantom", PLAN, out, "2/2")


def test_a_damaged_part(shards, tmp_path):
    out = copied(shards, tmp_path)
    part = tmp_path / "run.shards" / "1-of-2" / "part-03.safetensors"
    save_file({k: v for k, v in load_file(part).items() if "cosines" not in k} | {"seen.x": torch.ones(1)}, part)
    with pytest.raises(BadRun):
        medlens.merge(out)
    assert not out.exists()


@pytest.mark.parametrize("said", ["0/4", "5/4", "4", "a/b", ""])
def test_shards_that_are_none(said, tmp_path):
    with pytest.raises(BadInput, match="3/16"):
        medlens.study_shard("phantom", "phantom", PLAN, tmp_path / "run", said)


def test_ranks_of_the_environment(monkeypatch):
    from medlens._merge import shard_of

    with pytest.raises(BadInput, match="SLURM_ARRAY_TASK_ID"):
        shard_of("env")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert shard_of("env") == (4, 4)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "5")
    assert shard_of("env") == (3, 5)


# ---- Ray, on loopback


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A real cluster of one machine, which asks for no token, whether the user of this machine ever made one or not."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # before Ray is imported, here and there
    pytest.importorskip("ray", reason="no Ray: pip install 'medlens[ray]'")
    ray = str(Path(sys.executable).parent / "ray")
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    command = [ray, "start", "--head", "--port=6399", "--num-cpus=2", "--include-dashboard=false", "--node-ip-address=127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    yield "127.0.0.1:6399"
    subprocess.run([ray, "stop", "--force"], check=True, capture_output=True, env=environment)


@pytest.mark.ray
@pytest.mark.slow
def test_two_ray_workers(one, tmp_path, cluster):
    assert_same(medlens.study("phantom", "phantom", Plan(limit=24, workers=2, cluster=cluster), tmp_path / "run"), one)


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_worker_that_is_killed_is_replaced(one, tmp_path, cluster, monkeypatch):
    """Killed for real, in the middle: its process gets SIGKILL."""
    killed = []

    def parts(self, block, real=None):
        from medlens import cluster as cluster_

        if block == 4 and not killed:
            pids = [p for p in Path("/proc").glob("[0-9]*") if is_actor(p)]
            os.kill(int(pids[0].name), signal.SIGKILL)
            killed.append(pids[0])
        yield from cluster_.Actors.real_parts(self, block)

    from medlens.cluster import Actors

    monkeypatch.setattr(Actors, "real_parts", Actors.parts, raising=False)
    monkeypatch.setattr(Actors, "parts", parts)
    run = medlens.study("phantom", "phantom", Plan(limit=24, workers=2, cluster=cluster), tmp_path / "run")
    assert killed
    assert_same(run, one)


def is_actor(process):
    try:
        return b"ray::Worker" in (process / "cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.ray
@pytest.mark.slow
def test_an_address_that_does_not_answer(tmp_path):
    pytest.importorskip("ray", reason="no Ray: pip install 'medlens[ray]'")
    with pytest.raises(WorkerLost, match="no Ray cluster answers at"):
        medlens.study("phantom", "phantom", Plan(limit=8, cluster="127.0.0.1:1"), tmp_path / "run")
