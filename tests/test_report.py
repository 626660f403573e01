import re
import subprocess
import sys

import pytest
from PIL import Image

import medlens
from medlens.plan import Plan
from medlens.report import render
from medlens.report.charts import READINGS

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> \"' {{ 7*7 }}"


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory):
    return medlens.study(phantom, "phantom", Plan(limit=25), tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def hostile(phantom, tmp_path_factory):
    """Script tags in every field that a data set can fill."""
    samples = [
        medlens.Sample(
            image=Image.new("RGB", (64, 64), (k, 9, 9)), question=HOSTILE, id=f"{HOSTILE}{k}", answer=HOSTILE,
            question_type=HOSTILE, image_id=f"{HOSTILE}{k}", patient_id=HOSTILE, tags={HOSTILE: HOSTILE},
        )
        for k in range(3)
    ]  # fmt: skip
    return medlens.study(phantom, samples, Plan(), tmp_path_factory.mktemp("hostile") / "run")


def test_it_needs_nothing_else(run):
    html = run.report.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", html)
    assert "<script" not in html
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\s\"'<)]+", html)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert len(html) < 5_000_000


def test_everything_is_in_it(run):
    html = run.report.read_text()
    for reading in READINGS.values():
        assert reading.title.replace("(", "(") in html
        assert reading.source.replace("&", "&amp;") in html
    for question in run.samples["question"]:
        assert question in html
    assert html.count("<svg") >= 2 * len(READINGS) - 1
    assert html.count("✓ right") + html.count("✗ wrong") == 25


def test_what_data_say_is_escaped(hostile):
    html = hostile.report.read_text()
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;" in html
    assert "{{ 7*7 }}" in html  # shown, not evaluated


def test_every_measure_is_shown():
    """The report may not import the measures (they need torch): that its list is theirs is held here."""
    assert list(READINGS) == list(medlens.MEASURES)


def test_charts_are_files_too(run):
    for name in READINGS:
        png, svg = (run.path / "charts" / f"{name}.{kind}" for kind in ("png", "svg"))
        assert min(Image.open(png).size) > 300
        assert svg.read_text().startswith("<svg")


def test_warnings(run, phantom, tmp_path):
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
from medlens.report import render
render(open_run({str(run.path)!r}))
print([m for m in ("torch", "transformers") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("which", ["run", "hostile"])
def test_in_a_browser(which, width, request, chromium):
    """Opens without an error or a request, fits its width, and its charts have a size."""
    from playwright.sync_api import sync_playwright

    report = request.getfixturevalue(which).report
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": width, "height": 900})
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        fits = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        charts = page.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().height)")
        pictures = page.evaluate(
            "Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode().then(() => i.naturalWidth) }))"
        )
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert fits
    assert len(charts) > 10
    assert min(charts) > 100
    assert min(pictures) > 0
