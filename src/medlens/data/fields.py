"""From the fields of one record to a sample: what CSV and JSON-lines files have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medlens.errors import BadData
from medlens.types import Region, Sample

KNOWN = ("id", "image", "images", "question", "answer", "question_type", "image_id", "patient_id", "mask")
Bad = Callable[[BadData], None]  # what is done with a record that cannot be read: raise it, or write it down


def to_sample(record: Mapping[str, Any], where: str, root: Path, number: int, question: str | None) -> Sample:
    """A sample from the fields `image` (or `images`), `question`, `answer`, `mask`, `id`, `question_type`, `image_id`,
    `patient_id`; paths are relative to `root`; all other fields become tags. Raises BadData, beginning with `where`.
    """
    given = {k: v for k, v in record.items() if v is not None and v != ""}
    names = given.get("images") or given.get("image")
    if not names:
        raise BadData(f"{where}: no image; the field `image` names a file relative to {root.name}/")
    if not isinstance(names, list):
        names = [names]
    asked = given.get("question", question)
    if asked is None:
        raise BadData(f"{where}: no question; fill the field `question` or say --question")
    return Sample(
        images=[_file(root, name, where, "image") for name in names],
        turns=[_text(asked, where, "question")],
        id=str(given.get("id", f"{number:04d}")),
        answer=_optional(given, "answer"),
        question_type=_optional(given, "question_type"),
        image_id=_optional(given, "image_id"),
        patient_id=_optional(given, "patient_id"),
        regions=[Region("mask", mask_path=_file(root, given["mask"], where, "mask"))] if "mask" in given else [],
        tags={k: v for k, v in given.items() if k not in KNOWN},
    )


def _file(root: Path, name: Any, where: str, field: str) -> Path:
    path = root / _text(name, where, field)
    if not path.is_file():
        raise BadData(f"{where}: {field} {name} does not exist below {root.name}/")
    return path


def _text(value: Any, where: str, field: str) -> str:
    if not isinstance(value, str):
        raise BadData(f"{where}: {field} is {value!r}; expected text")
    return value


def _optional(given: Mapping[str, Any], field: str) -> str | None:
    return str(given[field]) if field in given else None
