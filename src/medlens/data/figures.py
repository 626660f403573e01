"""Fetch the figures of LLaVA-Med's questions: their authors publish a list of PubMed Central archives, not the images.

Nothing is unpacked: of every archive the one member that the list names is read, checked to be an image, and written under a name
of our own. A download that was stopped goes on where it was.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from medlens.data.images import open_image
from medlens.errors import BadData, BadImage, CannotWrite
from medlens.jsontext import parse
from medlens.types import Embedded

LIST = "*image_urls_eval.jsonl"
LARGEST_ARCHIVE = 2**31  # bytes
LARGEST_FIGURE = 2**27
CHUNK = 2**18
PATIENCE = 30  # seconds without a byte


@dataclass(frozen=True)
class Figure:
    """One line of the list: the archive's address, the member in it, and the figure's name with the questions."""

    url: str
    member: str
    name: str

    @property
    def archive(self) -> str:
        return PurePosixPath(self.url).name


def figures(folder: Path) -> list[Figure]:
    """The figures that the authors' list in this folder names. Raises BadData, naming the line."""
    found = sorted(folder.glob(LIST))
    if not found:
        raise BadData(f"{folder} holds no list of figures ({LIST}); it is published with LLaVA-Med's questions: copy it there")
    return [
        _figure(line, f"{found[0].name} line {k}")
        for k, line in enumerate(found[0].read_text("utf-8").splitlines(), 1)
        if line.strip()
    ]


def _figure(line: str, where: str) -> Figure:
    try:
        record = parse(line)
        figure = Figure(str(record["pmc_tar_url"]), str(record["image_file_path"]), f"{record['pair_id']}.jpg")
    except (ValueError, KeyError, TypeError) as e:
        raise BadData(f"{where}: expected JSON with pmc_tar_url, image_file_path and pair_id") from e
    if not figure.url.startswith(("https://", "http://")):
        raise BadData(f"{where}: {figure.url[:80]!r} is no web address")
    if not re.fullmatch(r"[\w.-]+", figure.name) or not re.fullmatch(r"[\w.-]+", figure.archive) or figure.archive.startswith("."):
        raise BadData(f"{where}: {figure.name[:80]!r} or {figure.archive[:80]!r} is no plain file name")
    return figure


def missing(folder: Path, wanted: Sequence[Figure]) -> list[Figure]:
    """Those whose image is not in `images/` yet."""
    return [figure for figure in wanted if not (folder / "images" / figure.name).is_file()]


def write_list(folder: Path) -> tuple[Path, int]:
    """Write the addresses of the archives that are still to be fetched to `archives.txt`, one a line: to fetch elsewhere."""
    archives = list(dict.fromkeys(figure.url for figure in missing(folder, figures(folder))))
    place = folder / "archives.txt"
    try:
        place.write_text("".join(f"{url}\n" for url in archives))
    except OSError as e:
        raise CannotWrite(f"{place} cannot be written: {e.strerror or e}") from e
    return place, len(archives)


def fetch_figures(folder: Path, tick: Callable[[], None] = lambda: None) -> list[str]:
    """Fetch what is missing into `folder`/images. Returns one line for each figure that could not be had; calls `tick` for each.

    Raises BadData for a broken list and CannotWrite.
    """
    failed = []
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "archives").mkdir(exist_ok=True)
        for figure in missing(folder, figures(folder)):
            try:
                archive = _download(figure.url, folder / "archives" / figure.archive)
                _keep(_member(archive, figure), figure, folder / "images" / figure.name)
            except BadData as e:
                failed.append(str(e))
            tick()
    except OSError as e:
        raise CannotWrite(f"cannot write below {folder}: {e.strerror or e}; what is done is kept") from e
    return failed


# ---- one archive


def _download(url: str, archive: Path) -> Path:
    """The whole archive, from where it stopped the last time."""
    if archive.is_file():
        return archive
    part = archive.with_name(archive.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            goes_on = have > 0 and answer.status == 206
            have = have if goes_on else 0
            size = have + int(answer.headers.get("Content-Length") or -have)
            if size > LARGEST_ARCHIVE:
                raise BadData(f"{url} has {size >> 20} MB, more than any archive of a paper; it is left out")
            with part.open("ab" if goes_on else "wb") as file:
                for chunk in _chunks(answer):
                    have += file.write(chunk)
    except urllib.error.HTTPError as e:
        raise BadData(f"{url}: the server says {e.code} {e.reason}") from e
    except (urllib.error.URLError, TimeoutError, HTTPException, ConnectionError) as e:
        raise BadData(
            f"{url} cannot be fetched now ({getattr(e, 'reason', e) or type(e).__name__}); the same command goes on"
        ) from e
    if size > 0 and have != size:
        raise BadData(f"{url} was cut off at {have} of {size} bytes; the same command goes on")
    part.rename(archive)
    return archive


def _chunks(answer: object) -> Iterator[bytes]:
    total = 0
    while chunk := answer.read(CHUNK):  # pyright: ignore[reportAttributeAccessIssue]
        total += len(chunk)
        if total > LARGEST_ARCHIVE:
            raise BadData(f"an archive is larger than {LARGEST_ARCHIVE >> 30} GB; it is left out")
        yield chunk


def _member(archive: Path, figure: Figure) -> bytes:
    """The one member that is wanted, read without unpacking anything. A damaged archive is removed, to be fetched again."""
    try:
        with gzip.open(archive) as whole:  # to its end, where its checksum stands
            while whole.read(CHUNK):
                pass
        with tarfile.open(archive, "r:gz") as opened:
            for entry in opened:
                if entry.name == figure.member:
                    if not entry.isfile() or entry.size > LARGEST_FIGURE:
                        raise BadData(f"{figure.archive}: {figure.member} is no ordinary file of a figure's size")
                    read = opened.extractfile(entry)
                    return read.read() if read else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as e:
        archive.unlink(missing_ok=True)
        raise BadData(f"{figure.archive} is damaged ({e}); it was removed: the same command fetches it again") from e
    raise BadData(f"{figure.archive} does not hold {figure.member}")


def _keep(data: bytes, figure: Figure, place: Path) -> None:
    try:
        open_image(Embedded(data, figure.name))
    except BadImage as e:
        raise BadData(f"{figure.archive}: {figure.member} is no image that can be read") from e
    part = place.with_name(place.name + ".part")
    part.write_bytes(data)
    part.rename(place)
