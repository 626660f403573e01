"""Pages: one shell, one style, nothing unescaped; their charts have colours for light and dark."""

import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import polars as pl

import medlens
from medlens import pages
from medlens.comparison import page as comparison
from medlens.pages import environment, moment
from medlens.report.charts import CONFIG, THEME, as_svg, themed
from medlens.svg import colour, ink
from reported import HOSTILE

CHARTS = True
ROOT = Path(medlens.__file__).parent
TEMPLATES = {path: path.read_text() for path in sorted(ROOT.rglob("*.j2"))}
BASE = (Path(pages.__file__).parent / "base.css").read_text()
DRAWN = {  # by us, with what they are told escaped; and the viewer's fragment
    "picture", "section.board", "section.curves", "svg", "chart", "s.chart", "s.maps", "probes", "gap", "consistency.chart",
    "confidence.reliability", "confidence.abstaining", "patch", "answer", "tokens", "viewer.style", "viewer.html",
}  # fmt: skip
COLOUR = re.compile(r"(?<!&)#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})\b(?!\")|(?:rgb|hsl)a?\(\s*\d|: (?:white|black)\b")


def test_every_page_stands_on_the_shell():
    included = {
        path.parent / name for path, text in TEMPLATES.items() for name in re.findall(r'{% (?:include|from) "([^"]+)"', text)
    }
    whole = [path.name for path, text in TEMPLATES.items() if text.startswith('{% extends "shell.html.j2" %}')]
    assert len(whole) == 11
    assert sorted([*whole, "shell.html.j2"]) == sorted(path.name for path in TEMPLATES if path not in included)
    assert [path.name for path, text in TEMPLATES.items() if "<!doctype" in text] == ["shell.html.j2"]


def test_colours_are_named_in_one_place():
    """A page with one of its own would have it in the dark, too."""
    styles = {ROOT / "report" / "study" / "style.css": None, **TEMPLATES}
    assert {path.name: COLOUR.findall(path.read_text()) for path in styles if COLOUR.search(path.read_text())} == {}
    assert all(COLOUR.search(bad) for bad in ("color: #fff;", "#1c1c1c}", "rgb(0 0 0)", "background: white;"))  # it would be seen
    used = set(re.findall(r"var\(--([\w-]+)\)", "".join(path.read_text() for path in styles)))
    assert used - set(re.findall(r"--([\w-]+):", BASE)) == {"columns", "p"}  # these two a page sets for each of its pictures


def test_what_is_not_escaped_is_drawn_by_us():
    assert {name for text in TEMPLATES.values() for name in re.findall(r"([\w.]+) ?\| ?safe", text)} == DRAWN


def test_what_others_say_is_escaped(tmp_path):
    told = {"model": {"name": HOSTILE, "blocks": 2}, "data": {"name": HOSTILE}, "medlens": HOSTILE, "created": f"2026{HOSTILE}"}
    html = comparison.render([HOSTILE], [SimpleNamespace(manifest=told)], [], [], [HOSTILE], pl.DataFrame())
    assert "<script" not in html
    assert "onerror" in html
    assert "<img" not in html
    (tmp_path / "own.html.j2").write_text('{% extends "shell.html.j2" %}{% block title %}{{ said }}{% endblock %}')
    shown = environment(tmp_path).get_template("own.html.j2").render(said=HOSTILE, manifest=told)
    assert "<title>&lt;script&gt;" in shown
    assert "<script" not in shown


def test_a_date_as_people_write_it():
    assert moment("2026-11-28T11:57:03+00:00") == "2026-11-28 11:57 UTC"


def test_charts_have_the_pages_colours():
    """All that Vega draws of its own accord, and all that we choose."""
    shades = list(THEME)[:3]
    rows = [{"x": k, "y": k * k, "of": str(k % 3)} for k in range(6)]
    hues = {"field": "of", "type": "nominal", "scale": {"range": shades}}
    x, y = {"field": "x", "type": "quantitative"}, {"field": "y", "type": "quantitative"}
    line = {"mark": {"type": "line", "point": True}, "encoding": {"x": x, "y": y, "color": hues}}
    svg = as_svg({"data": {"values": rows}, "title": "a title", **line})
    found = set(re.findall(r'\b(?:fill|stroke)="([^"]+)"', svg))
    assert {f"var(--{THEME[shade]})" for shade in shades} < found
    assert {name for name in found if not name.startswith("var(--")} <= {"none", "transparent"}
    assert re.search(r'<svg[^>]* style="min-width:\d+px;max-width:\d+px"', svg)
    assert CONFIG["background"] == "white"  # that of files
    assert themed("#123456") == "#123456"
    light, dark = BASE.split("prefers-color-scheme: dark", 1)
    for name, part in product({*THEME.values()} - {"all"}, (light, dark.split("* {")[0])):
        assert f"--{name}:" in part


def _light(code: str) -> float:
    parts = [int(code[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_words_can_be_read_on_their_ground():
    """WCAG 2.1, 1.4.3."""
    for level in [*(k / 200 for k in range(201)), 0.4301]:
        low, high = sorted((_light(colour(level)), _light(ink(level))))
        assert (high + 0.05) / (low + 0.05) >= 4.5
