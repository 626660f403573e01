"""How long the viewer and the report take, in a real browser; prints a column of the tables of docs/viewer.md and docs/report.md.

    python scripts/time_viewer.py RUN                 a run in the viewer, and its report
    python scripts/time_viewer.py --like llava-med    an invented run: as many tokens, blocks and units as LLaVA-Med has

Each kind of click 36 times: median and slowest, from the click until what it asks for is drawn and laid out.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

from playwright.sync_api import Browser, Page, sync_playwright

from medlens._bench.viewing import write_run
from medlens.viewer.data import Shown, open_shown
from medlens.viewer.server import Server

SAMPLES, ROUNDS, STEPS, QUIET = 4, 36, 12, 1500  # of an invented run; clicks of each kind; next samples; ms until a page is quiet
KINDS = {
    "a token": "button.token", "a state": ".says .state", "a patch": "rect.patch", "a unit": ".units > .unit", "a map": ".map",
    "what is drawn": ".choice button",
}  # fmt: skip
OBSERVED = """
  window.seen = { paint: 0, blocked: 0, shift: 0 };
  const see = (type, tell) => new PerformanceObserver((list) => list.getEntries().forEach(tell)).observe({ type, buffered: true });
  see("largest-contentful-paint", (entry) => (seen.paint = entry.startTime));
  see("longtask", (entry) => (seen.blocked += Math.max(0, entry.duration - 50)));
  see("layout-shift", (entry) => (seen.shift += entry.hadRecentInput ? 0 : entry.value));
"""
CLICKED = """async ([element, k]) => {
  const found = [...document.querySelectorAll(element)];
  if (!found.length) return null;
  const began = performance.now();
  found[(7 * k) % found.length].dispatchEvent(new MouseEvent("click", { bubbles: true }));
  while (document.querySelector(".medlens-viewer[aria-busy]")) await new Promise(done => setTimeout(done));
  document.body.offsetHeight;
  return performance.now() - began;
}"""
NEXT = "[aria-label='Next sample']"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--like", choices=["llava-med"])
    asked = parser.parse_args()
    if (asked.run is None) == (asked.like is None):
        parser.error("give a run, or --like llava-med")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        run = asked.run or write_run(Path(folder) / "run", SAMPLES)
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        for what, said in (*sizes(open_shown(run)), *viewed(browser, run), *reported(browser, run / "report.html")):
            print(f"| {what} | {said} |", flush=True)
        browser.close()


def sizes(shown: Shown) -> Iterator[tuple[str, str]]:
    """Of the first sample, which is one of those that are looked at token by token."""
    place = max(range(len(shown.samples)), key=lambda k: len(shown.index["samples"][k]["seen"]))
    blocks = [len(shown.payload(place, block)) for block in shown.blocks(place)]
    yield "a sample, kB", f"{len(shown.payload(place)) / 1000:,.0f}"
    yield "each of its blocks, kB", f"{statistics.mean(blocks or [0]) / 1000:,.0f}"
    yield "all of it, kB", f"{(len(shown.payload(place)) + sum(blocks)) / 1000:,.0f}"


def viewed(browser: Browser, run: Path) -> Iterator[tuple[str, str]]:
    server = Server([open_shown(run)])  # nothing of it has been read
    Thread(target=server.serve_forever, daemon=True).start()
    page = observed(browser)
    page.goto(server.link)
    page.wait_for_selector(".medlens-viewer:not([aria-busy]) rect.patch")
    yield "the first sample drawn, ms", f"{page.evaluate('performance.now()'):.0f}"
    yield from painted(page)
    for name, kind in KINDS.items():
        took = [page.evaluate(CLICKED, [kind, k]) for k in range(ROUNDS)]
        if known := [ms for ms in took if ms is not None]:
            yield f"{name}, ms", both(known)
    page.goto(server.link)
    page.wait_for_selector("rect.patch")
    took = []
    for _ in range(min(STEPS, page.locator("option").count() - 1)):
        page.wait_for_timeout(QUIET)  # somebody looks at it
        took.append(page.evaluate(CLICKED, [NEXT, 0]))
    if took:
        yield "the next sample, ms", both(took)
    server.shutdown()


def reported(browser: Browser, report: Path) -> Iterator[tuple[str, str]]:
    if report.is_file():
        page = observed(browser)
        page.goto(report.as_uri())
        yield "the report, MB", f"{report.stat().st_size / 1e6:.1f}"
        yield from painted(page)


def observed(browser: Browser) -> Page:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(OBSERVED)
    return page


def painted(page: Page) -> Iterator[tuple[str, str]]:
    page.wait_for_timeout(QUIET)
    seen = page.evaluate("seen")
    yield "first paint, ms", f"{page.evaluate('''performance.getEntriesByName('first-contentful-paint')[0].startTime'''):.0f}"
    yield "largest paint, ms", f"{seen['paint']:.0f}"
    yield "blocked, ms", f"{seen['blocked']:.0f}"
    yield "layout shift", f"{seen['shift']:.3f}"


def both(took: list[float]) -> str:
    return f"{statistics.median(took):.0f}, {max(took):.0f}"


if __name__ == "__main__":
    main()
