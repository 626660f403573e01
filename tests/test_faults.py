"""Small versions of `make faults` and `make load`: the same tool, a few faults; and that it would see one that does harm."""

import errno
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import trial
from medlens._tensors import write_tensors
from medlens.errors import BadInput, BadRun, CannotWrite, OutOfMemory, WorkerLost
from medlens.phantom.questions import samples
from medlens.types import Answer
from medlens.unfinished import PROGRESS, Unfinished, noted_in, remove_rests, unfinished, writing
from medlens.walk.forward import prepare
from medlens.walk.room import Files

TOOLS = Path(__file__).parent.parent / "tools"
WHOSE = {"plan": "a"}


def faults(*arguments, **more):
    command = [sys.executable, str(TOOLS / "faults.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, **more)


def test_a_few_faults():
    """Killed at random; and a disk that is full, somewhere between the first and the last write."""
    ended = faults("killed", "disk_full", "--kills", "2", "--every", "70", "--samples", "2")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[0].split()[:5] == ["killed", "at", "a", "random", "moment"]
    assert "wrong or lost: 0" in ended.stdout


# ---- what is left, and for whom


def begun(out, failure):
    """Work of which a block is finished when something happens."""
    with unfinished(out, WHOSE) as work:
        work.note({"state": 3})
        raise failure


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (MemoryError(), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"), OutOfMemory),
        (WorkerLost("worker 1 died 3 times"), WorkerLost),
        (OSError(28, "No space left on device"), CannotWrite),
        (ZeroDivisionError(), ZeroDivisionError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_what_is_done_survives(tmp_path, failure, raised):
    with pytest.raises(raised):
        begun(tmp_path / "run", failure)
    with unfinished(tmp_path / "run", WHOSE) as work, work.becoming(tmp_path / "run"):
        assert work.progress == {"state": 3}
    assert left(tmp_path) == ["run"]


def test_what_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(BadInput):
        begun(tmp_path / "run", BadInput("no"))
    assert left(tmp_path) == []


def test_full_memory_is_said_in_one_line(tmp_path):
    with pytest.raises(OutOfMemory, match=r"^memory ran out; what is done stands in run\.part: the same command goes on"):
        begun(tmp_path / "run", MemoryError())


def test_nothing_is_trusted_that_is_not_whole(tmp_path):
    work = Unfinished(tmp_path, tmp_path)
    (tmp_path / "kept").mkdir()
    files = [tmp_path / "kept" / "a", tmp_path / "b"]
    for path in files:
        path.write_bytes(b"what was found")
    sealed = work.sealed(files)
    assert set(sealed) == {"kept/a", "b"}
    assert work.holds(sealed)
    files[0].write_bytes(b"what was foun")
    assert not work.holds(sealed)
    files[0].unlink()
    assert not work.holds(sealed)
    work.note({"state": 3})
    noted = (tmp_path / PROGRESS).read_text()
    assert work.progress == {"state": 3}
    for damaged in (noted[:-9], noted.replace("3", "4"), "[" * 9999, "[]", '{"noted": {"state": 3}}'):
        (tmp_path / PROGRESS).write_text(damaged)
        assert work.progress == {}


def test_answers_behind_one_that_is_cut_off_are_asked_again(tmp_path):
    work = Unfinished(tmp_path, tmp_path)
    for text in ("yes", "no", "left"):
        work.add_answer(Answer(text))
    path = tmp_path / "answers.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    for rest in ("\0\0\0\n" + whole[2], whole[1][:9], '{"other": 1}\n'):
        path.write_text(whole[0] + rest)
        assert work.answers() == ["yes"]
        assert path.read_text() == whole[0]


def test_an_identity_that_cannot_be_read(tmp_path):
    (tmp_path / "run.part").mkdir()
    (tmp_path / "run.part" / "identity.json").write_text("")
    with pytest.raises(BadRun, match=r"run\.part/identity\.json is damaged"), unfinished(tmp_path / "run", WHOSE):
        pass
    assert left(tmp_path) == ["run.part"]


def test_two_runs_of_one_name_share_a_scratch_folder(tmp_path):
    """Neither finds the states of the other, whose name is the same, and whose size may be."""
    for name in "abs":
        (tmp_path / name).mkdir()
    one, two = (unfinished(tmp_path / name / "run", WHOSE, tmp_path / "s") for name in "ab")
    with one as first, two as second:
        assert first.scratch != second.scratch
        assert first.scratch.parent == second.scratch.parent == tmp_path / "s"
    assert left(tmp_path / "s") == []


def test_what_another_finished_meanwhile_is_not_done_again(tmp_path):
    with unfinished(tmp_path / "run", WHOSE) as work, work.becoming(tmp_path / "run") as folder:
        (folder / "manifest.json").write_text("{}")
    with pytest.raises(BadRun, match="was written by another process meanwhile"), unfinished(tmp_path / "run", WHOSE):
        pass
    assert left(tmp_path) == ["run"]


def test_a_page_whose_writer_was_killed_is_written_again(tmp_path):
    (tmp_path / "page.part" / "run").mkdir(parents=True)
    (tmp_path / "page.part" / "run" / "half").write_text("")
    with writing(tmp_path / "page") as folder:
        (folder / "whole").write_text("")
    assert left(tmp_path) == ["page"]
    assert left(tmp_path / "page") == ["whole"]


def test_a_page_does_not_take_the_place_of_an_unfinished_study(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        begun(tmp_path / "run", KeyboardInterrupt())
    with pytest.raises(BadRun, match="holds a run that is not finished"), writing(tmp_path / "run"):
        pass
    assert noted_in(tmp_path / "run.part") == {"state": 3}
    remove_rests(tmp_path / "run")
    assert left(tmp_path) == []


def test_states_that_a_stopped_walk_left_are_forgotten(tmp_path):
    room = Files(tmp_path, [2], 4, torch.float32, torch.device("cpu"))
    for layer in (2, 3, 4):
        room.put(layer, 0, torch.zeros(2, 4))
        room.close(layer)
    room.begun = 3
    room.tidy()
    assert left(tmp_path) == ["state-03.bin"]
    assert room.holds(3)


def test_a_file_that_may_not_grow_is_an_error_of_the_system(tmp_path):
    """Also where safetensors writes, which has an error of its own for it."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            write_tensors(tmp_path / "x", {"a": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG


# ---- the tool itself


def test_the_tool_sees_what_is_lost(tmp_path):
    """Negative control: files of the last block taken away, and other tables."""
    count = trial.Count("x")
    bench = object.__new__(trial.Bench)
    bench.place, bench.words, bench.log = tmp_path, tmp_path / "words", tmp_path / "noted"
    bench.tables = {"rows.parquet": b"1"}
    out = tmp_path / "work" / "run"
    (tmp_path / "words").write_text("a line\n")
    bench.log.write_text("5")  # state 5 was noted; nothing is there

    def study(out, **chosen):
        out.mkdir(parents=True)
        (out / "rows.parquet").write_bytes(b"2")
        return 0

    bench.study = study
    bench.judge(count, out, -9)
    assert [wrong.split(":")[0] for wrong in count.wrong] == ["lost", "other tables"]
    assert (count.tried, count.struck) == (1, 1)
    shutil.rmtree(tmp_path / "work")


def test_tokens_share_what_is_the_same(phantom):
    """10,000 samples wait in memory: each id and text is there once."""
    (sample,) = samples(1)
    one, two = prepare(phantom, sample).tokens, prepare(phantom, sample).tokens
    for tokens in (one, two):
        assert len({id(i) for i in tokens.ids}) == len(set(tokens.ids))
    assert {id(text) for text in one.texts} == {id(text) for text in two.texts}
    assert len({id(text) for text in one.texts}) == len(set(one.texts))
