"""What the first screen, the maps and the method notes say; how a report is made again, and how it looks in a real browser."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from markupsafe import escape
from PIL import Image

import medlens
from medlens.errors import BadRun
from medlens.report import page
from medlens.report.again import PAGES
from medlens.report.album import BUDGET, Album
from medlens.report.first import right_by_type, tiles, trusted_by_method, varying
from medlens.report.methods import OF_MEASURES, notes_of, references, words_of
from medlens.report.parts import verdicts
from medlens.report.readings import BEHIND, READINGS, SCALES
from medlens.report.unknown import unknown
from medlens.stats.intervals import clustered

CHARTS = True
pytest_plugins = ["reported"]


def copied(run, folder):
    shutil.copytree(run.path, folder)
    return medlens.open_run(folder)


def tile(run, asks):
    found = {t.asks: t for t in tiles(run, verdicts(run.claims, ()))}
    return found.get(asks)


# ---- the first screen


def test_answers_by_type_cluster_by_image(run):
    """The shares and intervals of the tile, computed again row by row."""
    rows = run.samples.join(run.answers, on="sample", suffix="_said").to_dicts()
    for share in right_by_type(run)[1:]:
        mine = [row for row in rows if row["question_type"] == share.name]
        value, low, high = clustered([float(row["correct"]) for row in mine], [row["image"] for row in mine])
        assert (share.hits, share.n) == (sum(row["correct"] for row in mine), len(mine))
        assert (share.value, share.low, share.high) == (value, low, high)
    assert sum(share.n for share in right_by_type(run)[1:]) == right_by_type(run)[0].n == 25


def test_answers_wrong_are_said(run, tmp_path):
    """Negative control: a model that is always wrong."""
    other = copied(run, tmp_path / "run")
    other.__dict__["answers"] = run.answers.with_columns(correct=pl.lit(False))
    assert tile(other, "Are its answers right?").answer.startswith("0 of 25: 0 %")


def test_claims_are_counted_by_sentence(full):
    said = tile(full, "Do the published claims hold here?")
    assert said.answer == "1 supported, 1 not, 2 cannot be said"
    assert [verdict for verdict, _ in said.lines] == ["right", "wrong", "open", "open"]


def test_maps_and_gates_are_said_where_they_are(run, full):
    assert tile(run, "Which map can be trusted?") is None
    assert tile(run, "Do answers rest on the image?") is None
    [best, worst] = trusted_by_method(full)
    assert (best.name, best.hits, best.n) == ("relevance", 2, 2)
    assert (worst.name, worst.hits, worst.n) == ("occlusion", 0, 1)
    assert tile(full, "Which map can be trusted?").answer == "relevance: 2 of 2 trusted"
    assert tile(full, "Do answers rest on the image?").answer.startswith("1 of 2 answers do: 50 %")


def test_lens_verdict_follows_its_words(run, tmp_path):
    found = varying(run)
    expected = run.lens_words.filter(pl.col("layer") == 8)
    assert found[-1] == (8, sum(p * expected.height < 0.05 for p in expected["p"]), expected.height)
    still = copied(run, tmp_path / "run")
    still.__dict__["lens_words"] = run.lens_words.with_columns(p=pl.lit(1.0))
    said = tile(still, "Do the words of image tokens vary with the image?")
    assert (said.answer, said.verdict) == ("0 of 10 words at state 8 vary with the image", "open")
    still.__dict__["lens_words"] = run.lens_words.with_columns(p=pl.lit(None, pl.Float64))
    assert tile(still, "Do the words of image tokens vary with the image?").answer == "cannot be said of a single image"


def test_what_is_not_known_comes_from_the_tables(run, full):
    """What a run holds is no gap."""
    gaps = {gap.what: gap.command for gap in unknown(run)}
    assert gaps["Whether the answers rest on the image"] == "medlens reliance phantom phantom --limit 25 --out RUN-reliance"
    assert any("such a map can be trusted" in what for what in gaps)
    fewer = {gap.what for gap in unknown(full)}
    assert "Whether the other 23 answers rest on the image" in fewer
    assert not any("such a map can be trusted" in what or "lie on what is there" in what for what in fewer)
    html = run.report.read_text()
    assert all(escape(what) in html for what in gaps)


def test_commands_that_would_tell_are_there(run, tmp_path):
    """Each with every flag that it is given: of a study with many."""
    from typer.main import get_command

    from medlens.cli import app

    known = get_command(app).commands
    other = copied(run, tmp_path / "run")
    flags = "--answers given --question 'what is it ?' --window 40,400 --limit 9 --seed 3 --vision-tower auto --dtype bfloat16"
    other.manifest["command"] = f"medlens study $MODEL $DATA {flags} --instrument lens --out RUN"
    other.manifest["plan"] |= {"answers": "given", "instruments": ["lens"]}
    commands = [shlex.split(gap.command) for gap in unknown(other) if gap.command]
    assert len(commands) > 7
    for _, name, model, *rest in commands:
        assert model == "$MODEL"
        assert "$DATA" in rest
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options
    reliance = next(rest for _, name, *rest in commands if name == "reliance")
    assert reliance[reliance.index("--question") + 1] == "what is it ?"
    assert "--answers" not in commands[0]


# ---- maps and pictures


def test_maps_stand_beside_their_picture(full):
    html = full.report.read_text()
    section = html[html.index('<h2 id="maps">') : html.index('<h2 id="answers">')]
    assert section.count("✓ trust") == 2
    assert section.count("✗ do not trust") == 1
    assert section.count('alt="map of') == 2  # the third one's picture lies outside of the run, and is not shown
    assert "No map of" in section


def test_only_pictures_of_the_run_are_shown(tmp_path):
    (tmp_path / "run").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "run" / "own.png")
    album = Album(tmp_path / "run", ["own.png", "../secret.png", str(tmp_path / "secret.png"), "none.png"])
    assert [album.url(name) is not None for name in ("own.png", "../secret.png", str(tmp_path / "secret.png"), None)] == [
        True, False, False, False,
    ]  # fmt: skip


def test_many_pictures_are_made_smaller(tmp_path):
    """50 samples with four maps each, noise, which hardly compresses: below 5 MB, each picture there, and its size said."""
    noise = Image.effect_noise((480, 480), 80).convert("RGB")
    noise.save(tmp_path / "noise.jpg", quality=95)
    names = []
    for k in range(250):
        (tmp_path / f"{k}.jpg").hardlink_to(tmp_path / "noise.jpg")
        names.append(f"{k}.jpg")
    album = Album(tmp_path, names[::5])
    large = sum(len(album.url(name)) for name in names[::5])
    assert large < 4 / 3 * BUDGET + 50 * 40
    assert 80 <= album.side < 448
    assert Album(tmp_path, names[:1]).side == 448


# ---- method


def test_every_measure_has_a_source(full):
    own = {"medical_words", "medical_weight", "medical_words_floor", *(name for name in BEHIND if name.endswith("_words"))}
    for name in {*READINGS, *BEHIND, *SCALES} - own:
        assert OF_MEASURES[name], name
    used = {key for note in notes_of(full) for key in note.keys}
    assert used <= set(references())
    assert {key for keys in OF_MEASURES.values() for key in keys} <= set(references())


def test_bibtex_is_of_the_methods_of_this_run(run, full):
    """...and of no other: maps are cited where there are maps."""
    without, with_maps = (re.findall(r"@\w+\{(\w+),", r.report.read_text()) for r in (run, full))
    assert "chefer2021" not in without
    assert "chefer2021" in with_maps
    assert len(without) == len(set(without)) > 10
    assert set(without) <= set(references())


def test_references_are_whole():
    """As many entries as begin, with balanced braces, an author, a title and a year each."""
    text = (Path(page.__file__).parent / "references.bib").read_text()
    assert len(references()) == len(re.findall(r"^@", text, re.M))
    for entry in references().values():
        assert entry.count("{") == entry.count("}")
        assert re.search(r"\d{4}", words_of(entry))
    assert words_of(references()["cka" if "cka" in references() else "kornblith2019"]).startswith(
        "Kornblith et al. 2019, Similarity"
    )


# ---- made again


def test_made_again_it_is_the_same(run, tmp_path):
    again = copied(run, tmp_path / "run")
    again.report.unlink()
    assert medlens.make_report(again.path) == again.report
    assert again.report.read_text() == run.report.read_text()
    assert not list(again.path.glob("*.new"))


@pytest.mark.parametrize(("told", "said"), [({"format": 99}, "format 99"), ({"format": 1, "maps": []}, "not made from tables")])
def test_another_format_is_said(tmp_path, told, said):
    (tmp_path / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(BadRun, match=said):
        medlens.make_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(BadRun, match="not a run"):
        medlens.make_report(tmp_path / "nothing")
    (tmp_path / "x.part").mkdir()
    with pytest.raises(BadRun, match="no study that was begun"):
        medlens.make_report(tmp_path / "x")


@pytest.mark.parametrize("kind", PAGES)
def test_pages_of_other_commands_are_made_by_their_own(tmp_path, monkeypatch, kind):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, kind: {}}))
    made = []
    monkeypatch.setattr(f"medlens.report.{PAGES[kind]}", made.append)
    assert medlens.make_report(tmp_path) == tmp_path / "report.html"
    assert made == [tmp_path]


def test_on_the_command_line(run, tmp_path):
    """One line and exit code 2 for what is no run; the path of the page for what is one."""
    command = [sys.executable, "-c", "from medlens.cli import main; main()", "report"]
    done = subprocess.run([*command, "nothing"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "medlens: nothing is not a run: it holds no manifest.json that can be read\n"
    again = copied(run, tmp_path / "run")
    again.report.unlink()
    done = subprocess.run([*command, "run", "--json"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout) == {"report": "run/report.html", "bytes": again.report.stat().st_size}
