"""Files of questions: CSV, JSON, parquet, the published data sets, lists of figures; read as `study` reads them, images and all."""

from __future__ import annotations

import csv
import gzip
import os
import random
import tarfile
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from tools.fuzz import mutate
from tools.fuzz.pictures import dicom, png
from tools.fuzz.target import Read, Target

from medlens.data import figures as figures_
from medlens.data import read
from medlens.data.intake import take_in

RECORD = {
    "image": "i.png", "question": "is there a lesion ?", "answer": "yes", "id": "a", "mask": "i.png", "question_type": "presence",
    "image_id": "i1", "patient_id": "p1", "organ": "lung",
}  # fmt: skip
VQA_RAD = {
    "qid": 1,
    "image_name": "i.png",
    "image_organ": "HEAD",
    "question": "q ?",
    "answer": "yes",
    "answer_type": "CLOSED ",
    "question_type": "PRES",
}
SLAKE = {
    "img_name": "x/source.jpg",
    "q_lang": "en",
    "qid": 1,
    "question": "q ?",
    "answer": "yes",
    "img_id": 1,
    "answer_type": "OPEN",
}
PATH_VQA = {"sent": "q ?", "img_id": "test_0001", "label": {"yes": 1}, "answer_type": "yes/no"}
LLAVA = {
    "question_id": 1,
    "image": "i.png",
    "pair_id": "1",
    "text": "q ?\n<image>",
    "fig_caption": "c",
    "domain": {"ct": True},
    "type": "conversation",
}


def _take(path: Path, **options: Any) -> object:
    return take_in(read(path, "what is it ?", **options))


def _beside(folder: Path, rng: random.Random) -> None:
    """The images that records name; among them links and no images at all."""
    (folder / "images").mkdir()
    for place in (folder, folder / "images"):
        kind = rng.randrange(8)
        if kind == 0:
            (place / "i.png").symlink_to(rng.choice(("/dev/zero", "i.png", "../../outside", "/etc/passwd")))
        elif kind == 1:
            os.mkfifo(place / "i.png")
        else:
            (place / "i.png").write_bytes(png() if kind < 6 else mutate.some_bytes(png(), rng))


def _records(rng: random.Random) -> list[Any]:
    return [dict(RECORD, id=str(k)) if rng.random() < 0.5 else mutate.some_json(RECORD, rng) for k in range(rng.choice((1, 2, 5)))]


def _csv(_: Any, folder: Path, rng: random.Random) -> Read:
    _beside(folder, rng)
    text, records = StringIO(), _records(rng)
    writer = csv.writer(text)
    writer.writerow(RECORD)
    for record in records:
        writer.writerow([str(v) for v in record.values()] if isinstance(record, dict) else [str(record)])
    data = text.getvalue().encode("utf-8", "surrogatepass")
    (folder / "q.csv").write_bytes(mutate.some_bytes(data, rng) if rng.random() < 0.6 else data)
    return lambda: _take(folder / "q.csv")


def _json(_: Any, folder: Path, rng: random.Random) -> Read:
    _beside(folder, rng)
    records, ending = _records(rng), rng.choice((".json", ".jsonl"))
    lines = [mutate.as_text(record) for record in records]
    data = ("[" + ",".join(lines) + "]" if ending == ".json" else "\n".join(lines)).encode("utf-8", "surrogatepass")
    (folder / f"q{ending}").write_bytes(mutate.some_bytes(data, rng) if rng.random() < 0.4 else data)
    return lambda: _take(folder / f"q{ending}")


def _folder(_: Any, folder: Path, rng: random.Random) -> Read:
    """Of images, with links that lead outward and in a circle, pipes, and names that hurt."""
    (folder / "a.png").write_bytes(png(1))
    for name in rng.sample(("b\n.png", "c;rm -rf.png", "<img src=x>.png", "d.dcm", "e", "ü\u202e.png", "-f.png"), 2):
        (folder / name).write_bytes(rng.choice((png(2), dicom(), b"", mutate.some_bytes(png(2), rng))))
    kind = rng.randrange(6)
    if kind == 0:
        (folder / "loop").symlink_to(folder, target_is_directory=True)
    elif kind == 1:
        (folder / "l.png").symlink_to(rng.choice(("/dev/zero", "l.png", "/dev/stdin", "/proc/self/mem")))
    elif kind == 2:
        os.mkfifo(folder / "p.png")
    elif kind == 3:
        (folder / "n.png").mkdir()
    return lambda: _take(folder)


def _published(_: Any, folder: Path, rng: random.Random) -> Read:
    _beside(folder, rng)
    name, seed, where = rng.choice((
        ("testset.json", VQA_RAD, folder), ("test.json", SLAKE, folder), ("test.jsonl", PATH_VQA, folder / "qas"),
        ("llava_med_eval_qa50_qa.jsonl", LLAVA, folder),
    ))  # fmt: skip
    where.mkdir(exist_ok=True)
    (folder / "imgs/x").mkdir(parents=True)
    (folder / "imgs/x/source.jpg").write_bytes(png())
    (folder / "imgs/x/mask.png").write_bytes(mutate.some_bytes(png(), rng) if rng.random() < 0.5 else png())
    boxes = mutate.some_json([{"Liver": [1, 2, 5, 6]}], rng) if rng.random() < 0.5 else [{"Liver": [1, 2, 5, 6]}]
    (folder / "imgs/x/detection.json").write_bytes(mutate.as_text(boxes).encode("utf-8", "surrogatepass"))
    (folder / "mask.txt").write_bytes(rng.choice((b"", b"1:a\n2:b\n", b"1:a\nx", b"\xff", b"9" * 10_000 + b":a")))
    (folder / "images/test").mkdir()
    (folder / "images/test/test_0001.jpg").write_bytes(png())
    lines = [mutate.as_text(mutate.some_json(seed, rng) if rng.random() < 0.7 else seed) for _ in range(2)]
    text = "[" + ",".join(lines) + "]" if name.endswith(".json") else "\n".join(lines)
    (where / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    return lambda: _take(rng.choice((folder, where / name)))


def _table_seeds(folder: Path) -> list[tuple[str, bytes]]:
    import polars as pl

    image = {"bytes": png(), "path": "../../x/i.png"}
    frame = pl.DataFrame([{**RECORD, "id": str(k), "image": image, "mask": None, "n": k, "l": [1, 2]} for k in range(4)])
    made = []
    for compression in ("uncompressed", "snappy", "zstd", "gzip"):
        buffer = BytesIO()
        frame.write_parquet(buffer, compression=compression)
        made.append(("q.parquet", buffer.getvalue()))
    buffer = BytesIO()
    frame.write_ipc_stream(buffer)
    made.append(("q.arrow", buffer.getvalue()))
    return made


def _table(seeds: list[tuple[str, bytes]], folder: Path, rng: random.Random) -> Read:
    name, data = rng.choice(seeds)
    (folder / name).write_bytes(mutate.some_bytes(data, rng))
    if name.endswith(".arrow"):
        state = {"_data_files": [{"filename": name}]}
        (folder / "state.json").write_text(mutate.as_text(mutate.some_json(state, rng) if rng.random() < 0.3 else state))
    return lambda: _take(folder if name.endswith(".arrow") else folder / name)


def _archive(rng: random.Random) -> bytes:
    """A tar with members that lead outward, links, and one that claims to be larger than it is."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name in ("../../outside/slip.jpg", "/tmp/slip.jpg", "a/f.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = len(png())
            kind = rng.randrange(6)
            if kind < 3:
                entry.type, entry.size, entry.linkname = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)[kind], 0, "/etc/passwd"
            made.addfile(entry, BytesIO(png()) if entry.size else None)
    data = buffer.getvalue()
    data = mutate.some_bytes(data, rng) if rng.random() < 0.5 else data
    packed = gzip.compress(data, 1)
    return mutate.some_bytes(packed, rng) if rng.random() < 0.3 else packed


def _figure(_: Any, folder: Path, rng: random.Random) -> Read:
    line = {
        "pmc_tar_url": "https://example.org/a.tar.gz",
        "image_file_path": rng.choice(("a/f.jpg", "../../outside/slip.jpg")),
        "pair_id": "1",
    }
    changed = mutate.some_json(line, rng) if rng.random() < 0.5 else line
    (folder / "llava_med_image_urls_eval.jsonl").write_text(mutate.as_text(changed), errors="replace")
    (folder / "archives").mkdir()
    (folder / "archives/a.tar.gz").write_bytes(_archive(rng))

    def reading() -> None:
        for figure in figures_.figures(folder):
            archive = folder / "archives" / "a.tar.gz"
            figures_._keep(figures_._member(archive, figure), figure, folder / figure.name)

    return reading


def _nothing(_: Path) -> None:
    return None


TARGETS = (
    Target("csv", 8, _nothing, _csv),
    Target("json", 9, _nothing, _json),
    Target("folder", 3, _nothing, _folder),
    Target("published sets", 7, _nothing, _published),
    Target("tables", 6, _table_seeds, _table, aborts=True),
    Target("figures", 4, _nothing, _figure),
)
