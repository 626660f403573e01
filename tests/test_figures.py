"""The figures of LLaVA-Med's questions, from a server on this machine that stops, lies and is hostile."""

import io
import json
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from medlens.data import figures as module
from medlens.data.figures import fetch_figures, figures, missing
from medlens.errors import BadData

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))


def jpeg():
    buffer = io.BytesIO()
    PICTURE.save(buffer, "JPEG")
    return buffer.getvalue()


def archive(members):
    """A tar.gz of (name, bytes or TarInfo)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for name, content in members:
            if isinstance(content, bytes):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                opened.addfile(entry, io.BytesIO(content))
            else:
                opened.addfile(content)
    return buffer.getvalue()


class Server:
    """Serves `files`; `cut` at so many bytes the first time an address is asked for; notes what was asked."""

    def __init__(self, ranges=True):
        self.files, self.cut, self.asked, owner = {}, {}, [], self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner.asked.append((self.path, self.headers.get("Range")))
                data = owner.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and ranges else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                self.wfile.write(data[start : owner.cut.pop(self.path, None)])

            def log_message(self, *_): ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.http.server_port}/{name}"


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def any_server(request):
    server = Server(request.param)
    yield server
    server.http.shutdown()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()


def lists(folder, server, *names, member="{}/figure.jpg"):
    lines = [{"pmc_tar_url": server.url(f"{n}.tar.gz"), "image_file_path": member.format(n), "pair_id": f"{n}_F1"} for n in names]
    folder.mkdir(exist_ok=True)
    (folder / "llava_med_image_urls_eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_figures_are_fetched_once(tmp_path, server):
    server.files = {f"/{n}.tar.gz": archive([(f"{n}/other.txt", b"x"), (f"{n}/figure.jpg", jpeg())]) for n in ("A", "B")}
    lists(tmp_path / "q", server, "A", "B")
    ticks = []
    assert fetch_figures(tmp_path / "q", lambda: ticks.append(1)) == []
    assert (tmp_path / "q" / "images" / "A_F1.jpg").read_bytes() == jpeg()
    assert sorted(p.name for p in (tmp_path / "q" / "images").iterdir()) == ["A_F1.jpg", "B_F1.jpg"]
    assert len(ticks) == 2
    asked = len(server.asked)
    assert fetch_figures(tmp_path / "q") == []
    assert len(server.asked) == asked


def test_a_download_that_was_cut_off_goes_on(tmp_path, any_server):
    data = archive([("A/figure.jpg", jpeg())])
    any_server.files, any_server.cut = {"/A.tar.gz": data}, {"/A.tar.gz": 5000}
    lists(tmp_path / "q", any_server, "A")
    (failed,) = fetch_figures(tmp_path / "q")
    assert f"cut off at 5000 of {len(data)} bytes; the same command goes on" in failed or "cannot be fetched now" in failed
    assert (tmp_path / "q" / "archives" / "A.tar.gz.part").stat().st_size == 5000
    assert fetch_figures(tmp_path / "q") == []
    assert any_server.asked[1] == ("/A.tar.gz", "bytes=5000-")
    assert (tmp_path / "q" / "images" / "A_F1.jpg").read_bytes() == jpeg()


def _link(name, target):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("A/other.jpg", b"x")], "does not hold A/figure.jpg"),
        ([("A/figure.jpg", b"no image at all")], "is no image that can be read"),
        ([("A/figure.jpg", _link("A/figure.jpg", "/etc/passwd"))], "is no ordinary file"),
    ],
    ids=["another file", "no image", "a link"],
)
def test_archives_that_hold_something_else(tmp_path, server, members, says):
    server.files = {"/A.tar.gz": archive(members)}
    lists(tmp_path / "q", server, "A")
    (failed,) = fetch_figures(tmp_path / "q")
    assert says in failed
    assert list((tmp_path / "q" / "images").iterdir()) == []


def test_a_hostile_archive_writes_nothing_outside(tmp_path, server):
    """Members that would climb out are never unpacked: only the one that is wanted is read."""
    server.files = {"/A.tar.gz": archive([("../../evil", b"x"), ("/tmp/evil", b"x"), ("A/figure.jpg", jpeg())])}
    lists(tmp_path / "q", server, "A")
    assert fetch_figures(tmp_path / "q") == []
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["q/archives/A.tar.gz", "q/images/A_F1.jpg", "q/llava_med_image_urls_eval.jsonl"]


def test_a_damaged_archive_is_fetched_again(tmp_path, server):
    good = archive([("A/figure.jpg", jpeg())])
    server.files = {"/A.tar.gz": good[: len(good) // 2] + bytes(len(good) // 2)}
    lists(tmp_path / "q", server, "A")
    (failed,) = fetch_figures(tmp_path / "q")
    assert "A.tar.gz is damaged" in failed
    server.files = {"/A.tar.gz": good}
    assert fetch_figures(tmp_path / "q") == []


def test_what_is_too_large_is_left_out(tmp_path, server, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_ARCHIVE", 1000)
    server.files = {"/A.tar.gz": archive([("A/figure.jpg", jpeg())])}
    lists(tmp_path / "q", server, "A")
    assert "more than any archive" in fetch_figures(tmp_path / "q")[0]


def test_one_that_is_not_there_does_not_stop_the_others(tmp_path, server):
    server.files = {"/B.tar.gz": archive([("B/figure.jpg", jpeg())])}
    lists(tmp_path / "q", server, "A", "B")
    (failed,) = fetch_figures(tmp_path / "q")
    assert failed.endswith("A.tar.gz: the server says 404 Not Found")
    assert [f.name for f in missing(tmp_path / "q", figures(tmp_path / "q"))] == ["A_F1.jpg"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: expected JSON"),
        ("{}", "line 1: expected JSON with pmc_tar_url"),
        ('{"pmc_tar_url": "file:///etc/passwd", "image_file_path": "a", "pair_id": "b"}', "no web address"),
        ('{"pmc_tar_url": "http://x/a.tar.gz", "image_file_path": "a", "pair_id": "../../b"}', "no plain file name"),
        ('{"pmc_tar_url": "http://x/..", "image_file_path": "a", "pair_id": "b"}', "no plain file name"),
    ],
)
def test_lists_that_make_no_sense(tmp_path, line, says):
    (tmp_path / "llava_med_image_urls_eval.jsonl").write_text(line + "\n")
    with pytest.raises(BadData, match=says):
        figures(tmp_path)


def test_the_real_list(real_data):
    wanted = figures(real_data / "llava_med")
    assert len(wanted) == 50
    assert len({f.name for f in wanted}) == 50
    asked = {json.loads(line)["image"] for line in (real_data / "llava_med" / "llava_med_eval_qa50_qa.jsonl").open()}
    assert {f.name for f in wanted} == asked


def test_the_command(tmp_path, server):
    server.files = {"/A.tar.gz": archive([("A/figure.jpg", jpeg())])}
    lists(tmp_path / "qa50", server, "A", "B")
    command = [sys.executable, "-c", "from medlens.cli import main; main()", "data", "qa50"]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert listed.stdout == "0 of 2 figures are here; 2 archives to fetch: qa50/archives.txt\n"
    assert server.asked == []
    assert (tmp_path / "qa50" / "archives.txt").read_text().splitlines() == [server.url("A.tar.gz"), server.url("B.tar.gz")]
    fetched = subprocess.run([*command, "--download"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert fetched.returncode == 2
    assert "1 of 2 figures are in qa50/images" in fetched.stdout
    assert "B.tar.gz: the server says 404" in fetched.stderr
    nowhere = subprocess.run([*command, "--out", "nowhere"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert nowhere.returncode == 2
    assert "holds no list of figures" in nowhere.stderr
