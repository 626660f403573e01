"""Charts of the page: where lines, bands and numbers stand."""

import re
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from medlens import pages
from medlens.report import drawing
from medlens.report.drawing import HEIGHT, KINDS, WIDTH, Axis, drawn, ticks
from medlens.report.lines import COLOURS, PALETTE, Line, domain

SCHEMA = {"layer": pl.Int32, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}


def line(rows, **changes):
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return Line(frame, COLOURS["image"], **{"own": True, "marks": "points", "ribbon": 0.2, **changes})


ROWS = [(0, 1.0, 0.5, 1.5), (1, 2.0, 1.5, 2.5), (3, 4.0, None, None)]


@pytest.mark.parametrize(("of_pairs", "step"), [(False, 0.0), (True, 0.5)])
def test_places(of_pairs, step):
    """State b stands at b, block b half a step behind; heights are linear between the ends of the axis."""
    mine = line(ROWS)
    svg = drawn({"image": [mine]}, Axis(4, of_pairs), "x", "X")["image"]
    low, high = domain([mine])
    points = [(float(x), float(y)) for x, y in re.findall(r'<circle class="f-image" cx="([\d.]+)" cy="([\d.]+)"', svg)]
    expected = [(WIDTH * (layer + step) / 4, HEIGHT * (high - value) / (high - low)) for layer, value, *_ in ROWS]
    assert points == [pytest.approx(place, abs=0.06) for place in expected]


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ([(0, 1.0, 0.8, 1.2), (1, 1.0, 0.9, 1.1)], (0.8, 1.2)),  # where values are alike, intervals are seen whole
        ([(0, 8.0, -350.0, 400.0), (1, 23.0, -300.0, 474.0)], (8 - 2 * 23, 23 + 2 * 23)),  # of few rows: values are still seen
    ],
)
def test_intervals_do_not_flatten_the_curve(rows, shown):
    low, high = domain([line(rows)])
    room = 0.06 * (shown[1] - shown[0])
    assert (low, high) == pytest.approx((shown[0] - room, shown[1] + room))


def test_what_is_undefined_is_open():
    """Two pieces of a line, of which one stands alone; one band, of the layers with an interval."""
    svg = drawn({"image": [line(ROWS)]}, Axis(4, False), "x", "X")["image"]
    assert svg.count('class="line s-image"') == 2
    assert "m-4 0h8" in svg
    [band] = re.findall(r'class="band f-image" opacity="0.2" d="([^"]+)"', svg)
    assert band.count("L") == 3  # there and back over two layers
    assert (
        'class="band' not in drawn({"image": [line([(k, 1.0, None, None) for k in range(3)])]}, Axis(4, False), "x", "X")["image"]
    )


def test_numbers_are_said():
    """To those who point, to those who do not see, and to the script, which finds them by their layer."""
    svg = drawn({"image": [line(ROWS)]}, Axis(4, True), "x", "CKA")["image"]
    assert re.findall(r'data-layer="(\d)"', svg) == ["0", "1", "3"]
    assert '<text class="numbers" x="330" y="214" text-anchor="end">block 1: 2 (1.5 to 2.5)</text>' in svg
    assert re.search(r'<title id="t-x-image">CKA, image tokens</title><desc id="d-x-image">By block: 0: 1 \(0.5 to 1.5\); ', svg)
    assert "3: 4." in svg


def test_strangers_words_are_escaped():
    svg = drawn({"image": [line(ROWS, label="<script>", key="a & <b>")]}, Axis(4, False), '"><x', "<i>")["image"]
    assert "<script>" not in svg
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert '"><x' not in svg


def test_labels_do_not_touch_and_stay_inside():
    lines = [line([(0, 1.0 + k / 1000, None, None), (1, 1.0, None, None)], label=f"l{k}") for k in range(8)]
    svg = drawn({"image": lines}, Axis(1, False), "x", "X")["image"]
    heights = [float(y) for y in re.findall(r'class="end" x="\d+" y="([\d.]+)"', svg)]
    assert all(b - a >= drawing.LEADING - 0.1 for a, b in pairwise(heights))
    assert max(heights) <= HEIGHT + 4.1


def test_ticks():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-3.2, 47) == [0, 10, 20, 30, 40]
    assert ticks(0, 32, 8) == [0, 5, 10, 15, 20, 25, 30]


def test_every_colour_is_in_both_styles():
    """Image, text and answer are fixed, and no group of samples may look like one of them."""
    style = (Path(pages.__file__).parent / "base.css").read_text()
    light, dark = style.split("prefers-color-scheme: dark", 1)
    for kind in set(KINDS.values()) - {"all"}:
        assert f"--{kind}:" in light
        assert f"--{kind}:" in dark
    assert not set(PALETTE) & set(COLOURS.values())
    for colour in ("image", "text", "answer"):
        assert f"--{colour}: {COLOURS[colour]}" in light


def test_a_line_that_hardly_varies_has_an_axis():
    assert len(set(ticks(0.3, 0.3 + 5e-17))) <= 1
    assert len(set(ticks(0.3, 0.3 + 1e-9))) > 1
