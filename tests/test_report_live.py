"""The report of a study that is not finished."""

import re

import pytest

import medlens
from medlens.plan import Plan

PLAN = Plan(limit=5, instruments=("geometry",))


class Stopped(BaseException):
    """Somebody stops the study."""


class Onlooker:
    """Keeps what the page said at every step; stops the study after so many of a phase."""

    def __init__(self, part, phase="", after=0):
        self.part, self.stop, self.pages, self.phase = part, (phase, after), [], ""

    def planned(self, forecast):
        self.blocks = 8

    def begin(self, phase, steps):
        self.phase, self.steps, self.done = phase, steps, 0

    def tick(self):
        self.done += 1
        page = self.part / "report.html"
        if page.exists() and (html := page.read_text()) not in self.pages[-1:]:
            self.pages.append(html)
        if (self.phase, self.done / self.steps) >= self.stop and self.phase == self.stop[0]:
            raise Stopped


def test_it_fills_while_blocks_are_passed(phantom, tmp_path):
    out = tmp_path / "run"
    onlooker = Onlooker(tmp_path / "run.part")
    run = medlens.study(phantom, "phantom", PLAN, out, watcher=onlooker, watch=True)
    assert len(onlooker.pages) > 4
    said = [re.search(r"Not finished:</strong> (.*?\.) ", page)[1] for page in onlooker.pages]
    assert said[0] == "0 of 5 answers are written, and no block is passed yet."
    passed = [int(words.split()[0]) for words in said if "passed." in words and "no block" not in words]
    assert passed == sorted(set(passed))
    charts = [page.count('class="at"') for page in onlooker.pages]
    assert charts == sorted(charts)
    assert charts[0] == 0 < charts[-1]
    assert all('http-equiv="refresh" content="5"' in page for page in onlooker.pages)
    assert "refresh" not in run.report.read_text()
    assert "Not finished" not in run.report.read_text()
    assert not (tmp_path / "run.part").exists()


def test_one_that_was_stopped_is_shown_as_far_as_it_is(phantom, tmp_path):
    """By `medlens report`, also without --watch; then the study goes on, and its report is as if nothing had been."""
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        medlens.study(phantom, "phantom", PLAN, out, watcher=Onlooker(tmp_path / "run.part", "walking through the blocks", 0.5))
    part = tmp_path / "run.part"
    assert not (part / "report.html").exists()
    page = medlens.make_report(out)
    assert page == part / "report.html"
    html = page.read_text()
    [passed] = re.findall(r"Not finished:</strong> (\d) of 8 blocks are passed\.", html)
    assert 1 <= int(passed) <= 5
    assert {int(k) for k in re.findall(r'class="at" data-layer="(\d)"', html)} == set(range(int(passed)))
    assert "refresh" not in html
    assert "5 of 5" in html  # its answers are written
    run = medlens.study(phantom, "phantom", PLAN, out)
    assert "Not finished" not in run.report.read_text()
