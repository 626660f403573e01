"""A study that was killed, stopped, or ran out of disk goes on where it was, and the run is the same to the last byte."""

import errno
import fcntl
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import medlens
from medlens import store, unfinished
from medlens.errors import BadInput, BadRun, CannotWrite
from medlens.instruments.geometry import Geometry
from medlens.models import load
from medlens.plan import Plan
from medlens.walk.room import Files

PLAN = Plan(limit=8)


@pytest.fixture(scope="module")
def whole(phantom, tmp_path_factory):
    """The run without any interruption."""
    return medlens.study(phantom, "phantom", PLAN, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def quick_report(monkeypatch):
    """Drawing takes seconds, and is not what is tested here."""
    monkeypatch.setattr("medlens.report.as_files", lambda chart: {"svg": ""})
    monkeypatch.setattr("medlens.report.figures.drawn", lambda *chart: {})


def same(run, whole):
    tables = ("rows", "answers", "samples")
    return all((run.path / f"{t}.parquet").read_bytes() == (whole.path / f"{t}.parquet").read_bytes() for t in tables)


def left(folder):
    return sorted(p.name for p in folder.iterdir())


class Interrupted(BaseException):
    """Like Ctrl-C: from outside."""


@pytest.mark.parametrize("block", [1, 4, 7, 8])
def test_goes_on_behind_the_last_finished_block(phantom, whole, tmp_path, monkeypatch, quick_report, block):
    stop_at(monkeypatch, block)
    with pytest.raises(Interrupted):
        medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    assert left(tmp_path) == ["run.part"]
    monkeypatch.undo()
    monkeypatch.setattr("medlens._study.foresee", lambda *a: no_forecast())  # which walks, too
    walked = set()
    monkeypatch.setattr(Geometry, "visit", lambda self, b, *a, real=Geometry.visit: (walked.add(b), real(self, b, *a)))
    run = medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    assert walked == set(range(block, phantom.depth))
    assert same(run, whole)
    assert left(tmp_path) == ["run"]


def stop_at(monkeypatch, block):
    """In the middle of a block (or of the last state), when some cases have passed it."""
    passed = 0

    def visit(self, b, *args, real=Geometry.visit):
        nonlocal passed
        passed += b == block
        if passed > 1:
            raise Interrupted
        real(self, b, *args)

    def finish(self, *args, real=Geometry.finish):
        if block == 8:
            raise Interrupted
        real(self, *args)

    monkeypatch.setattr(Geometry, "visit", visit)
    monkeypatch.setattr(Geometry, "finish", finish)


def test_answers_that_are_written_are_not_asked_again(phantom, whole, tmp_path, monkeypatch, quick_report):
    asked = []

    def answer(model, prompt, decoding, real=medlens._answering.answer_prompt):
        asked.append(prompt.sample.id)
        if len(asked) == 5:
            raise Interrupted
        return real(model, prompt, decoding)

    monkeypatch.setattr("medlens._study.foresee", lambda *a: no_forecast())
    monkeypatch.setattr("medlens._answering.answer_prompt", answer)
    with pytest.raises(Interrupted):
        medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    with (tmp_path / "run.part" / "answers.jsonl").open("a") as file:
        file.write('{"text": "cut o')  # as a kill in the middle of a write leaves it
    run = medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    assert len(asked) == len(set(asked)) + 1  # the one it was stopped at
    assert same(run, whole)


def no_forecast():
    from medlens._forecast import Forecast

    return Forecast(8, 2, 1, 1, 0.0, 0, 0, 0)


def test_states_that_are_gone_are_walked_again(phantom, whole, tmp_path, monkeypatch, quick_report):
    stop_at(monkeypatch, 4)
    with pytest.raises(Interrupted):
        medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    monkeypatch.undo()
    for file in (tmp_path / "run.part").glob("state-*"):
        file.unlink()
    assert same(medlens.study(phantom, "phantom", PLAN, tmp_path / "run"), whole)


def test_resident_goes_on_streamed(phantom, whole, tmp_path, monkeypatch, quick_report):
    """How much memory there is, is no part of what the study is."""
    stop_at(monkeypatch, 3)
    with pytest.raises(Interrupted):
        medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    monkeypatch.undo()
    streamed = load("phantom", memory="100kB")
    assert same(medlens.study(streamed, "phantom", PLAN, tmp_path / "run"), whole)


def test_another_study_does_not_go_on_there(phantom, tmp_path, monkeypatch):
    stop_at(monkeypatch, 3)
    with pytest.raises(Interrupted):
        medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(BadRun, match=r"run\.part holds the beginning of another study \(plan and data differ\)"):
        medlens.study(phantom, "phantom", Plan(limit=9), tmp_path / "run")
    changed = load("phantom")
    changed.blocks[0].mlp.up_proj.weight.data[0, 0] += 0.01
    with pytest.raises(BadRun, match=r"another study \(weights differ\)"):
        medlens.study(changed, "phantom", PLAN, tmp_path / "run")
    assert left(tmp_path) == ["run.part"]


def test_two_processes_at_once(phantom, tmp_path):
    (tmp_path / "run.part").mkdir()
    with (tmp_path / "run.part" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadRun, match=r"another process is at work on run\.part"):
            medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    assert left(tmp_path) == ["run.part"]


# ---- a disk that is full


BEGUN = 6  # writes: of which study it is; then two pictures, samples, answers that are not there yet, manifest


@pytest.mark.parametrize("at", [1, 4, BEGUN + 1, BEGUN + 2, BEGUN + 5, BEGUN + 9, BEGUN + 12])
def test_a_disk_that_is_full_at_any_write(phantom, whole, tmp_path, monkeypatch, quick_report, at):
    writes = 0

    def write(path, content, real=store.write):
        nonlocal writes
        writes += 1
        if writes == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(store, "write", write)
    monkeypatch.setattr(unfinished, "write", write)
    with pytest.raises(CannotWrite, match="the disk is full"):
        medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    assert left(tmp_path) == ([] if at <= BEGUN else ["run.part"])  # at first, there is nothing to go on with
    assert same(medlens.study(phantom, "phantom", PLAN, tmp_path / "run"), whole)
    assert left(tmp_path) == ["run"]


def test_a_disk_that_is_full_in_the_middle_of_a_block(phantom, whole, tmp_path, monkeypatch, quick_report):
    def put(self, layer, case, state, real=Files.put):
        if layer == 5 and case == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, layer, case, state)

    monkeypatch.setattr(Files, "put", put)
    with pytest.raises(CannotWrite, match=r"the disk is full; what is done stands in run\.part: the same command goes on"):
        medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    monkeypatch.undo()
    assert same(medlens.study(phantom, "phantom", PLAN, tmp_path / "run"), whole)


def test_files_that_may_not_grow(phantom, tmp_path):
    """The kernel refuses to let any file grow past 20 kB: a real failing write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(CannotWrite, match="File too large"):
            medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("what", ["missing", "full", "a file"])
def test_a_scratch_folder_that_will_not_do(phantom, tmp_path, monkeypatch, what):
    scratch = tmp_path / "scratch"
    if what == "a file":
        scratch.write_text("x")
    if what == "full":
        scratch.mkdir()
        free = lambda path: shutil._ntuple_diskusage(2**40, 2**40, 2**40 if "scratch" not in str(path) else 2**10)
        monkeypatch.setattr(shutil, "disk_usage", free)
    with pytest.raises(CannotWrite, match="scratch"):
        medlens.study(phantom, "phantom", Plan(limit=8, scratch=str(scratch)), tmp_path / "run")
    assert "run" not in left(tmp_path)


def test_states_wait_in_the_scratch_folder(phantom, whole, tmp_path, monkeypatch, quick_report):
    seen = set()
    monkeypatch.setattr(Files, "forget", lambda self, layer, real=Files.forget: (seen.add(self._folder), real(self, layer)))
    (tmp_path / "scratch").mkdir()
    run = medlens.study(phantom, "phantom", Plan(limit=8, scratch=str(tmp_path / "scratch")), tmp_path / "run")
    assert seen
    assert all(p.is_relative_to(tmp_path / "scratch") for p in seen)
    assert left(tmp_path / "scratch") == []
    assert same(run, whole)
    assert run.manifest["plan"]["scratch"] == "scratch"


def test_a_budget_that_is_too_small(tmp_path):
    with pytest.raises(BadInput, match=r"memory is 100MiB, and this study needs about .* MiB: the least that works"):
        medlens.study("phantom", "phantom", Plan(limit=8, memory="100MiB"), tmp_path / "run")
    with pytest.raises(BadInput, match="4GiB"):
        Plan(memory="plenty")


# ---- a process that is really killed

KILLS = 2
COMMAND = [
    str(Path(sys.executable).parent / "medlens"),
    "study",
    "phantom",
    "phantom",
    "--limit",
    "8",
    "--map-images",
    "0",
    "--out",
]


@pytest.mark.slow
def test_killed_again_and_again_at_random(tmp_path):
    """With SIGKILL, which nothing can clean up behind: the same command goes on, until one gets through."""
    chance = random.Random(0)
    began = time.monotonic()
    subprocess.run([*COMMAND, str(tmp_path / "timed")], check=True, capture_output=True)
    duration = time.monotonic() - began
    killed = 0
    while killed < KILLS:
        process = subprocess.Popen([*COMMAND, str(tmp_path / "run")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(0.3, 0.8) * duration)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        if process.returncode == 0:
            shutil.rmtree(tmp_path / "run")  # it was faster than the kill: once more from the start
    subprocess.run([*COMMAND, str(tmp_path / "run")], check=True, capture_output=True)
    assert same(medlens.open_run(tmp_path / "run"), medlens.open_run(tmp_path / "timed"))
    assert left(tmp_path) == ["run", "timed"]
