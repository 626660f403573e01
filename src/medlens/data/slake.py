"""SLAKE (Liu et al. 2021, arXiv:2102.09542): radiology questions in English and Chinese, with boxes and organ masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from medlens.data.boxes import box_on
from medlens.data.fields import Bad, closed_or_open, is_file, to_samples
from medlens.data.jsonlines import first_fields, records
from medlens.data.masks import labels_of
from medlens.data.parts import test_set
from medlens.errors import BadData, BadInput
from medlens.jsontext import parse
from medlens.types import Region, Sample

LANGUAGES = ("en", "zh")


def is_slake(path: Path) -> bool:
    """A folder that holds such a file, or the file."""
    if path.is_dir():
        return any(map(is_slake, path.glob("*.json")))
    return path.suffix.lower() == ".json" and {"img_name", "q_lang"} <= first_fields(path)


def read_slake(path: Path, question: str | None, bad: Bad, language: str = "en") -> Iterator[Sample]:
    """The named file of questions; of a folder, `test.json`. One language at a time: its halves divide the images differently.

    Images are in `imgs/xmlab<id>/source.jpg`. Regions: the boxes of `detection.json` ("Liver (box)") and the labels of `mask.png`,
    named by `mask.txt`. Tags: language, answer_type ("closed" or "open"), modality, location, base_type.
    """
    if language not in LANGUAGES:
        raise BadInput(f"SLAKE's languages are {', '.join(LANGUAGES)}; got {language!r}")
    file = test_set(path, filter(is_slake, path.glob("*.json"))) if path.is_dir() else path
    if not (file.parent / "imgs").is_dir():
        raise BadData(f"{file.name}: no folder imgs/ beside it; unpack the data set's imgs.zip there")
    names = _names(file.parent / "mask.txt")
    regions = lru_cache(maxsize=None)(partial(_regions, names))  # once an image, not once a question
    return to_samples(records(file, bad), file.parent, question, bad, partial(_known, file.parent / "imgs", language, regions))


def _known(images: Path, language: str, regions: Any, record: dict[str, Any]) -> dict[str, Any] | None:
    if record["q_lang"] != language:
        return None
    name = record["img_name"]
    return {
        "id": record["qid"],
        "image": f"imgs/{name}",
        "image_id": record.get("img_id"),
        "question": record["question"],
        "answer": record.get("answer"),
        "question_type": record.get("content_type"),
        "mask": regions(images / str(name)),
        "language": language,
        "answer_type": closed_or_open(record.get("answer_type")),
        "modality": record.get("modality"),
        "location": record.get("location"),
        "base_type": record.get("base_type"),
    }


def _regions(names: dict[int, str], image: Path) -> tuple[Region, ...]:
    boxes, labels = image.with_name("detection.json"), image.with_name("mask.png")
    found = _boxes(boxes, image) if is_file(boxes) else []
    return (*found, *(labels_of(labels, names) if is_file(labels) else []))


def _boxes(file: Path, image: Path) -> list[Region]:
    """detection.json: [{name: [x, y, width, height]}, ...], in pixels."""
    try:
        listed = [pair for entry in parse(file.read_text(encoding="utf-8-sig")) for pair in entry.items()]
        boxes = [(name, (float(x), float(y), float(w), float(h))) for name, (x, y, w, h) in listed]
    except (ValueError, TypeError, AttributeError) as e:
        raise BadData(f"{file.parent.name}/{file.name} is not a list of {{name: [x, y, width, height]}}") from e
    return [Region(f"{name} (box)", draw=partial(box_on, image, box)) for name, box in boxes]


def _names(file: Path) -> dict[int, str]:
    """mask.txt: a line `<value>:<name>` for each label."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
        return {int(value): name.strip() for value, name in (line.split(":", 1) for line in lines if line.strip())}
    except ValueError as e:
        raise BadData(f"{file.name} is not a list of lines `<value>:<name>`: {e}") from e
