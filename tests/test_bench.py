"""The benchmark: the cheapest jobs end to end in processes of their own, the others at toy sizes, and what is said when there is
no number."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import medlens
from medlens._bench import block, geometry, int8, layer, memory, run, streamed, tokens, turns, viewing, whole
from medlens._bench.checkpoint import Decoder, write_checkpoint
from medlens._bench.peers import need
from medlens._bench.turns import PATIENCE, Job, Result, Turns, faster
from medlens.errors import BadInput, CannotWrite
from medlens.viewer.data import open_shown
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare

TINY = Decoder(depth=2, width=32, mlp=48, heads=4, kv_heads=2, vocabulary=1000)


def peer(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name}: install the `bench` extra")


def row_of(page, begin):
    return next(line for line in page.splitlines() if line.startswith("|") and begin in line).split("|")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "model"
    write_checkpoint(folder, TINY, "tiny")
    return str(folder)


# ---- from the command to the page


def test_the_page_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "PAIRS", [("linearity", "linear", 300, 8, False), ("dimension", "dimension", 300, 8, True)])
    told = []
    page = run.bench(["geometry"], rounds=1, out=tmp_path / "page.md", tell=told.append)
    assert (tmp_path / "page.md").read_text() == page
    assert list(tmp_path.iterdir()) == [tmp_path / "page.md"]
    version = importlib.metadata.version("medlens")
    for said in ("# Performance", "medians of 1", "How to repeat it", "llm-microscope", f"medlens {version}"):
        assert said in page
    _, ratio, what, size, ours, theirs, _ = row_of(page, "300 x 8")
    assert (what.strip(), size.strip()) == ("linearity", "300 x 8")
    assert " s, " in ours
    if importlib.util.find_spec("llm_microscope"):
        assert " x**" in ratio
        assert " s, " in theirs
    assert [line for line in told if line.startswith("|")] == [line for line in page.splitlines() if "300 x 8" in line]
    quick = run.bench(["geometry", "layer"], rounds=1, quick=True)
    assert "| dimension |" not in quick
    assert "One layer at" not in quick


def test_the_command(tmp_path):
    def command(*given):
        line = [sys.executable, "-c", "from medlens.cli import main; main()", "bench", *given]
        return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert "--only" in command("--help").stdout
    for given, says in (
        (["--only", "speed"], "no benchmark 'speed'; there are whole, layer"),
        (["--rounds", "0"], "rounds is at least 1"),
        (["--out", "nowhere/page.md"], "nowhere/page.md cannot be written"),
    ):
        done = command(*given)
        assert done.returncode == 2
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_said_first(tmp_path):
    with pytest.raises(CannotWrite, match="it is a folder"):
        run.bench([], out=tmp_path, tell=lambda _: pytest.fail("measured first"))


# ---- no number, and why


def test_what_a_cell_says_without_a_number(monkeypatch):
    once = Turns(3, False, lambda _: None)
    (missing,) = once(Job("peers", "need", ("nothing_like_it",)))
    assert str(missing) == "nothing_like_it is not installed: `pip install 'medlens[bench]'`"
    (full,) = once(Job("geometry", "linear_ours", (10**9, 1000)))
    assert str(full) == "out of memory"
    monkeypatch.setattr(turns, "PATIENCE", 0.2)
    (slow,) = once(Job("geometry", "linear_ours", (100, 10)))
    assert str(slow).startswith("over ")
    with pytest.raises(BadInput, match="not installed"):
        need("nothing_like_it")


def test_ratios():
    assert faster(Result(2.0), Result(5.0)) == "**2.5 x**"
    assert faster(Result(2.0), Result(why="over 600 s")) == f"**> {PATIENCE / 2:.0f} x**"
    assert faster(Result(2.0), Result(why="out of memory")) == "–"
    assert faster(Result(why="ended by signal 9"), Result(2.0)) == "–"


def test_medians_and_turns(monkeypatch):
    told = iter([Result(1.0, 10.0, {"n": 1}), Result(70.0), Result(9.0, 30.0, {"n": 3}), Result(2.0, 20.0, {"n": 2})])
    asked = []
    monkeypatch.setattr(turns, "_run", lambda job: asked.append(job.name) or next(told))
    first, second = Turns(3, False, lambda _: None)(Job("a", "ours"), Job("a", "theirs"))
    assert asked == ["ours", "theirs", "ours", "ours"]  # the slow one once
    assert first == Result(2.0, 20.0, {"n": 2})
    assert second == Result(70.0)


def test_a_job_that_runs_away_ends_itself():
    code = "import time; from medlens._bench import memory as m; m.SHARE = 1e-6; m.guard(); time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, memory.ENOUGH)


# ---- every job, at toy sizes


@peer("llm_microscope")
def test_both_sides_measure_the_same_thing():
    ours, theirs = (getattr(geometry, f"linear_{who}")(500, 8)() for who in ("ours", "theirs"))
    assert [float(v) for v in ours[::2]] == pytest.approx([theirs[0], theirs[2]], abs=1e-4)
    ours, theirs = (getattr(geometry, f"dimension_{who}")(500, 8)() for who in ("ours", "theirs"))
    assert float(ours) == pytest.approx(theirs, rel=0.02)


@peer("llm_microscope")
def test_the_layer(monkeypatch):
    monkeypatch.setattr(layer, "CELLS", 40)
    ours, theirs = layer.layer_ours(6, 8)(), layer.layer_theirs(6, 8)()
    assert ours.keys() == medlens.MEASURES.keys()
    assert float(ours["linearity"]) == pytest.approx(theirs[0], abs=1e-4)
    assert float(ours["anisotropy"]) == pytest.approx(theirs[2], abs=1e-4)


@peer("llm_microscope")
def test_the_whole_study(model):
    whole.study_ours(model)()
    samples = whole.questions()
    image, text = whole._collect(model, samples)
    assert [len(x) for x in image] == [16 * whole.IMAGES] * (TINY.depth + 1)
    loaded = medlens.load(model)
    tail = medlens.forward(loaded, samples[-1])
    behind = len(tail.tokens) - max(i for i, g in enumerate(tail.tokens.groups) if g == "image") - 2
    assert torch.allclose(text[-1][-behind:], tail.hidden_states[-1][-behind:], atol=1e-5)
    assert tail.tokens.texts[-behind - 1] == "\n"
    assert len(whole.study_theirs(model)()) == 2 * TINY.depth


def test_tokens(model):
    assert tokens.walked(model, 2)()["tokens"] > 2 * 16
    line = tokens._line([Result(more={"tokens": n}) for n in (1, 2, 3)], [5.0, 7.0, 9.0])
    assert line == pytest.approx((3.0, 2.0, 0.0))


def test_accelerate_s_copy_is_the_same_model(model, tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "BATCHES", 2)
    streamed._copy(Path(model), tmp_path / "copy")
    assert len(list((tmp_path / "copy").glob(f"*.{streamed.INPUTS}"))) == 2
    streamed.accelerate_disk(str(tmp_path / "copy"), "cold")()
    monkeypatch.setattr(streamed, "MEMORY", "1kB")
    streamed.walked(model, "cold")()
    from transformers import LlavaForConditionalGeneration

    again = LlavaForConditionalGeneration.from_pretrained(tmp_path / "copy", dtype=torch.float32).eval()
    loaded = medlens.load(model)
    sample = medlens.phantom.samples(1, questions="presence")[0]
    (case,) = cases(loaded, [prepare(loaded, sample)])
    with torch.no_grad():
        logits = again(**arguments(loaded, case)).logits[0, :, : TINY.vocabulary]
    assert torch.allclose(logits, medlens.forward(loaded, sample).logits, atol=1e-4)


def test_a_block_in_eight_bits(monkeypatch):
    monkeypatch.setattr(block, "SHAPE", TINY)
    held = {dtype: int8.measured(dtype, 12)()["resident"] for dtype in int8.DTYPES}
    assert held["bfloat16"] == held["float32"] / 2
    assert held["float32"] / 4 < held["int8"] < held["float32"] / 2


def test_the_block(monkeypatch):
    monkeypatch.setattr(block, "SHAPE", TINY)
    monkeypatch.setattr(block, "SIDE", 64)
    found = block.measured(12, 2)()
    assert found.keys() == block.SHOWN.keys()
    assert min(found.values()) > 0


def test_a_sample_in_the_viewer(monkeypatch):
    small = viewing.Size(blocks=2, grid=3, text=8, units=50, vocabulary=99)
    monkeypatch.setattr(viewing, "Size", lambda: small)
    first, block = viewing.first_screen()()["bytes"], viewing.one_block()()["bytes"]
    assert first > block > 0


def test_an_invented_run_is_whole(tmp_path):
    """As large as is said, and nothing that the viewer would miss."""
    small = viewing.Size(blocks=2, grid=3, text=8, units=50, vocabulary=99)
    shown = open_shown(viewing.write_run(tmp_path, 2, small))
    sample = shown.sample(1)
    assert (len(sample["tokens"]), len(sample["patches"]["boxes"]), sample["blocks"]) == (17, 9, [0, 1])
    assert sample["missing"].keys() == {"maps", "gates"}
    assert sample["picture"].startswith("data:image/png")
    assert sample["lens"]["said"].shape == (3, 17, 5)
    for number in sample["blocks"]:
        found = shown.block(1, number)
        assert found["fires"]["units"].shape == (1, 17, 5)
        assert (found["fires"]["units"] >= 0).all()
        assert found["looks"]["positions"] == [13, 14, 15, 16]
        assert set(found["fires"]["units"].ravel().tolist()) <= set(found["units"]["units"])
