"""With `--json` every command prints one JSON object and nothing else on stdout; so does one that fails."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from typer.testing import CliRunner

import medlens
from medlens.cli import app, result
from medlens.data import figures
from test_paper_figures import curve, written

ROWS = pl.DataFrame({"word": ["a"], "value": [math.nan], "note": [""]})  # JSON knows no NaN


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    told = {"seconds": {"walking": 1.0}, "medlens": "0"}
    told["data"] = {"name": "by hand", "skipped": [], "fingerprint": "d", "samples": 1, "images": 1}
    told["model"] = {"name": "drawn", "blocks": 2, "width": 16, "origin": {}}
    folder = tmp_path_factory.mktemp("json") / "run"
    return written(folder, told, rows=[{**row, "group": "all"} for row in curve([0.3, 0.2, 0.1])])


# What takes minutes is replaced by its result, since how it is said is what is tested; all else is run.
LONG = {
    "study": "medlens.study", "merge": "medlens.merge", "neurons": "medlens.neurons", "reliance": "medlens.reliance",
    "probe": "medlens.probe", "explain --benchmark": "medlens.benchmark_maps", "prune": "medlens.prune", "thin": "medlens.thin",
}  # fmt: skip
SUMMARIES = ("neurons.best", "probes.best", "benchmark.best", "lights.summary", "pruned.best")
SAID = {
    "study": {"run", "report", "samples", "rows", "seconds", "skipped"},
    "study --dry-run --limit 2": {"samples", "tokens", "seconds", "memory"},
    "study --shard 1/2 --limit 2": {"share", "merge"},
    "merge OUT": {"run", "report"},
    "neurons": {"run", "report", "cards"},
    "reliance": {"run", "report", "verdict", "reservations", "lights"},
    "probe": {"run", "report", "best"},
    "explain --benchmark": {"run", "report", "leaderboard"},
    "explain --sample 0 --methods edges --no-tokens --no-card": {"page", "answer", "methods", "cards"},
    "answer --limit 2": {"answers", "n", "scores"},
    "lens --sample 0 --words 1": {"page", "words", "answer"},
    "lens neighbours --limit 2 --images 1 --layer 2 --cap 20": {"out", "words", "layers"},
    "lens train --limit 2": {"lens"},
    "claims RUN": {"run", "claims"},
    "compare RUN TWIN": {"comparison", "summary", "notes"},
    "doctor": {"memory", "disk", "speed"},
    "edit phantom --scale 0.1=0.5": {"checkpoint", "scaled"},
    "phantom evaluate --n 2": {"model", "n", "questions"},
    "phantom show": {"sheet"},
    "data qa50": {"list", "figures", "missing"},
    "bench": {"page", "markdown"},
    "figures RUN --format svg": {"figures", "captions", "names"},
    "export RUN": {"tables", "files"},
    "prune": {"run", "report", "said", "chosen"},
    "thin": {"run", "report", "thinned"},
    "report RUN": {"report", "bytes"},
}


@pytest.fixture
def fakes(run, monkeypatch):
    done = SimpleNamespace(path=run.path, report=run.report, samples=run.samples, rows=run.rows, thinned=ROWS)
    done.manifest = {
        **run.manifest,
        "neurons": {"left": []},
        "probe": {"note": ""},
        "prune": {"checkpoint": {"why": "", "tied": False}},
    }
    for name in LONG.values():
        monkeypatch.setattr(name, lambda *_, **__: done)
    for name in SUMMARIES:
        monkeypatch.setattr(f"medlens.report.{name}", lambda _: ROWS)
    monkeypatch.setattr("medlens.report.pruned.said", lambda _: "one block can go")
    monkeypatch.setattr("medlens.report.again.make_report", lambda path: path / "manifest.json")
    monkeypatch.setattr("medlens.report.lights.verdict", lambda _: "rests on the image")
    monkeypatch.setattr("medlens.report.lights.reservations", lambda _: "")
    monkeypatch.setattr("medlens.cli.bench.bench", lambda *_, **__: "# Performance")
    monkeypatch.setattr("medlens.study_shard", lambda *_, **__: Path("run.shares/1"))
    lens = SimpleNamespace(told={"gain": math.nan})
    monkeypatch.setattr("medlens.train_lens", lambda *_, **__: lens)
    monkeypatch.setattr("medlens._tune.worth", lambda _: ROWS)
    monkeypatch.setattr("medlens.lens_page.write", lambda out, *_: Path(out).parent)  # its pictures take long
    monkeypatch.setattr(figures, "figures", lambda _: ["a", "b"])
    monkeypatch.setattr(figures, "missing", lambda *_: ["b"])
    monkeypatch.setattr(figures, "write_list", lambda _: (Path("list.txt"), 1))


@pytest.mark.parametrize("said", SAID)
def test_one_object_and_nothing_else(said, run, fakes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(run.path), "TWIN": str(tmp_path / "twin")}
    if "TWIN" in said:
        shutil.copytree(run.path, tmp_path / "twin")
    words = [places.get(word, word) for word in said.replace("OUT", "out").split()]
    nowhere = said.split()[0] in ("claims", "doctor", "merge", "data", "bench", "report") or "evaluate" in said
    where = [] if nowhere else ["--out", "o.png" if "show" in said else "o"]
    done = CliRunner().invoke(app, [*words, *where, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    told = json.loads(line, parse_constant=pytest.fail)
    assert told.keys() >= SAID[said]
    for name in ("run", "report", "page", "out", "figures", "captions", "sheet", "comparison", "checkpoint", "answers", "tables"):
        if isinstance(path := told.get(name), str):  # what is named is there
            assert Path(path).exists() or said in ("study", "merge OUT", *LONG)


def test_without_it_people_are_told(run, tmp_path):
    done = CliRunner().invoke(app, ["export", str(run.path), "--out", str(tmp_path / "tables")])
    assert done.stdout == f"6 tables: {tmp_path / 'tables'}\n"
    done = CliRunner().invoke(app, ["figures", str(run.path), "--format", "svg", "--out", str(tmp_path / "figures")])
    assert done.stdout.startswith("1 figures: ")


def test_no_command_is_without_it():
    """The help is all that `medlens` itself prints; these are its commands, so a new one has to be entered above."""
    named = {" ".join(word for word in said.split()[:2] if word.isalpha() and word.islower()) for said in SAID}
    for info in app.registered_commands:
        # `view` goes on until it is ended: see test_viewer
        assert info.name == "view" or any(name.split()[0] == info.name for name in named), info.name
        assert "as_json" in info.callback.__annotations__, info.name
    for group in app.registered_groups:
        for info in group.typer_instance.registered_commands:
            assert "as_json" in info.callback.__annotations__, (group.name, info.name)


COMMAND = [sys.executable, "-c", "from medlens.cli import main; main()"]


@pytest.mark.parametrize(
    ("words", "says"), [(["claims", "nowhere"], "nowhere is not a run"), (["study", "--frobnicate"], "stands on stderr")]
)
def test_an_error_is_an_object_too(words, says, tmp_path):
    done = subprocess.run([*COMMAND, *words, "--json"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    told = json.loads(done.stdout)
    assert told["code"] == 2
    assert says in told["error"]
    assert done.stderr.strip()
    if "claims" in words:  # without --json nothing is on stdout
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert (done.stdout, done.returncode) == ("", 2)


def test_the_page_says_what_is_said():
    """Each command above is in the page's table, with the keys that it was held to."""
    page = (Path(__file__).parents[1] / "docs" / "scripting.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| `medlens")]
    listed = {frozenset(re.findall("`([a-z]+)`", line.split("|")[2])) for line in lines}
    assert listed == {frozenset(keys) for keys in SAID.values()}
    assert len(lines) == len(SAID)


def test_what_json_has_not(capsys):
    result.say({"a": math.inf, "b": [math.nan, 1.5], "c": Path("x"), "d": medlens.Answer("yes"), "e": (True, None)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": "x", "d": "yes", "e": [True, None]}
