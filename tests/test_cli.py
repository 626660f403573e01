"""The command line, run as a user runs it: in a process of its own."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMAND = [sys.executable, "-c", "from medlens.cli import main; main()"]


def medlens(*arguments, cwd):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False)


def one_line(done):
    """Exit code 2 and one line on stderr, no traceback."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("medlens: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help"], "phantom"),
        (["study", "--help"], "--skip-bad"),
        (["phantom", "--help"], "evaluate"),
        (["phantom", "evaluate", "--help"], "phantom:shortcut"),
    ],
)
def test_help_imports_nothing_heavy(arguments, says, tmp_path):
    heavy = "torch transformers polars altair numpy scipy"
    code = f"""
import sys
sys.argv = ["medlens", *{arguments!r}]
from medlens.cli import main
try:
    main()
except SystemExit as e:
    assert e.code == 0
print("IMPORTED", [m for m in {heavy!r}.split() if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "IMPORTED []" in done.stdout
    assert says in done.stdout


def test_study_then_again_then_another(tmp_path):
    first = medlens("study", "--limit", 5, "--map-images", 0, "--out", "run", "--json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    said = json.loads(first.stdout)
    assert said["samples"] == 5
    assert said["skipped"] == []
    assert (tmp_path / said["report"]).is_file()
    assert "plan: 5 samples on 2 images" in first.stderr.replace("\n", " ")
    again = medlens("study", "--limit", 5, "--map-images", 0, "--out", "run", cwd=tmp_path)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    assert again.stdout.strip() == "report: run/report.html"
    assert "another study" in one_line(medlens("study", "--limit", 6, "--out", "run", cwd=tmp_path))


def test_dry_run(tmp_path):
    done = medlens("study", "--limit", 5, "--dry-run", "--json", "--out", "run", cwd=tmp_path)
    assert json.loads(done.stdout)["samples"] == 5
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def data(tmp_path):
    Image.fromarray(np.full((70, 60), 80, np.uint8)).save(tmp_path / "a.png")
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    (tmp_path / "d.csv").write_text("image,question\na.png,is there a lesion ?\ndot.png,is there a lesion ?\n,what ?\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llava"}')
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["phantom", "nowhere"], "no data at nowhere"),
        (["phantom", "empty", "--question", "what ?"], "empty holds no images"),
        (["phantom", "d.csv"], "line 4: no image"),
        (["nomodel"], "no model 'nomodel'"),
        (["model"], "no tokenizer"),
        (["--limit", "0"], "limit is 0"),
        (["--answers", "guess"], "answers is 'guess'"),
        (["--dtype", "int3"], "dtype is one of"),
        (["--device", "abacus"], "device abacus"),
    ],
)
def test_bad_input_is_one_line(data, arguments, says):
    assert says in one_line(medlens("study", *arguments, "--out", "run", cwd=data))
    assert not (data / "run").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_middle(tmp_path, number, code):
    """By Ctrl-C, or by a scheduler: a line, and at most what the same command goes on from."""
    child = subprocess.Popen(
        [*COMMAND, "study", "--limit", "400", "--map-images", "0", "--out", "runs/x"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    time.sleep(9)
    child.send_signal(number)
    _, said = child.communicate(timeout=300)
    assert child.returncode == code, said
    assert "stopped; nothing was lost: the same command goes on where it was" in said
    assert "Traceback" not in said
    assert [p.name for p in (tmp_path / "runs").glob("*")] in ([], ["x.part"])


def test_a_bug_of_ours_is_one_line_too(tmp_path):
    code = "import medlens.cli as c, medlens; medlens.study = lambda *a, **k: 1 / 0; c.main()"
    done = subprocess.run([sys.executable, "-c", code, "study"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "medlens: a bug of ours: ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr


def test_skip_bad_goes_on_and_lists(data):
    done = medlens("study", "phantom", "d.csv", "--skip-bad", "--map-images", 0, "--out", "run", cwd=data)
    assert done.returncode == 0, done.stderr
    assert "left out: d.csv line 4" in done.stderr
    assert "left out: sample 0002: image dot.png has 1 x 1 pixels" in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    done = medlens("study", "nomodel", "--debug", cwd=tmp_path)
    assert "Traceback" in done.stderr
    assert "BadModel" in done.stderr


def test_an_unknown_option_is_refused(tmp_path):
    done = medlens("study", "--frobnicate", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_phantom_evaluate(tmp_path):
    """As tables, as JSON, and by the module's own name: the same numbers."""
    shown = medlens("phantom", "evaluate", "phantom:random", "--n", 30, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for word in ("presence", "predicted", "ultrasound", "large", "answer follows the", "phantom:random: 30 questions"):
        assert word in shown.stdout
    module = [sys.executable, "-m", "medlens.phantom", "--evaluate", "phantom:random", "--n", "30", "--json"]
    said = json.loads(subprocess.run(module, capture_output=True, text=True, cwd=tmp_path, check=True).stdout)
    assert (said["model"], said["n"], said["seed"]) == ("phantom:random", 30, 0)
    presence = next(row for row in said["questions"] if row["question"] == "presence")
    assert f"{presence['accuracy']:.3f}" in next(line for line in shown.stdout.splitlines() if line.startswith("presence"))
    assert list(tmp_path.iterdir()) == []


def test_phantom_show(tmp_path):
    shown = medlens("phantom", "show", "--out", "sheet.png", cwd=tmp_path)
    assert shown.stdout == "contact sheet: sheet.png\n", shown.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 800
        assert len(set(np.asarray(sheet.convert("RGB")).reshape(-1, 3).max(0))) <= 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evaluate", "phantom:sane"], "no model 'phantom:sane': the phantoms are phantom, phantom:shortcut"),
        (["evaluate", "--device", "cuda:9"], "device cuda:9 cannot be used here"),
        (["show", "--out", "sheet.jpg"], "name it sheet.png"),
        (["show", "--out", "nowhere/sheet.png"], "nowhere/sheet.png cannot be written: No such file or directory"),
    ],
)
def test_phantom_mistakes_are_one_line(tmp_path, arguments, says):
    assert says in one_line(medlens("phantom", *arguments, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_answer(tmp_path):
    done = medlens("answer", "phantom", "phantom", "--limit", 12, "--out", "a.jsonl", "--stop", "right", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("answers: a.jsonl\n")
    assert "accuracy" in done.stdout
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 12
    again = medlens("answer", "--limit", 12, "--out", "a.jsonl", "--stop", "right", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["n"] == 12
    assert "another job" in one_line(medlens("answer", "--limit", 12, "--out", "a.jsonl", cwd=tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl"]


def test_doctor(tmp_path):
    golden = Path(__file__).parent / "golden" / "llava_med" / "seed0" / "checkpoint"
    done = medlens("doctor", golden, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "checkpoint (llava_mistral): 4 blocks, 64 wide, 283,776 parameters" in done.stdout
    assert "the checkpoint's own will be taken" in done.stdout  # as a study does, so nothing is missing
    assert "missing" not in done.stdout
    assert "mode       resident" in done.stdout
    said = json.loads(medlens("doctor", "phantom", "--json", cwd=tmp_path).stdout)
    assert said["mode"].startswith("resident")
    assert said["model"]["missing"] == []
    assert said["speed"]["float32"] > 0
    assert said["walk_seconds"] > 0
    assert "device cuda:9 cannot be used here" in one_line(medlens("doctor", "--device", "cuda:9", cwd=tmp_path))
    assert "fetches nothing" in one_line(medlens("doctor", "owner/name", cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []
