"""What medlens shows of itself in a live JupyterLab, in a real browser."""

import json
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

import nbformat
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.browser]
PATIENCE = 60  # seconds until a server, a kernel or a widget is there
QUIET = ("--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None")
STILL = ":not([aria-busy])"
CELLS = (
    "import medlens; run = medlens.open_run('run'); run",
    "import numpy as np; from PIL import Image; picture = Image.new('L', (64, 64), 90)\n"
    "medlens.Sample(image=picture, question='is there a <b>cyst</b> ?', id='s')",
    "boxes = np.array([[0, 0, 32, 64], [32, 0, 64, 64]], float)\n"
    "medlens.Heatmap('relevance', 'yes', np.array([0.2, 1.0]), boxes, (64, 64), image=picture)",
    "medlens.view(run)",
)


@pytest.fixture(scope="module")
def lab(looked_at, tmp_path_factory):
    """A server on this machine alone, whose kernel has this medlens; the link of a notebook in it."""
    found = os.environ.get("MEDLENS_JUPYTER") or shutil.which("jupyter-lab")
    if found is None:
        pytest.skip(
            "no JupyterLab: install jupyterlab, or set MEDLENS_JUPYTER to a jupyter-lab beside which anywidget is installed"
        )
    place, token = tmp_path_factory.mktemp("lab"), secrets.token_urlsafe(16)
    shutil.copytree(looked_at.path, place / "home" / "run")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, place / "home" / "book.ipynb")
    folders = {f"JUPYTER_{name}_DIR": str(place / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    path = str(Path(__file__).parents[1] / "src")
    given = os.environ | folders | {"IPYTHONDIR": str(place / "ipython"), "PYTHONPATH": path, "JUPYTER_TOKEN": token}
    command = [found, "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root", *QUIET]
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen(command, cwd=place / "home", env=given, stdout=log, stderr=log) as server,
    ):
        try:
            yield f"{address(place / 'RUNTIME', server)}lab/tree/book.ipynb?token={token}&reset"
        finally:
            server.terminate()


def address(runtime, server):
    until = time.monotonic() + PATIENCE
    while not (files := list(runtime.glob("jpserver-*.json"))):
        assert server.poll() is None, (runtime.parent / "log").read_text()
        assert time.monotonic() < until
        time.sleep(0.2)
    return json.loads(files[0].read_text())["url"]


def test_what_shows_itself(lab, chromium, looked_at):
    """A run, a sample and a map on the last lines of cells; then the viewer, by mouse and by keys, light in a light notebook."""
    from playwright.sync_api import sync_playwright

    said = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 3600}, color_scheme="dark")
        # as tall as the notebook: cells that are out of sight are not drawn
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(lab)
        page.wait_for_selector(".jp-CodeCell")
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        page.get_by_text("(ipykernel) | Idle").wait_for()  # else it asks which kernel
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_selector(f".medlens-viewer{STILL} rect.patch", state="attached")
        objects(page.locator(".jp-OutputArea-output"))
        viewer(page, page.locator(".medlens-viewer"), looked_at)
        browser.close()
    assert said == []


def objects(shown):
    assert "phantom on phantom" in shown.nth(0).inner_text()
    assert shown.nth(0).locator("img").count() == 2
    assert "is there a <b>cyst</b> ?" in shown.nth(1).inner_text()
    assert shown.nth(1).locator("img").count() == 1
    assert shown.nth(2).locator("img").evaluate("image => [image.naturalWidth > 480, image.width]") == [True, 480]


def viewer(page, shown, run):
    sample = run.looks["sample"][0]
    still = lambda: page.wait_for_selector(f".medlens-viewer{STILL}")
    assert shown.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"
    shown.get_by_role("button", name="[/INST]").click()
    weights = run.looks.filter(sample=sample, layer=7, token="[/INST]")["weights"][0]
    assert f"gives the image {sum(weights):.3g} of its attention" in shown.locator(".caption").inner_text()
    shown.locator("rect.patch").nth(10).click()
    assert "patch 10" in shown.locator(".says p").inner_text()
    shown.locator(".says .state").nth(4).click()
    still()
    patch = int(run.lens.filter(sample=sample, layer=4, patch=10)["position"][0])
    units = run.fires.filter(sample=sample, layer=3, position=patch)["units"][0].to_list()
    assert shown.locator(".units > .unit .number").all_inner_texts() == [f"3.{unit}" for unit in units]
    shown.locator(".units > .unit").first.click()
    assert shown.locator(".unit-card h3").inner_text() == f"Unit 3.{units[0]}"
    assert (
        shown.locator(".unit-card dt").first.bounding_box()["height"] < 40
    )  # one line, whatever the notebook's style says of terms
    page.keyboard.press("ArrowUp")
    still()
    assert shown.locator(".where").inner_text() == "state 5 of 8, behind block 4"
    assert page.locator(".jp-Notebook-cell.jp-mod-active .medlens-viewer").count() == 1
    shown.get_by_role("button", name="Next sample").click()
    still()
    assert "More of them" in shown.locator(".units .empty").inner_text()
