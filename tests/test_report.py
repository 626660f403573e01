import base64
import hashlib
import math
import re
import subprocess
import sys

import polars as pl
import pytest
from markupsafe import escape
from PIL import Image

import medlens
from blank import Blank
from invented import HOSTILE as SCRIPT
from medlens.plan import Plan
from medlens.report import charts, render
from medlens.report.figures import Figures
from medlens.report.lines import domain, lines_of
from medlens.report.plateau import NONE, OPEN, PLATEAU, Scale, plateau
from medlens.report.readings import BEHIND, READINGS, SCALES
from medlens.report.subgroups import fields_of

CHARTS = True
pytest_plugins = ["reported"]


@pytest.mark.parametrize("which", ["run", "full"])
def test_it_needs_nothing_else(which, request):
    html = request.getfixturevalue(which).report.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", html)
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", html, flags=re.S)  # ours: the only ones that may run
    allowed = re.search(r"script-src ([^;]*);", html)[1].split()
    assert {f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts} == set(allowed)
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\s\"'<)]+", html)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert len(html) < 5_000_000


def test_everything_is_in_it(run):
    html = run.report.read_text()
    for name in set(run.rows["measure"]) & set(READINGS):
        assert escape(READINGS[name].title) in html
        assert escape(READINGS[name].source) in html
    for question in run.samples["question"]:
        assert question in html
    assert html.count("<svg") >= 2 * len(medlens.MEASURES) - 1
    assert html.count("✓ right") + html.count("✗ wrong") == 25


def test_what_data_say_is_escaped(hostile):
    html = hostile.report.read_text()
    assert html.count("<script") == 3  # ours; the data of the viewer, and the viewer
    assert "<img src=x" not in html
    assert "&lt;script&gt;" in html
    assert "{{ 7*7 }}" in html  # shown, not evaluated


def test_every_measure_is_shown(run):
    """The report may not import the measures (they need torch): that its list holds theirs is held here."""
    assert set(medlens.MEASURES) | set(run.rows["measure"]) <= {*READINGS, *BEHIND, *SCALES}


def test_what_a_run_does_not_have_is_left_out(run, full):
    """...and what it has is there, with an anchor that something points to."""
    without, with_all = run.report.read_text(), full.report.read_text()
    for name in {*READINGS} - {*run.rows["measure"]}:
        assert f'id="{name}"' not in without
    for name in [*READINGS, "scales"]:
        assert f'id="{name}"' in with_all
        assert f'href="#{name}"' in with_all
    for page in (without, with_all):
        ids = set(re.findall(r'<[^>]* id="([^"]+)"', page))
        assert set(re.findall(r'href="#([^"]+)"', page)) <= ids
    assert 'id="subgroups"' not in without
    assert 'id="claims"' not in without or (run.path / "claims.parquet").is_file()


def test_bands_are_where_intervals_are(full):
    """Ribbons cover exactly the layers with low and high; the lines are open where a value is undefined."""
    rows = full.rows.filter(pl.col("group") == "all")
    for tokens, expected in (("image", [0, 1, 4, 5, 6, 7]), ("text", [0, 1, 4, 6, 7])):
        [line] = [line for line in lines_of(rows, "cka", tokens, READINGS["cka"]) if line.marks == "points"]
        assert line.frame.drop_nulls()["layer"].to_list() == expected
        drawn = [mark for mark in Figures(full).charts("cka")[tokens]["layer"] if mark["mark"].get("description") == "interval"]
        own = [mark for mark in drawn if mark["mark"]["color"] == line.colour]
        assert sorted(row["layer"] for mark in own for row in mark["data"]["values"]) == expected
    [stroke] = [m for m in Figures(full).charts("cka")["text"]["layer"] if m["mark"].get("strokeWidth") == 2]
    pieces = {row["layer"]: row["piece"] for row in stroke["data"]["values"]}
    assert 5 not in pieces
    assert pieces[4] != pieces[6]


def test_no_bands_without_intervals(full, tmp_path):
    """Negative control: the same run with every interval taken out."""
    bare = medlens.open_run(full.path)
    bare.__dict__["rows"] = full.rows.with_columns(low=pl.lit(None, pl.Float64), high=pl.lit(math.nan))
    figures = Figures(bare)
    marks = [mark for name in ("cka", "anisotropy") for chart in figures.charts(name).values() for mark in chart["layer"]]
    assert not [mark for mark in marks if mark["mark"].get("description") == "interval"]
    assert "They carry no interval" in render(bare)
    assert "They carry no interval" not in full.report.read_text()


def test_axis_makes_room_for_intervals_but_not_for_every_null(full):
    """The noise null is 30 times the curve: it is named at the edge, with its number, instead of flattening the curve."""
    figures = Figures(full)
    lines = [line for side in figures.lines("cka").values() for line in side]
    low, high = domain(lines)
    own = [value for line in lines if line.own for c in ("value", "low", "high") for value in line.frame[c].drop_nulls()]
    assert low < min(own)
    assert max(own) < high < 3 * max(own)
    assert re.search(r"noise [\d.]+ ↑", full.report.read_text())


def test_what_stands_behind(full):
    html = full.report.read_text()
    for word in ("without massive activations", "standardised columns", ">baseline<", ">pairs<", ">weights<", ">1/8<"):
        assert word in html
    assert ">floor<" not in html  # its charts are rescaled so that it is 0; the null of pairs shows it where it has its own scale
    assert "published study's choices" in html.replace("&#39;", "'")


def test_strangers_are_escaped_and_no_nan_is_shown(full):
    """Token texts, claims, notes, subgroups: all from data or from people."""
    html = full.report.read_text()
    assert SCRIPT not in html
    assert html.count("&lt;script&gt;") > 4
    shown = re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.S)
    shown = shown.replace("a NaN of a stranger", "")
    assert not re.search(r"\bnan\b", shown, flags=re.I)
    assert not re.search(r"NaN", "".join(re.findall(r"<svg.*?</svg>", html, flags=re.S)))


def test_claims_have_verdicts_and_charts(full):
    html = full.report.read_text()
    assert html.count('class="verdict right"') == 1
    assert html.count('class="verdict wrong"') == 1
    assert html.count('class="verdict open"') == 2
    table = html[html.index('id="claims"') : html.index('id="linear"')]
    assert 'href="#anisotropy"' in table
    assert "(your own)" in table


def test_massive_activations(full, run):
    html = " ".join(full.report.read_text().split())
    assert "They sit in column 7, first in state 3, in 3 samples" in html
    none = medlens.open_run(run.path)
    none.__dict__["massive"] = full.massive.clear()
    assert "None: no entry of any state" in render(none)


def test_plateau():
    """By the written rule; a number that grows with the rows, and one that is missing, are none."""
    alike = [Scale(v, None, None) for v in (10.0, 10.2, 9.9, 10.4)]
    falling = [Scale(v, None, None) for v in (12.0, 10.0, 8.0, 6.0)]
    assert plateau(alike) == PLATEAU
    assert plateau(falling) == NONE
    assert plateau([Scale(s.value, s.value - 4, s.value + 4) for s in falling]) == PLATEAU
    assert plateau([Scale(s.value, s.value - 1, s.value + 1) for s in falling]) == NONE
    assert plateau([*alike[:3], None]) == OPEN


def test_subgroups(full):
    """One line for each value and one for all, the table at the middle layer with the intervals of the rows as they are."""
    [field] = fields_of(full.rows, 8)
    assert (field["name"], field["values"]) == ("modality", 3)
    [update] = [m for m in field["measures"] if m["name"] == "linearity_of_update"]
    assert [name for name, _ in update["sides"]] == ["image", "text"]
    expected = full.rows.filter(
        pl.col("measure") == "linearity_of_update",
        pl.col("group") == "modality=MR",
        pl.col("layer") == 4,
        pl.col("tokens") == "text",
    ).row(0, named=True)
    assert update["middle"] == 4
    assert next(row for row in update["table"] if row["group"] == "MR")["text"] == expected | {"field": "modality"}
    assert fields_of(full.rows.filter(pl.col("group") == "all"), 8) == []


def test_charts_are_files_too(run):
    for name in medlens.MEASURES:
        png, svg = (run.path / "charts" / f"{name}.{kind}" for kind in ("png", "svg"))
        assert min(Image.open(png).size) > 300
        assert svg.read_text().startswith("<svg")


def test_warnings(run, phantom, tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "vl_convert", Blank)
    assert "answers to these images mean nothing" not in " ".join(render(run).split())
    drawn = medlens.study(phantom, medlens.phantom.samples(2), Plan(), tmp_path / "drawn")
    assert "answers to these images mean nothing" not in " ".join(render(drawn).split())
    own = [medlens.Sample(image=Image.new("L", (70, 70)), question="is there a lesion ?")]
    other = medlens.study(phantom, own, Plan(), tmp_path / "run")
    assert "answers to these images mean nothing" in " ".join(render(other).split())


def test_report_imports_neither_torch_nor_transformers(run):
    code = f"""
import sys
from pathlib import Path
from medlens import open_run
from medlens.report import charts, render
render(open_run({str(run.path)!r}))
print([m for m in ("torch", "transformers") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
