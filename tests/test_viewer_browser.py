"""The viewer in a real browser: everything that can be clicked, other origins, hostile runs, and how long it takes."""

import json
import shutil
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import axe_core_python
import polars as pl
import pytest

import medlens
from medlens.viewer import embed
from medlens.viewer.data import Shown, open_shown, piece
from medlens.viewer.embed import fragment
from medlens.viewer.files import STATIC
from medlens.viewer.server import Server

pytestmark = pytest.mark.browser
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
AXE = Path(axe_core_python.__file__).parent / "axe.min.js"
HOSTILE = "<script>window.hit=1</script><img src=x onerror=window.hit=1>\"'>{{7*7}}</script><svg onload=window.hit=1>"
SAMPLES = 200


@pytest.fixture(scope="module")
def run(looked_at, tmp_path_factory):
    """A study of a few samples, with maps by invention: what a map's card says is tested elsewhere."""
    out = tmp_path_factory.mktemp("browser") / "run"
    shutil.copytree(looked_at.path, out)
    run = medlens.open_run(out)
    sample, box = run.looks["sample"][0], dict.fromkeys(("left", "top", "right", "bottom"), 0.0)
    maps = [{"sample": sample, "map": m, "method": f"method_{m}", "target": "its answer"} for m in range(2)]
    values = [about | {"token": k, "value": (k - 20 * about["map"]) / 64} | box for about in maps for k in range(64)]
    said = [("trust", ""), ("do not trust", "weights drawn anew")]
    checks = [{"sample": sample, "method": "method_1", "check": "deletion", "of": "blur", "value": 1.0, "passed": False}]
    gate = {"sample": sample, "rests": True, "shift": 3.0, "bound": 1.0, "swaps": 8, "words": "this answer depends on the image"}
    medlens.store.write_table(out, "maps", values)
    medlens.store.write_table(out, "trust", [a | {"verdict": v, "why": w} for a, (v, w) in zip(maps, said, strict=True)])
    medlens.store.write_table(out, "checks", checks)
    swap = {"sample": sample, "swap": "blank", "draw": 0, "before": 2.0, "after": -1.0, "shift": -3.0, "changed": True}
    medlens.store.write_table(out, "gates", [gate])
    medlens.store.write_table(out, "reliance", [swap])
    unit = run.fires.filter(layer=7)["units"][-1][0]
    card = {"concept": "cyst", "layer": 7, "unit": unit, "verdict": "visual only", "raises": ["▁cyst"], "lowers": ["▁no"]}
    medlens.store.write_table(out, "cards", [card | {"note": "looked at"}])
    return medlens.open_run(out)


@pytest.fixture(scope="module")
def many(run, tmp_path_factory):
    """The same sample as often as a study has some."""
    out = tmp_path_factory.mktemp("many") / "many"
    shutil.copytree(run.path, out)
    sample = run.looks["sample"][0]
    for name in ("samples", "answers", "lens", "decisions", "looks", "fires", "places", "maps", "trust", "checks", "gates"):
        table = getattr(run, name).filter(sample=sample)
        copies = [table.with_columns(sample=pl.lit(f"s{k:03d}")) for k in range(SAMPLES)]
        pl.concat(copies).write_parquet(out / f"{name}.parquet")
    return medlens.open_run(out)


@pytest.fixture(scope="module")
def hostile(run, tmp_path_factory):
    """Script tags in every text of a run, its name and its files' names."""
    out = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=window.hit=1>"
    shutil.copytree(run.path, out)
    evil = lambda column: pl.lit(HOSTILE) + column
    for table in out.glob("*.parquet"):
        frame = pl.read_parquet(table)
        texts = [name for name, kind in frame.schema.items() if kind == pl.String and name not in ("tokens", "picture")]
        lists = [name for name, kind in frame.schema.items() if kind == pl.List(pl.String)]
        changed = [evil(pl.col(name).fill_null("")).alias(name) for name in texts]
        changed += [pl.col(name).list.eval(evil(pl.element())) for name in lists]
        if frame.schema.get("tokens") == pl.String:
            changed.append(pl.when(pl.col("tokens") == "text").then(evil(pl.col("tokens"))).otherwise("tokens").alias("tokens"))
        frame.with_columns(changed).write_parquet(table)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["model"] |= {"name": HOSTILE, "fingerprint": HOSTILE}
    (out / "manifest.json").write_text(json.dumps(manifest | {"created": HOSTILE}))
    return medlens.open_run(out)


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """A function that serves runs and opens them: the page, what it has said on its console, what it has asked for."""
    closing = []

    def opened(*runs, hash="", **context):
        server = Server([Shown(run) for run in runs])
        Thread(target=server.serve_forever, daemon=True).start()
        tab = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | context)
        closing.extend([tab.close, server.shutdown, server.server_close])
        page = tab.new_page()
        found = SimpleNamespace(page=page, server=server, said=[], asked=[], tab=tab)
        page.on("console", lambda message: found.said.append(message.text))
        page.on("pageerror", lambda error: found.said.append(str(error)))
        page.on("dialog", lambda dialog: found.said.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: found.asked.append(request.url))
        page.goto(server.link + hash)
        page.wait_for_selector(".pane h3")
        return found

    yield opened
    for close in closing:
        close()


def state(page):
    """What is looked at, once it is drawn."""
    page.wait_for_selector(".medlens-viewer:not([aria-busy])")
    page.wait_for_timeout(80)  # the address is written when nothing more happens
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")


def quiet(found):
    """No error, and nothing asked of anybody else."""
    own = f"http://127.0.0.1:{found.server.server_port}/"
    assert found.said == []
    assert [url for url in found.asked if not url.startswith((own, "data:"))] == []


def test_everything_can_be_clicked(opened, run):
    found = opened(run)
    page, sample = found.page, run.looks["sample"][0]
    assert "token=" not in page.url.split("#")[0]
    assert state(page)["sample"] == sample

    page.get_by_text("What other images in its place did: 1").click()
    assert page.locator(".swaps tbody").inner_text().split() == ["blank", "2", "-1", "-3", "changed"]

    where = lambda: page.locator(".caption").inner_text()
    page.get_by_role("button", name="[/INST]").click()
    weights = run.looks.filter(sample=sample, layer=7, token="[/INST]")["weights"][0]
    assert f"gives the image {sum(weights):.3g} of its attention in block 7" in where()
    assert page.locator(".colours span").nth(1).inner_text() == f"{max(weights):.3g}"

    page.locator(".says .state").nth(4).click()  # the last state stands above: 8, 7, 6, 5, 4
    assert state(page)["layer"] == "4"
    position = int(state(page)["token"])
    said = run.lens.filter(sample=sample, layer=4, position=position)["words"][0].to_list()
    assert page.locator(".says .state[aria-pressed=true] .first").inner_text() == said[0].lstrip("▁Ġ")
    assert "in block 3" in where()
    assert page.locator(".where").inner_text() == "state 4 of 8, behind block 3"

    page.locator("rect.patch").nth(10).click()
    patch = int(run.lens.filter(sample=sample, layer=4, patch=10)["position"][0])
    assert state(page)["patch"] == "10"
    assert "patch 10" in page.locator(".says p").inner_text()
    units = run.fires.filter(sample=sample, layer=3, position=patch)["units"][0].to_list()
    assert page.locator(".units > .unit .number").all_inner_texts() == [f"3.{unit}" for unit in units]

    page.locator(".units > .unit").first.click()
    assert page.locator(".unit-card h3").inner_text() == f"Unit 3.{units[0]}"
    raises = run.unit_writes.filter(layer=3, unit=units[0])["raises"][0].to_list()
    assert page.locator(".unit-card dd").first.inner_text() == ", ".join(word.lstrip("▁Ġ") or "␣" for word in raises)
    fires = run.fires.filter(pl.col("units").list.contains(units[0]), sample=sample, layer=3, tokens="image").height
    assert page.locator(".over .fires").count() == fires > 0

    for name in ("what patches say", "image alone", "where it looks"):
        page.get_by_role("button", name=name).click()
        assert page.locator(".choice [aria-pressed=true]").inner_text() == name
    page.locator(".map").nth(1).click()
    assert state(page)["on"] == "map1"
    assert page.locator(".caption").inner_text() == "do not trust method 1: weights drawn anew"
    assert page.locator(".colours span").first.inner_text().startswith("-")  # it has a sign: the same to both sides
    page.get_by_text("Its report card").click()
    assert "deletion blur" in page.locator(".checks table").inner_text()

    page.get_by_text("Units with a card: 1").click()
    page.locator(".named .unit").click()
    assert "cyst visual only" in page.locator(".looked").inner_text()
    page.get_by_role("button", name="Next sample").click()
    page.wait_for_url(lambda url: f"sample={sample}&" not in url)
    assert page.locator(".empty code").first.inner_text().startswith("medlens study")
    page.get_by_label("Sample", exact=True).select_option(sample)
    page.wait_for_url(lambda url: f"sample={sample}&" in url)
    page.locator("input[type=range]").fill("1")
    assert state(page)["layer"] == "1"
    quiet(found)


def test_the_keyboard_does_all_of_it(opened, run):
    page = (found := opened(run)).page
    at = lambda: {name: state(page).get(name) for name in ("token", "layer", "patch")}
    begun = at()
    page.keyboard.press("ArrowDown")
    assert at()["layer"] == str(int(begun["layer"]) - 1)
    page.keyboard.press("ArrowRight")
    assert at()["token"] == str(int(begun["token"]) + 1)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert at() == begun
    page.locator("svg.image").focus()
    ways = ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp")
    for key, patch in zip(ways, "019800", strict=True):
        page.keyboard.press(key)
        assert at()["patch"] == patch
    assert "patch 0 at state 8" in page.locator("[aria-live]").inner_text()
    page.keyboard.press("Escape")
    assert at()["patch"] is None
    page.locator(".says .state").nth(2).focus()
    page.keyboard.press("Enter")
    assert at()["layer"] == "6"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("State 6:")  # drawn anew, and still there
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    sample = state(page)["sample"]
    page.keyboard.press("PageDown")
    page.wait_for_url(lambda url: f"sample={sample}&" not in url)
    quiet(found)


def test_a_link_brings_everything_back(opened, run):
    sample = run.looks["sample"][0]
    said = f"#sample={sample}&token=70&patch=5&layer=3&unit=2.17&on=map1&run=both"
    found = opened(run, hash=said)
    page = found.page
    assert state(page) == {"sample": sample, "token": "70", "patch": "5", "layer": "3", "unit": "2.17", "on": "map1", "run": "both"}
    assert page.locator(".unit-card h3").inner_text() == "Unit 2.17"
    assert page.locator(".map[aria-pressed=true]").count() == page.locator(".over .chosen").count() == 1
    page.reload()
    page.wait_for_selector(".unit-card")
    assert state(page)["patch"] == "5"
    page.evaluate("location.hash = '#layer=zz&token=99999&unit=<b>&patch=777&sample=nobody&run=9&on=x'")
    page.wait_for_url(lambda url: "zz" not in url)
    assert state(page)["sample"] == sample
    quiet(found)


def test_two_runs_side_by_side(opened, run, many):
    found = opened(run, many)
    page = found.page
    assert page.locator(".pane:visible").count() == 2
    assert "does not hold this sample" in page.locator(".pane").nth(1).inner_text()
    found = opened(run, run)
    page = found.page
    page.locator(".says .state").nth(3).click()
    assert state(page)["layer"] == "5"
    assert page.locator(".says .state[aria-pressed=true] .number").all_inner_texts() == ["5", "5"]
    page.locator(".pane").nth(1).locator("rect.patch").nth(3).click()
    assert page.locator(".over .chosen").count() == 2
    page.locator(".which button").nth(1).click()
    assert page.locator(".pane:visible").count() == 1
    assert state(page)["run"] == "1"
    quiet(found)


TIMED = """async () => {
  const all = selector => [...document.querySelectorAll(selector)];
  const took = {};
  const time = async (name, element) => {
    const began = performance.now();
    element.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    while (document.querySelector(".medlens-viewer[aria-busy]")) await new Promise(done => setTimeout(done));
    document.body.offsetHeight;
    (took[name] ??= []).push(performance.now() - began);
  };
  for (let k = 0; k < 12; k++) {
    await time("token", all("button.token")[k % all("button.token").length]);
    await time("state", all(".says .state")[k % 9]);
    await time("patch", all("rect.patch")[5 * k]);
    await time("unit", all(".units > .unit")[k % 5] ?? all(".says .state")[0]);
    await time("map", all(".map")[k % 2]);
    await time("drawn", all(".choice button")[k % 3]);
  }
  return Object.fromEntries(Object.entries(took).map(([name, ms]) => [name, Math.max(...ms)]));
}"""


def test_it_is_instant(opened, many, record_property):
    """Of 200 samples: the slowest of twelve of each kind, with layout; and another sample from click to drawn."""
    page = (found := opened(many)).page
    took = page.evaluate(TIMED)
    page.evaluate("window.began = performance.now()")
    page.get_by_role("button", name="Next sample").click()
    page.wait_for_url(lambda url: "sample=s001&" in url)
    took["sample"] = page.evaluate("performance.now() - began")
    for name, ms in took.items():
        record_property(name, round(ms, 1))
    assert page.locator("option").count() == SAMPLES
    assert max(took.values()) < 1000, took  # 100 on a machine of its own: see docs/viewer.md
    quiet(found)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark"), (1920, "light")])
def test_it_fits_and_can_be_read_by_all(opened, run, width, scheme):
    sample = run.looks["sample"][0]
    hash = f"#sample={sample}&layer=6&patch=9&unit=5.1&on=map1"
    page = (found := opened(run, hash=hash, viewport={"width": width, "height": 900}, color_scheme=scheme)).page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.evaluate(AXE.read_text())  # the page's policy is for its own scripts: this one comes with the debugger
    bad = page.evaluate("axe.run().then(a => a.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html).slice(0, 3)]))")
    assert [v for v in bad if v[0] in ("serious", "critical")] == []
    quiet(found)


def test_nothing_of_a_hostile_run_executes(opened, hostile):
    found = opened(hostile)
    page = found.page
    assert HOSTILE in page.locator(".question").inner_text()
    for selector in (".token", ".says .state", ".units > .unit", ".map", ".choice button", ".named .unit"):
        for k in range(min(3, page.locator(selector).count())):
            page.locator(selector).nth(k).dispatch_event("click")
    page.locator("rect.patch").nth(3).click()
    page.get_by_role("button", name="what patches say").click()
    assert page.locator(".unit-card").count() == 1
    page.get_by_role("button", name="Next sample").click()
    page.wait_for_timeout(100)
    assert page.evaluate("window.hit") is None
    assert page.evaluate("[...document.scripts].map(s => s.src.replace(/.*[/]/, ''))") == ["page.js"]
    assert page.evaluate("document.querySelectorAll('.medlens-viewer img:not(.pictures img), [onload]').length") == 0
    quiet(found)


class Other(BaseHTTPRequestHandler):
    """A page of another origin."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>other</title>")

    def log_message(self, *_):
        pass


TRIED = """async (address) => {
  const text = async (url, options) => { try { return await (await fetch(url, options)).text(); } catch (e) { return "refused"; } };
  const element = (tag, url) => new Promise(done => {
    const made = document.createElement(tag);
    made.onload = () => done("loaded"); made.onerror = () => done("refused");
    made.src = url; document.body.append(made); setTimeout(() => done("refused"), 3000);
  });
  const framed = async url => {
    const frame = document.createElement("iframe"); frame.src = url; document.body.append(frame);
    await new Promise(done => setTimeout(done, 500));
    try { return frame.contentDocument?.querySelector("#viewer") ? "loaded" : "refused"; } catch (e) { return "refused"; }
  };
  return {
    cors: await text(address + "data/index", { credentials: "include" }),
    opaque: await text(address + "data/index", { credentials: "include", mode: "no-cors" }),
    script: await element("script", address + "static/viewer.js"),
    frame: await framed(address),
  };
}"""


def test_a_page_of_another_origin_reads_nothing(opened, run):
    """In the same browser, which holds the cookie, from another port of this machine: to a browser, the same site."""
    found = opened(run)
    own, statuses = f"http://127.0.0.1:{found.server.server_port}/", []
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        page = found.tab.new_page()
        page.on("response", lambda answer: statuses.append(answer.status) if answer.url.startswith(own) else None)
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        tried = page.evaluate(TRIED, own)
        other.shutdown()
    assert set(tried.values()) == {"refused"}
    assert set(statuses) == {403}
    assert found.page.evaluate("fetch('/data/index').then(r => r.status)") == 200  # while its own page may


@pytest.fixture
def reported(browser, tmp_path):
    """A function that opens a page which allows a fragment's script, and nothing else: the page, what it has said."""

    def reported(found):
        page, said = browser.new_page(), []
        policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {found.script_hash}"
        head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}"><style>{found.style}</style>'
        whole = f'<!doctype html><html lang="en"><title>r</title>{head}<body>{found.html}</body></html>'
        (tmp_path / "report.html").write_text(whole)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((tmp_path / "report.html").as_uri())
        return page, said

    return reported


@pytest.mark.parametrize("which", ["run", "hostile"])
def test_inside_a_report(reported, which, request):
    page, said = reported(fragment(request.getfixturevalue(which)))
    page.locator("rect.patch").nth(9).click()
    assert "patch 9" in page.locator(".says p").inner_text()
    assert page.url.endswith("report.html")  # the report's own anchors are left alone
    assert page.evaluate("window.hit") is None
    assert said == []
    page.close()


def test_inside_a_report_that_does_not_hold_all_of_it(reported, run, monkeypatch):
    monkeypatch.setattr(embed, "_fitting", lambda shown, places: embed._pieces(shown, places, step=4))
    page, said = reported(fragment(run))
    page.locator(".says .state").nth(4).click()
    page.wait_for_selector(".medlens-viewer:not([aria-busy])")
    assert "in block 3" in page.locator(".caption").inner_text()
    page.locator(".says .state").nth(1).click()
    page.wait_for_selector(".units .empty")
    told = "Block 6 cannot be shown: of this sample the page holds blocks 7, 3; medlens view RUN shows all."
    assert page.locator(".units .empty").inner_text() == page.locator(".caption").inner_text() == told
    assert said == []
    page.close()


def test_in_a_notebook(opened, run):
    """The widget's side of the browser, with a model of ours in the place of the notebook's."""
    page = (found := opened(run)).page
    shown = open_shown(run.path)
    page.evaluate(
        """async (pieces) => {
          const { default: widget } = await import("/static/viewer.js");
          let told;
          const bytes = (path) => new DataView(Uint8Array.from(atob(pieces[path]), (c) => c.charCodeAt(0)).buffer);
          const answer = (path) => (path in pieces ? [{ path, failed: null }, [bytes(path)]] : [{ path, failed: "gone" }, []]);
          const send = ({ path }) => setTimeout(() => told(...answer(path)));
          const model = { on: (name, tell) => (told = tell), send };
          const el = document.createElement("div");
          el.id = "cell";
          document.body.append(el);
          widget.render({ model, el });
        }""",
        {path: b64encode(piece([shown], path)).decode() for path in ("index", "0/sample/0", "0/sample/0/block/7")},
    )
    page.locator("#cell rect.patch").nth(9).click()
    assert "patch 9" in page.locator("#cell .says p").inner_text()
    page.locator("#cell .says .state").nth(3).click()
    page.wait_for_selector("#cell .units .empty")
    assert page.locator("#cell .units .empty").inner_text() == "Block 4 cannot be shown: gone."
    assert "innerHTML" not in STATIC["viewer.js"]
    quiet(found)
