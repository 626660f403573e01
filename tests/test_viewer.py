"""The viewer without a browser: what it says of a run, and whom its server answers."""

import hashlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import webbrowser
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Thread
from types import SimpleNamespace
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import polars as pl
import pytest
from PIL import Image

import medlens
from medlens.errors import BadInput, BadRun
from medlens.viewer import embed
from medlens.viewer.data import Shown, open_shown
from medlens.viewer.embed import fragment
from medlens.viewer.files import STATIC, joined
from medlens.viewer.opening import opened
from medlens.viewer.packing import DROPPED, FINEST
from medlens.viewer.pieces import opened as inflated
from medlens.viewer.server import Server


@pytest.fixture(scope="module")
def run(looked_at):
    return looked_at


@pytest.fixture(scope="module")
def shown(run):
    return Shown(run)


@pytest.fixture(scope="module")
def sample(shown):
    return inflated(shown.payload(0))


ROUNDED = 2.0 ** (DROPPED - 24)  # of the 24 bits that a float32 has


# ---- what it says


def test_words_are_those_of_the_lens(run, sample):
    """Of every token at every state, by the table itself."""
    assert sample["id"] == run.lens["sample"][0]
    rows, lens = run.lens.filter(sample=sample["id"]), sample["lens"]
    assert rows.height == len(sample["tokens"]) * 9
    said, p = (lens[name].reshape(len(lens["states"]), lens["count"], lens["each"]) for name in ("said", "p"))
    for row in rows.iter_rows(named=True):
        assert [lens["words"][w] for w in said[row["layer"], row["position"]]] == row["words"][:5]
        assert p[row["layer"], row["position"]] == pytest.approx(row["p"][:5], rel=ROUNDED)
        assert sample["tokens"][row["position"]] == {"text": row["token"], "group": row["tokens"]}


def test_weights_survive_their_two_bytes(run, shown, sample):
    assert sample["blocks"] == list(range(8))
    for block in sample["blocks"]:
        looks = inflated(shown.payload(0, block))["looks"]
        rows = run.looks.filter(sample=sample["id"], layer=block).sort("position")
        found = looks["weights"].reshape(-1, looks["count"]) / FINEST * np.array(looks["largest"])[:, None]
        assert looks["positions"] == rows["position"].to_list()
        assert looks["sinks"] == rows["sinks"][0].to_list()
        assert found == pytest.approx(np.array(rows["weights"].to_list()), rel=1e-3, abs=1e-5)


def test_units_are_those_that_fire_and_their_words(run, shown, sample):
    for block in sample["blocks"]:
        found, fired = inflated(shown.payload(0, block)), set()
        fires, written = found["fires"], found["units"]
        units, active = (fires[name].reshape(fires["count"], fires["each"]) for name in ("units", "activations"))
        for row in run.fires.filter(sample=sample["id"], layer=block).iter_rows(named=True):
            assert units[row["position"]].tolist() == row["units"]
            assert active[row["position"]] == pytest.approx(row["activations"], rel=ROUNDED)
            fired |= set(row["units"])
        assert sorted(written["units"]) == sorted(fired)
        for way in ("raises", "lowers"):
            numbers = written[way]["words"].reshape(-1, written[way]["each"])
            for unit, words in zip(written["units"], numbers, strict=True):
                assert [written["words"][w] for w in words] == run.unit_writes.filter(layer=block, unit=unit)[way][0].to_list()


def test_a_block_of_which_nothing_is_known(shown, sample):
    other = next(k for k, about in enumerate(shown.index["samples"]) if "looks" not in about["seen"])
    assert shown.sample(other)["blocks"] == []
    assert inflated(shown.payload(other, 0)) == {"looks": None, "fires": None, "units": None}


def test_patches_lie_where_the_study_says(run, sample, phantom):
    """The phantom's 8 x 8 patches tile its image, row by row."""
    assert [sample["tokens"][k]["group"] for k in sample["patches"]["positions"]] == ["image"] * 64
    cells = [[c / 8, r / 8, (c + 1) / 8, (r + 1) / 8] for r in range(8) for c in range(8)]
    assert np.allclose(sample["patches"]["boxes"], cells)
    assert sample["patches"]["note"] == ""


def test_places_are_shares_of_an_image_of_any_shape(phantom):
    """Of the boxes in pixels; none of a sample with several images, or of a family whose tokens cannot be placed."""
    from medlens._tokens import places
    from medlens.models.registration import boxes

    wide = Image.new("L", (96, 48))
    asked = lambda *images: SimpleNamespace(sample=medlens.Sample(images=images, question="q ?", id="wide"))
    found = pl.DataFrame(places(phantom, [asked(wide), asked(wide, wide)]), medlens.store.TABLES["places"])
    shares = found.select("left", "top", "right", "bottom").to_numpy()
    assert found["token"].to_list() == list(range(64))
    assert shares * [96, 48, 96, 48] == pytest.approx(boxes(phantom, wide))
    assert (shares[:, 2] > shares[:, 0]).all()
    assert places(SimpleNamespace(family="none", image_token_id=1, name="none"), [asked(wide)]) == []


def test_a_run_that_does_not_say_where_patches_lie(run, tmp_path):
    """An even grid, and that is said; no grid where the number is none of a square."""
    place = shutil.copytree(run.path, tmp_path / "run")
    (place / "places.parquet").unlink()
    patches = open_shown(place).sample(0)["patches"]
    assert len(patches["boxes"]) == 64
    assert "even grid" in patches["note"]
    lens = run.lens.filter(pl.col("patch").is_null() | (pl.col("patch") < 63))
    lens.write_parquet(place / "lens.parquet")
    fires = run.fires.join(lens.select("sample", "position").unique(), on=["sample", "position"], how="semi")
    fires.write_parquet(place / "fires.parquet")
    patches = open_shown(place).sample(0)["patches"]
    assert patches["boxes"] == []
    assert "does not say" in patches["note"]


def test_what_is_missing_names_the_command(shown, sample):
    assert sample["missing"] == {
        "maps": {"why": "Not in this run. What writes it:", "command": "medlens study MODEL DATA --instrument maps --map-images 2"},
        "gates": {"why": "Not in this run. What writes it:", "command": "medlens reliance MODEL DATA"},
    }
    other = next(k for k, about in enumerate(shown.index["samples"]) if "looks" not in about["seen"])
    assert shown.sample(other)["missing"]["looks"]["command"] == "medlens study MODEL DATA --lens-images N"
    assert "of 1 among 6" in shown.sample(other)["missing"]["looks"]["why"]


def test_maps_with_their_verdicts(run, tmp_path, shown):
    place = shutil.copytree(run.path, tmp_path / "run")
    about = {"sample": shown.samples[0]["sample"], "method": "relevance", "target": "log-odds", "layer": None}
    box = dict.fromkeys(("left", "top", "right", "bottom"), float("nan"))
    medlens.store.write_table(place, "maps", [about | {"map": 0, "token": k, "value": k / 64} | box for k in range(64)])
    trust = {"verdict": "do not trust", "why": "weights", "note": "n", "picture": "maps/0.png"}
    gone = {"sample": about["sample"], "method": "gradcam", "verdict": "no map", "why": "too deep"}
    medlens.store.write_table(place, "trust", [about | {"map": 0} | trust, gone])
    check = {"check": "deletion", "of": "blur", "value": float("nan"), "reference": 1.0, "passed": False}
    medlens.store.write_table(place, "checks", [{"sample": about["sample"], "method": "relevance"} | check])
    first, second = open_shown(place).sample(0)["maps"]
    assert (first["verdict"], first["why"], first["layer"], len(first["values"])) == ("do not trust", "weights", None, 64)
    assert first["checks"] == [{"method": "relevance", **check, "value": None}]
    assert (second["method"], second["verdict"], second["values"]) == ("gradcam", "no map", None)


def test_other_runs_show_what_they_have(run, tmp_path):
    """Of `medlens explain`: one sample, from the manifest, with boxes in pixels."""
    box = lambda k: {"left": 8.0 * (k % 8), "top": 8.0 * (k // 8), "right": 8.0 * (k % 8) + 8, "bottom": 8.0 * (k // 8) + 8}
    about = {"sample": "s", "map": 0, "method": "relevance", "target": "t", "layer": None}
    medlens.store.write_table(tmp_path, "maps", [about | {"token": k, "value": -1.0} | box(k) for k in range(64)])
    cards = [{"method": "relevance", "verdict": "trust", "why": ["a", "b"], "said": None}]
    said = {"sample": "s", "question": "q ?", "answer": "no", "truth": "yes", "size": [64, 64], "cards": cards}
    said["gate"] = {"rests": True, "words": "it moves"}
    medlens.store.write_manifest(tmp_path, {"model": "phantom", **said})
    explained = open_shown(tmp_path)
    assert [s["id"] for s in explained.index["samples"]] == ["s"]
    assert "no single tokens" in explained.index["notes"][0]
    sample = explained.sample(0)
    assert sample["patches"]["boxes"][9] == [0.125, 0.125, 0.25, 0.25]
    assert (sample["maps"][0]["verdict"], sample["maps"][0]["why"]) == ("trust", "a; b")
    assert sample["about"]["said"] == "no"
    assert sample["gate"]["words"] == "it moves"
    assert "gates" not in sample["missing"]


def test_runs_that_are_none_or_old_or_unfinished(run, tmp_path):
    with pytest.raises(BadRun, match="is not a run"):
        open_shown(tmp_path / "nothing")
    (tmp_path / "begun.part").mkdir()
    for name in ("begun", "begun.part"):
        with pytest.raises(BadRun, match="begun is unfinished: repeat the command"):
            open_shown(tmp_path / name)
    old = shutil.copytree(run.path, tmp_path / "old")
    run.looks.drop("sinks").write_parquet(old / "looks.parquet")
    assert "written by another version, and not shown: looks" in open_shown(old).index["notes"][0]
    assert open_shown(old).block(0, 3)["looks"] is None
    (old / "lens.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(BadRun, match="damaged"):
        open_shown(old).sample(0)


def test_pictures_outside_the_run_are_not_read(run, tmp_path):
    place = shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "secret.png").write_bytes(b"\x89PNG secret")
    (place / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    (place / "pictures" / "text.png").write_text("not a picture")
    names = ["../secret.png", str(tmp_path / "secret.png"), "pictures/link.png", "pictures/text.png", "manifest.json", "a\0.png"]
    table = run.samples.with_columns(picture=pl.Series(names))
    table.write_parquet(place / "samples.parquet")
    assert [open_shown(place).sample(k)["picture"] for k in range(6)] == [None] * 6
    assert Shown(run).sample(0)["picture"].startswith("data:image/")


def test_it_needs_no_torch(run):
    code = f"""
import sys
from medlens.viewer import embed
from medlens.viewer.data import open_shown
from medlens.viewer.server import Server
with Server([open_shown({str(run.path)!r})]) as server:
    assert server.page("/data/0/sample/0").content
print([m for m in ("torch", "transformers", "altair") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- whom it answers


@pytest.fixture(scope="module")
def server(shown):
    with Server([shown]) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, path, method="GET", **headers):
    """Status, headers and content. A header of None is not sent."""
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    said = {"Cookie": f"{server.cookie}={server.token}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    link.putrequest(method, path, skip_host="Host" in said, skip_accept_encoding=True)
    for name, value in said.items():
        if value is not None:
            link.putheader(name, value)
    link.endheaders()
    answer = link.getresponse()
    found = answer.status, answer.headers, answer.read()
    link.close()
    return found


def test_the_link_opens_and_the_cookie_keeps(server):
    assert urlsplit(server.link).hostname == "127.0.0.1"
    status, headers, _ = ask(server, "/?token=" + server.token, Cookie=None)
    assert status == 200
    assert headers["Set-Cookie"].startswith(f"medlens-{server.server_port}={server.token};")
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["Set-Cookie"].split("; "))
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"], headers["Referrer-Policy"]) == (
        "nosniff",
        "no-store",
        "no-referrer",
    )
    names = ("viewer.js", "viewer.css", "page.js")
    for path in ("/", *(f"/static/{name}" for name in names), "/data/index", "/data/0/sample/0", "/data/0/sample/0/block/7"):
        assert ask(server, path)[0] == 200, path


@pytest.mark.parametrize("cookie", [None, "", "medlens-1=x", "medlens-{port}=wrong", "medlens-{port}={half}", "\xff;=;\x01"])
@pytest.mark.parametrize("path", ["/", "/data/index", "/static/viewer.js", "/?token=", "/?token=wrong", "/nothing"])
def test_without_its_token_nothing_is_said(server, path, cookie):
    sent = cookie and cookie.format(port=server.server_port, half=server.token[:9])
    status, headers, content = ask(server, path, Cookie=sent)
    assert status == 403
    assert "Set-Cookie" not in headers
    assert server.token.encode() not in content


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # DNS rebinding: the name is another's, the address ours
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},  # another port
        {"Host": "127.0.0.1:{port}.evil.example"},
        {"Host": None},
        {"Origin": "http://127.0.0.1:1"},  # a page that this machine serves on another port: the same site to a browser
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec_Fetch_Site": "same-site"},  # images, scripts and frames of such a page, which send no Origin
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},  # without the token in the link
    ],
)
def test_others_are_refused_even_with_the_cookie(server, headers):
    sent = {name: value and value.format(port=server.server_port) for name, value in headers.items()}
    for path in ("/data/index", "/"):
        assert ask(server, path, **sent)[0] == 403
    assert ask(server, "/data/index", Origin=f"http://127.0.0.1:{server.server_port}", Sec_Fetch_Site="same-origin")[0] == 200


def test_a_link_that_is_followed_from_elsewhere_opens(server):
    sent = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Cookie": None}
    assert ask(server, f"/?token={server.token}", **sent)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "GET\x00"])
def test_nothing_can_be_changed(server, method):
    with socket.create_connection(("127.0.0.1", server.server_port)) as wire:
        host = f"Host: 127.0.0.1:{server.server_port}\r\nCookie: {server.cookie}={server.token}\r\nConnection: close\r\n\r\n"
        wire.sendall(f"{method} / HTTP/1.1\r\n{host}".encode())
        assert re.match(rb"HTTP/1\.[01] [45]\d\d", wire.makefile("rb").read())


@pytest.mark.parametrize(
    "path",
    [
        "/../manifest.json", "/static/../data.py", "/static/%2e%2e/data.py", "/static/index.html", "/static/", "//etc/passwd",
        "/etc/passwd", "/data/0/sample/../../manifest.json", "/data/1/sample/0", "/data/0/sample/6", "/data/0/sample/0/block/8",
        "/data/0/sample/99999999999", "/data/0/sample/-1", "/data/0/sample/٣", "/data/0/sample/0/block/-1", "/data/0/sample/0/",
        "/manifest.json", "/pictures/0000.png",
    ],
)  # fmt: skip
def test_no_other_path_is_known(server, path):
    with socket.create_connection(("127.0.0.1", server.server_port)) as wire:
        host = f"Host: 127.0.0.1:{server.server_port}\r\nCookie: {server.cookie}={server.token}\r\nConnection: close\r\n\r\n"
        wire.sendall(f"GET {path} HTTP/1.1\r\n{host}".encode())
        assert wire.makefile("rb").read().startswith(b"HTTP/1.1 404 ")


def test_fifty_readers_at_once(server):
    with ThreadPoolExecutor(50) as readers:
        found = list(readers.map(lambda k: ask(server, f"/data/0/sample/{k % 6}"), range(300)))
    assert [status for status, _, _ in found] == [200] * 300
    assert len({content for _, _, content in found}) == 6
    assert all(inflated(content)["id"] for _, _, content in found[:6])


def test_a_port_in_use(shown, server):
    with pytest.raises(BadInput, match=f"port {server.server_port} is in use"):
        Server([shown], server.server_port)


# ---- the command line


def test_the_command_serves_until_it_is_stopped(run):
    """The link that it prints works; Ctrl-C ends it quietly; meanwhile its port is taken, in one line."""
    command = [sys.executable, "-c", "from medlens.cli import main; main()", "view", str(run.path), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        link = urlsplit(process.stdout.readline().strip())
        wire = http.client.HTTPConnection(link.hostname, link.port, timeout=20)
        wire.request("GET", f"/data/index?{link.query}")
        assert inflated(wire.getresponse().read())[0]["model"] == "phantom"
        wire.close()
        other = subprocess.run([*command, "--port", str(link.port)], capture_output=True, text=True)
        assert (other.returncode, other.stdout) == (2, "")
        assert other.stderr == f"medlens: port {link.port} is in use: choose another --port, or none for any that is free\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_the_browser_is_started_without_the_key(monkeypatch):
    """Everybody on the machine can list what programs are started with."""
    started = Queue()
    monkeypatch.setattr(webbrowser, "open", lambda url: started.put((url, Path(url2pathname(urlsplit(url).path)).read_text())))
    with opened("http://127.0.0.1:1/?token=a&b"):
        url, page = started.get(timeout=10)
        folder = Path(url2pathname(urlsplit(url).path)).parent
        assert folder.stat().st_mode & 0o077 == 0
    assert "token" not in url
    assert "url=http://127.0.0.1:1/?token=a&amp;b" in page
    assert not folder.exists()


# ---- in other places


def held(found):
    """What a report holds, by path."""
    pieces = json.loads(re.search(r"<script type=\"application/json\">(.*?)</script>", found.html, re.S).group(1))
    return {path: inflated(b64decode(piece)) for path, piece in pieces.items()}


def test_what_does_not_fit_into_a_report(run, monkeypatch):
    """Of one sample fewer blocks, the last one always; of one that does not fit with it, nothing."""
    whole = len(fragment(run).html)
    monkeypatch.setattr(embed, "MOST", 0.6 * whole)
    monkeypatch.setitem(embed.STATIC, "viewer.js", "")
    small = fragment(run)
    blocks = [int(path.rpartition("/")[2]) for path in held(small) if "block" in path]
    assert blocks in ([7, 5, 3, 1], [7, 3], [7])
    assert len(small.html) < 0.6 * whole + 400
    monkeypatch.setattr(embed, "MOST", 1000)
    assert fragment(run) is None


def test_in_a_report(run):
    """One fragment: its script is the one whose hash is given, and no datum ends it."""
    found = fragment(run)
    scripts = re.findall(r"<script type=\"module\">(.*?)</script>", found.html, re.S)
    assert len(scripts) == 1
    assert found.script_hash == f"'sha256-{b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()}'"
    pieces = held(found)
    assert [s["id"] for s in pieces["index"][0]["samples"]] == [run.looks["sample"][0]]
    assert pieces["0/sample/0"]["lens"]["states"] == list(range(9))
    assert [path for path in pieces if "block" in path] == [f"0/sample/0/block/{block}" for block in reversed(range(8))]
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", found.html)
    assert fragment(run, ["nobody"]) is None


def test_the_same_script_in_all_places(server, run):
    assert ask(server, "/static/viewer.js")[2].decode() == STATIC["viewer.js"] == joined()
    assert joined() in fragment(run).html


def test_in_a_notebook(run):
    pytest.importorskip("anywidget")
    widget = medlens.view(run, run.path)
    assert widget._esm == joined()
    sent = []
    widget.send = lambda content, buffers: sent.append((content, buffers))
    wrong = ({"path": "2/sample/0"}, {"path": "0/sample/-1"}, {"path": 7}, {})
    for asked in ({"path": "index"}, {"path": "1/sample/0"}, *wrong):
        widget._handle_custom_msg(asked, [])
    assert [said["failed"] for said, _ in sent] == [None] * 2 + ["nothing is here"] * 4
    assert [about["run"] for about in inflated(sent[0][1][0])] == ["run", "run"]
    assert inflated(sent[1][1][0])["id"] == run.looks["sample"][0]


def test_a_damaged_run_in_a_notebook(run, tmp_path):
    pytest.importorskip("anywidget")
    place = shutil.copytree(run.path, tmp_path / "run")
    widget, sent = medlens.view(place), []
    widget.send = lambda content, buffers: sent.append((content, buffers))
    (place / "lens.parquet").write_bytes(b"PAR1 but no more")
    widget._handle_custom_msg({"path": "0/sample/0"}, [])
    assert "damaged" in sent[0][0]["failed"]
    assert sent[0][1] == []


def test_a_notebook_without_anywidget(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(BadInput, match=r"pip install 'medlens\[notebook\]'"):
        medlens.view(run)
