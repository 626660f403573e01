"""How long the viewer takes, in a real browser: `python scripts/time_viewer.py RUN [CHROMIUM]`; prints the table of docs/viewer.md.

Each kind of click twelve times, three rounds: median and slowest, from the click to the end of layout.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from threading import Thread

from playwright.sync_api import sync_playwright

from medlens.viewer.data import open_shown
from medlens.viewer.server import Server

KINDS = {
    "a token": "button.token", "a state": ".says .state", "a patch": "rect.patch", "a unit": ".units > .unit", "a map": ".map",
    "what is drawn": ".choice button",
}  # fmt: skip
CLICKED = """([kind, rounds]) => [...Array(rounds).keys()].map(k => {
  const found = [...document.querySelectorAll(kind)];
  if (!found.length) return null;
  const began = performance.now();
  found[(7 * k) % found.length].dispatchEvent(new MouseEvent("click", { bubbles: true }));
  document.body.offsetHeight;
  return performance.now() - began;
})"""
STEPPED = """async () => {
  const [began, before] = [performance.now(), location.hash];
  document.querySelector("[aria-label='Next sample']").click();
  while (location.hash === before) await new Promise(done => setTimeout(done));
  document.body.offsetHeight;
  return performance.now() - began;
}"""


def main(run: str, chromium: str | None = None) -> None:
    server = Server([open_shown(run)])
    Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium or shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(server.link)
        page.wait_for_selector("rect.patch")
        painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(f"| first paint | {painted:.0f} | |")
        for name, kind in KINDS.items():
            if took := [ms for ms in page.evaluate(CLICKED, [kind, 36]) if ms is not None]:
                print(f"| {name} | {statistics.median(took):.0f} | {max(took):.0f} |")
        took = []
        for _ in range(min(12, page.locator("option").count() - 1)):
            page.wait_for_timeout(300)  # somebody looks at it
            took.append(page.evaluate(STEPPED))
        if took:
            print(f"| the next sample | {statistics.median(took):.0f} | {max(took):.0f} |")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
