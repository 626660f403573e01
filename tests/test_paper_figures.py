"""Figures for papers: the rows beside each are those it draws, sizes are those of a journal, nothing is written by halves."""

import json
import re
import subprocess
import sys
from io import BytesIO

import polars as pl
import pytest
from PIL import Image

import medlens
from invented import HOSTILE, invented
from medlens import _figures, store
from medlens._figures import style as styles
from medlens.errors import BadInput, BadRun, CannotWrite
from medlens.report.readings import READINGS
from medlens.types import Sample

MM = 72 / 25.4  # points
KEYS = ["protocol", "measure", "tokens", "group", "variant"]
MANIFEST = {
    "plan": {"folds": 5},
    "model": {"name": "drawn", "blocks": 8, "width": 16, "origin": {}},
    "data": {"name": "by hand", "samples": 2, "images": 2},
}


def written(folder, told=None, **tables):
    """A run by hand: these tables, and those that every run has."""
    folder.mkdir()
    for name in ("rows", "left_out", "massive", "samples", "answers", "claims"):
        tables.setdefault(name, [])
    for name, rows in tables.items():
        empty = dict.fromkeys(store.TABLES[name])
        store.write_table(folder, name, [{**empty, **row} for row in rows])
    store.write_manifest(folder, {**MANIFEST, **(told or {})})
    return medlens.open_run(folder)


def curve(values, **keys):
    key = {"protocol": "sound", "measure": "anisotropy", "tokens": "image", "group": "all", "variant": "raw", "note": "", **keys}
    return [{**key, "layer": k, "value": v, "low": v - 0.1, "high": v + 0.1, "n": 40 + k} for k, v in enumerate(values)]


ALIKE = [0.5, 0.4, 0.3]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One measure of two sides; nothing was massive, so that two curves have the same values."""
    rows = [
        *curve(ALIKE), *curve(ALIKE, variant="without massive"), *curve(ALIKE, protocol="published"),
        *curve([0.2, 0.3, 0.2], variant="standardised"), *curve([0.6, 0.7, 0.8], tokens="text"),
        *curve([0.1] * 3, group="organ=lung"),
    ]  # fmt: skip
    asked = [{"sample": "a", "image": "a", "question": "?", "tags": "{}"}]
    return written(tmp_path_factory.mktemp("small") / "run", rows=rows, samples=asked)


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    return medlens.figures(small, out=tmp_path_factory.mktemp("made") / "figures")


@pytest.fixture(scope="module")
def full(small, tmp_path_factory):
    """Every measure, null, variant and subgroup."""
    return medlens.open_run(invented(small, tmp_path_factory.mktemp("full") / "run"))


def drawn_points(part):
    """(layer, value) of every mark that stands for a value, counted from the chart itself."""
    if "layer" in part:
        return [point for layer in part["layer"] for point in drawn_points(layer)]
    y, kind = part["encoding"].get("y", {}), part["mark"]["type"]
    if y.get("field") != "value" or (kind == "point" and part["mark"].get("filled")):  # filled: on a line, drawn once more
        return []
    return [(row["layer"], row["value"]) for row in part["data"]["values"]] if kind in ("line", "point") else []


def test_the_rows_are_exactly_those_drawn(full):
    """An oracle of one line: what the chart holds. Every line, so also nulls, baselines and subgroups."""
    seen = 0
    for figure in _figures._of(full):
        for panel, chart in figure.panels.items():
            rows = figure.rows.filter(pl.col("panel") == panel)
            assert sorted(rows.select("layer", "value").rows()) == sorted(drawn_points(chart)), (figure.name, panel)
            seen += rows.height
        known = figure.rows.join(full.rows, on=[*KEYS, "layer", "value", "low", "high", "n"], how="semi", nulls_equal=True)
        assert known.height == figure.rows.height  # each is a row of the run, with its interval and n
    assert seen > 3000


def test_curves_with_the_same_values_keep_their_names(small):
    figure = next(_figures._of(small))
    named = (
        figure.rows.filter(pl.col("panel") == "image tokens")
        .group_by("line")
        .agg(pl.col("variant").first(), pl.col("protocol").first())
    )
    assert set(named.rows()) == {
        ("Anisotropy", "raw", "sound"), ("without massive activations", "without massive", "sound"),
        ("standardised columns", "standardised", "sound"), ("the published study's choices", "raw", "published"),
    }  # fmt: skip


def test_what_is_written(made, small):
    assert made.names == ("anisotropy", "anisotropy-by-organ")
    assert sorted(p.name for p in made.folder.iterdir()) == sorted(
        [*(f"{name}.{kind}" for name in made.names for kind in ("pdf", "svg", "png", "csv")), "captions.md", "figures.json"]
    )
    table = pl.read_csv(made.folder / "anisotropy.csv")
    assert table.filter(pl.col("panel") == "text tokens")["value"].to_list() == [0.6, 0.7, 0.8]
    assert set(table.columns) >= {"low", "high", "n", "line", *KEYS}


def letters(svg):
    """Sizes of all letters that are drawn, in points."""
    wide, across = (float(re.search(pattern, svg)[1]) for pattern in (r'width="([\d.]+)mm"', r'viewBox="0 0 ([\d.]+)'))
    return [float(size) * wide * MM / across for size in re.findall(r'font-size="([\d.]+)(?:px)?"', svg)]


def test_sizes_are_a_journals(made):
    svg = (made.folder / "anisotropy.svg").read_text()
    assert float(re.search(r'width="([\d.]+)mm"', svg)[1]) == pytest.approx(183, abs=0.01)
    assert letters(svg)
    assert all(4.99 <= size <= 7.01 for size in letters(svg))
    assert 'font-family="Arial' in svg
    box = re.search(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", (made.folder / "anisotropy.pdf").read_bytes())
    assert float(box[1]) == pytest.approx(183 * MM, abs=0.1)
    with Image.open(made.folder / "anisotropy.png") as image:
        assert image.width == pytest.approx(183 / 25.4 * 600, abs=2)
        assert image.info["dpi"][0] == pytest.approx(600, abs=0.1)
        assert len(image.convert("RGB").resize((60, 20)).getcolors(1200)) > 10  # something is on it


def test_one_panel_is_one_column_and_a_slide_has_large_letters(small):
    figure = next(_figures._of(small)).only("image tokens")
    narrow = styles.drawn(_figures._together(figure), styles.STYLES["nature"])
    assert narrow.width == pytest.approx(89)
    slide = styles.drawn(_figures._together(figure), styles.STYLES["slides"])
    assert slide.width <= 280.01
    assert slide.height <= 150.01
    assert min(letters(slide.svg)) >= 13.99
    apart = _figures._apart(next(_figures._of(small)), styles.STYLES["slides"])
    assert [one.name for one in apart] == ["anisotropy-image-tokens", "anisotropy-text-tokens"]
    assert set(apart[1].rows["panel"]) == {"text tokens"}


def test_captions_say_n_intervals_and_source(made):
    said = made.captions.read_text()
    assert "**Figure 1. Anisotropy.**" in said
    assert "n = 40 to 42" in said
    assert "95 % jackknife intervals, leaving out 5 folds of whole images" in said
    assert "Razzhigaev" in said
    assert "a, image tokens; b, text tokens" in said
    assert "183 mm wide" in said
    assert "not drawn, and stand in the file" in said  # of subgroups
    assert "the dashed line lies below the thick one" in said  # nothing is massive in this run


def test_captions_name_marks_that_the_picture_does_not(full):
    told = _figures.captions(
        full, [figure for figure in _figures._of(full) if figure.name == "mean_cosine"], [styles.Drawn("", 1, 1, 6)]
    )
    assert "Hollow diamond" in told
    assert "Grey, weights: the same of a model of random weights." in told
    assert "below the thick one" not in told


@pytest.mark.parametrize("reading", READINGS.values(), ids=lambda reading: reading.title)
def test_captions_stand_alone(reading):
    words = f"{reading.meaning} {reading.beware}"
    assert not re.search(r"^The same|first chart|chart above|as above|than above|said above", words)


def test_what_data_say_is_escaped(full):
    found = [figure for figure in _figures._of(full) if "by" in figure.name]
    assert HOSTILE in "".join(found[0].rows["group"])
    size = styles.Drawn("", 1, 1, 6)
    hostile = [_figures.Figure("a", HOSTILE, {HOSTILE: {}}, found[0].rows, HOSTILE, HOSTILE, HOSTILE)]
    assert "<" not in _figures.captions(full, hostile, [size])


# ---- other kinds of run

POINT = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "images": 9}
OTHERS = {
    "neurons": (
        {"neurons": {"concepts": [{"word": HOSTILE}]}},
        {
            "effects": [
                {**POINT, "concept": HOSTILE, "of": of, "units": n, "change": "zero", "random": 0.1, "random_most": 0.2}
                for of, n in (("top", 8), ("dose", 2), ("unit", 1))
            ],
            "heads": [{"concept": HOSTILE, "layer": k, "head": k, "share": 0.1, "patch_in": 0.2, "rank": 1} for k in range(2)],
        },
        {"dose-0": 2, "heads-0": 2},
    ),
    "reliance": (
        {"reliance": {}},
        {
            "consistency": [{**POINT, "kind": kind, "question_type": "all", "contradicted": 0.2} for kind in ("mirrored", "any")],
            "calibration": [{**POINT, "group": "all", "measure": m, "bin": 0, "confidence": 0.7} for m in ("bin", "ece")],
            "confidence": [{**POINT, "curve": c, "coverage": 0.5} for c in ("confidence", "random", "rests")],
            "flow": [
                {**POINT, "path": "image to last", "begin": b, "end": e, "own_value": 0.1, "own_low": 0.0, "own_high": 0.2}
                for b, e in ((0, 2), (1, 3), (0, 8))
            ],
        },
        {"consistency": 1, "reliability": 1, "abstaining": 3, "flow": 2},
    ),
    "probe": (
        {"probe": {"tags": ["organ"], "layers": None, "feeds": None}},
        {"rows": [row for m in ("probe_accuracy", "probe_control", "modality_gap") for tokens in ("last", "image and text")
                  for row in curve([0.5, 0.6], measure=m, tokens=tokens, group="all" if "gap" in m else "organ")]},
        {"probe": 8, "modality-gap": 2},
    ),
    "benchmark": (
        {"benchmark": {}},
        {
            "leaderboard": [{**POINT, "question_type": "all", "finding": f, "method": "relevance", "measure": "pointing"}
                            for f in ("all", "cyst")],
            "layers": [{**POINT, "question_type": "all", "method": "relevance", "half": "test", "layer": k} for k in range(2)],
        },
        {"leaderboard-0": 1, "layers-0": 2},
    ),
    "prune": (
        {"prune": {}},
        {
            "pruned": [
                {**POINT, "rule": rule, "how": how, "budget": b, "blocks": [1], "chosen": rule == "search", "kept": 0.9,
                 "parameters": 9}
                for rule, how, b in (("none", "whole", 0.0), ("search", "drop", 0.5), ("search", "linear", 0.5),
                                     ("random", "drop", 0.5), ("magnitude", "drop", 0.5), ("magnitude", "linear", 0.5))
            ],
        },
        {"pruned-kept": 5},
    ),
    "thin": (
        {"thin": {"draws": 1}},
        {"thinned": [{**POINT, "what": what, "by": by, "share": 0.5, "kept": 0.9}
                     for what in ("dropped", "units") for by in ("attention", "random")]},
        {"thinned": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_charts_of_tables(kind, tmp_path):
    told, tables, expected = OTHERS[kind]
    run = written(tmp_path / "run", told, **tables)
    found = list(_figures._of(run))
    assert {figure.name: figure.rows.height for figure in found} == expected
    first = found[0]
    assert styles.drawn(_figures._together(first), styles.STYLES["nature"]).letters == pytest.approx(6, abs=1)


def test_names_that_no_file_system_tells_apart_stay_two(tmp_path):
    """Of tags of the data: `Body part` and `body_part`."""
    groups = [row for tag in ("Body part", "body_part") for row in curve(ALIKE, group=f"{tag}=lung")]
    run = written(tmp_path / "run", rows=[*curve(ALIKE), *groups])
    names = list(_figures._by_name(_figures._of(run)))
    assert [name for name in names if "-by-" in name] == ["anisotropy-by-Body_part", "anisotropy-by-body_part-2"]


def test_maps_of_a_study(tmp_path):
    """Those whose pictures lie in the run; a run that names another folder's shows none."""
    row = {"sample": "a", "method": "edges", "target": HOSTILE, "verdict": "trust", "why": "", "note": "seen."}
    trust = [{**row, "map": k, "picture": picture} for k, picture in enumerate(["maps/000-edges.png", "../secret.png", None])]
    maps = [{"sample": "a", "map": k, "method": "edges", "target": HOSTILE, "token": 0, "value": 1.0} for k in range(2)]
    run = written(tmp_path / "run", rows=curve(ALIKE), samples=[{"sample": "a", "question": "where ?"}], trust=trust, maps=maps)
    for path in (run.path / "maps" / "000-edges.svg", tmp_path / "secret.svg"):
        store.write(path, '<svg viewBox="0 0 9 9"/>')
    found = [figure for figure in _figures._of(run) if figure.svg]
    assert [(figure.name, figure.rows.height) for figure in found] == [("map-000-edges", 1)]
    assert found[0].meaning.endswith("The question: “where ?”. Its report card: trust. seen.")


def test_maps_of_one_sample(phantom, tmp_path):
    explained = medlens.explain(phantom, medlens.phantom.samples(6, 0)[5], methods=["edges"], tokens=False, card=False)
    explained.write(tmp_path / "maps")
    made = medlens.figures(tmp_path / "maps", formats=["svg"], out=tmp_path / "figures")
    assert made.names == ("map-0-edges",)
    values = pl.read_csv(made.folder / "map-0-edges.csv")["value"].to_list()
    assert values == explained.maps[0].values.tolist()
    svg = (made.folder / "map-0-edges.svg").read_text()
    assert all(4.99 <= size <= 7.01 for size in letters(svg))


# ---- what is refused


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"style": "cell"}, "nature or slides; got 'cell'"),
        ({"formats": ["eps"]}, "pdf, svg, png; got 'eps'"),
        ({"formats": []}, "got ''"),
        ({"only": ["cka"]}, "no figure 'cka'; it has anisotropy, "),
    ],
)
def test_bad_input(small, tmp_path, asked, says):
    with pytest.raises(BadInput, match=says):
        medlens.figures(small, out=tmp_path / "f", **asked)
    assert not list(tmp_path.iterdir())


def test_only_figures_are_replaced(small, made, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"a picture of my own")
    with pytest.raises(BadRun, match=r"something else than figures \(mine.png\)"):
        medlens.figures(small, out=tmp_path)
    (made.folder / "notes.txt").write_text("of mine, among the figures")
    with pytest.raises(BadRun, match=r"notes\.txt"):
        medlens.figures(small, out=made.folder)
    (made.folder / "notes.txt").unlink()
    again = medlens.figures(small, formats=["svg"], out=made.folder)
    assert not (again.folder / "anisotropy.pdf").exists()


def test_whole_or_not_at_all(small, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(styles.Drawn, "bytes_of", full_disk)
    with pytest.raises(CannotWrite, match="disk is full"):
        medlens.figures(small, out=tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_or_has_no_charts(tmp_path):
    with pytest.raises(BadRun, match="not a run"):
        medlens.figures(tmp_path / "nowhere", out=tmp_path / "f")
    (tmp_path / "study.part").mkdir()
    with pytest.raises(BadRun, match="is unfinished: repeat the command"):
        medlens.figures(tmp_path / "study", out=tmp_path / "f")
    with pytest.raises(BadRun, match="no charts"):
        medlens.figures(written(tmp_path / "empty"), out=tmp_path / "f")


def test_neither_torch_nor_transformers(small, tmp_path):
    code = f"""
import sys, medlens
medlens.export({str(small.path)!r}, {str(tmp_path / "tables")!r})
from medlens._figures import _of
assert len(list(_of(medlens.open_run({str(small.path)!r})))) == 2
assert not {{"torch", "transformers"}} & {{*sys.modules}}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- tables for other programs


@pytest.fixture(scope="module")
def dangerous(tmp_path_factory):
    asked = [{"sample": "-a", "question": "=HYPERLINK(1)", "answer": "@x", "image": "+1", "tags": "{}", "file": "is = fine"}]
    effects = [{"concept": "a", "value": -1.5, "units": 3}, {"concept": "b", "value": float("nan")}]
    cards = [{"concept": "a", "raises": ["=x", 'say "no"'], "active": [0.5, None]}, {"concept": "b"}]
    return written(tmp_path_factory.mktemp("dangerous") / "run", samples=asked, effects=effects, cards=cards)


def test_no_cell_of_csv_is_a_formula(dangerous, tmp_path):
    files = medlens.export(dangerous, tmp_path / "tables")
    assert {file.stem for file in files} == {"rows", "left_out", "massive", "samples", "answers", "claims", "effects", "cards"}
    row = pl.read_csv(tmp_path / "tables" / "samples.csv").to_dicts()[0]
    assert [row[name] for name in ("sample", "question", "answer", "image")] == ["'-a", "'=HYPERLINK(1)", "'@x", "'+1"]
    assert row["file"] == "is = fine"
    assert pl.read_csv(tmp_path / "tables" / "effects.csv")["value"].to_list()[0] == -1.5  # a number stays one
    lists = pl.read_csv(tmp_path / "tables" / "cards.csv")
    assert json.loads(lists["raises"][0]) == ["=x", 'say "no"']
    assert json.loads(lists["active"][0]) == [0.5, None]
    assert lists["raises"][1] is None


def test_parquet_is_the_same_and_json_has_no_nan(dangerous, tmp_path):
    medlens.export(dangerous, tmp_path / "p", "parquet")
    assert pl.read_parquet(tmp_path / "p" / "cards.parquet").equals(dangerous.cards)
    medlens.export(dangerous, tmp_path / "j", "json")
    told = json.loads((tmp_path / "j" / "effects.json").read_text(), parse_constant=pytest.fail)
    assert [row["value"] for row in told] == [-1.5, None]


def test_export_refuses(dangerous, tmp_path):
    with pytest.raises(BadInput, match="csv, parquet, json; got 'xlsx'"):
        medlens.export(dangerous, tmp_path / "t", "xlsx")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "mine").touch()
    with pytest.raises(BadRun, match="not empty"):
        medlens.export(dangerous, tmp_path / "t")


# ---- in a notebook


def test_a_run_shows_itself(dangerous, small, tmp_path, monkeypatch):
    shown = small._repr_html_()
    assert "drawn on by hand" in shown
    assert "rows (18)" in shown
    assert str(small.path.parent) not in shown
    Image.new("RGB", (300, 200), "red").save(small.path / "a.png")
    frame = small.samples.with_columns(picture=pl.lit("a.png"))
    monkeypatch.setitem(small.__dict__, "samples", frame)
    assert "data:image/png" in small._repr_html_()


def test_a_sample_shows_itself_without_paths_or_headers(tmp_path):
    picture = tmp_path / "scan.png"
    Image.new("L", (600, 300), 90).save(picture, pnginfo=_text("Jane Doe"))
    sample = Sample(picture, HOSTILE, answer="yes", id="s1")
    shown = sample._repr_html_()
    assert "<script" not in shown
    assert str(tmp_path) not in shown
    assert "scan.png" in shown
    inside = Image.open(BytesIO(_first_picture(shown)))
    assert inside.size == (256, 128)
    assert "Jane" not in str(inside.info)
    for name in ("scan.dcm", "gone.png"):
        (tmp_path / "scan.dcm").write_bytes(b"\0" * 128 + b"DICMJane Doe")
        shown = Sample(tmp_path / name, "?")._repr_html_()
        assert "not shown here" in shown
        assert "Jane" not in shown
        assert str(tmp_path) not in shown


def _text(words):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("PatientName", words)
    return info


def _first_picture(shown):
    import base64

    return base64.b64decode(re.search(r"data:image/png;base64,([^']+)", shown)[1])


def test_a_heatmap_shows_and_saves_itself(heatmap, tmp_path):
    alone = Image.open(BytesIO(heatmap._repr_png_()[0])).convert("RGB")
    scale = alone.width / 600
    at = lambda x, y: alone.getpixel((int((20 + x * 5.6) * scale), int((84 + y * 5.6) * scale)))
    assert at(25, 50) == (68, 1, 84)  # the ends of viridis, undimmed: there is no image below
    assert at(75, 50) == (253, 231, 37)
    assert heatmap.save(tmp_path / "map.png", Image.new("L", (100, 100))).is_file()
    assert heatmap.save(tmp_path / "map.svg").read_text().startswith("<svg")
    for name, image, says in (("map.jpg", None, "png or .svg"), ("map.png", Image.new("L", (9, 9)), "9 x 9 pixels")):
        with pytest.raises(BadInput, match=says):
            heatmap.save(tmp_path / name, image)
    with pytest.raises(CannotWrite):
        heatmap.save(tmp_path / "nowhere" / "map.svg")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture
def heatmap():
    import numpy as np

    boxes = np.array([[0, 0, 50, 100], [50, 0, 100, 100]], dtype=float)
    return medlens.Heatmap("relevance", "yes", np.array([0.0, 1.0]), boxes, (100, 100))


def test_an_explanation_shows_itself(phantom):
    sample = medlens.phantom.samples(6, 0)[5]
    found = medlens.explain(phantom, sample, methods=["edges"], tokens=False, card=False)
    assert found.maps[0].image is found.image  # a map carries what it lies on
    shown = found._repr_html_()
    assert "data:image/svg+xml" in shown
    assert "no report card" in shown
    assert sample.question.split()[0] in shown


def test_ipython_shows_them(heatmap, small):
    formatters = pytest.importorskip("IPython.core.formatters")
    formats = formatters.DisplayFormatter().format
    assert formats(heatmap)[0]["image/png"][:4] == b"\x89PNG"
    assert "drawn on by hand" in formats(small)[0]["text/html"]
