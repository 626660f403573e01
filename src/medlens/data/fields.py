"""From the fields of one record to a sample: what CSV and JSON-lines files have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medlens.data.masks import regions_of
from medlens.errors import BadData
from medlens.types import Embedded, ImageLike, Region, Sample

KNOWN = ("id", "image", "images", "question", "answer", "question_type", "image_id", "patient_id", "mask")
Bad = Callable[[BadData], None]  # what is done with a record that cannot be read: raise it, or write it down


def to_samples(
    records: Iterable[tuple[str, Any]],
    root: Path,
    question: str | None,
    bad: Bad,
    rename: Callable[[dict[str, Any]], Mapping[str, Any] | None] = dict,
) -> Iterator[Sample]:
    """Samples from (where, record) pairs; what cannot be read goes to `bad`. `rename` gives a data set's own fields the names that
    `to_sample` knows, and None for a record that is not asked for.
    """
    for number, (where, record) in enumerate(records, start=1):
        try:
            if not isinstance(record, dict):
                raise BadData(f"{where}: {record!r} is not an object with fields")
            if (known := _renamed(record, where, rename)) is not None:
                yield to_sample(known, where, root, number, question)
        except BadData as e:
            bad(e)


def _renamed(record: dict[str, Any], where: str, rename: Callable[[dict[str, Any]], Any]) -> Mapping[str, Any] | None:
    try:
        return rename(record)
    except KeyError as e:
        raise BadData(f"{where}: no field {e}; got {', '.join(map(str, record))}") from e


def closed_or_open(answer_type: Any) -> Any:
    """`"CLOSED "` and the like as "closed"; anything that is not text as it is."""
    return answer_type.strip().lower() if isinstance(answer_type, str) else answer_type


def to_sample(record: Mapping[str, Any], where: str, root: Path, number: int, question: str | None) -> Sample:
    """A sample from the fields `image` (or `images`), `question`, `answer`, `mask`, `id`, `question_type`, `image_id`,
    `patient_id`; paths are relative to `root`; all other fields become tags. Raises BadData, beginning with `where`.
    """
    given = {k: v for k, v in record.items() if v is not None and v != ""}
    if "image" in given and "images" in given:
        raise BadData(f"{where}: both `image` and `images`; give one of them")
    names = given.get("images") or given.get("image")
    if not names:
        raise BadData(f"{where}: no image; the field `image` names a file relative to {root.name}/")
    if not isinstance(names, list):
        names = [names]
    asked = given.get("question", question)
    if asked is None:
        raise BadData(f"{where}: no question; fill the field `question`, or give one for all (--question, question=)")
    images = [name if isinstance(name, Embedded) else _file(root, name, where, "image") for name in names]
    return Sample(
        images=images,
        turns=[_text(asked, where, "question")],
        id=_optional(given, "id", where) or f"{number:04d}",
        answer=_optional(given, "answer", where),
        question_type=_optional(given, "question_type", where),
        image_id=_optional(given, "image_id", where),
        patient_id=_optional(given, "patient_id", where),
        regions=_regions(given, images[0], root, where),
        tags={k: v for k, v in given.items() if k not in KNOWN},
    )


def _regions(given: Mapping[str, Any], image: ImageLike, root: Path, where: str) -> Sequence[Region]:
    """What `mask` names; a reader may also have drawn its regions itself (a tuple: no file's field is one)."""
    mask = given.get("mask", ())
    if isinstance(mask, tuple):
        return mask
    file = _file(root, mask, where, "mask")
    try:
        return regions_of(file, image)
    except BadData as e:
        raise type(e)(f"{where}: {e}") from e


def _file(root: Path, name: Any, where: str, field: str) -> Path:
    path = root / _text(name, where, field)
    if not is_file(path):
        why = "is a link; links are not fetched" if "://" in str(name) else f"does not exist below {root.name}/"
        raise BadData(f"{where}: {field} {name} {why}")
    return path


def is_file(path: Path) -> bool:
    """Whether it is one; a name that no file system takes is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _text(value: Any, where: str, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadData(f"{where}: {field} is {value!r}; expected text")
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise BadData(f"{where}: {field} holds half a character (a lone surrogate): {value!a}") from e
    return value


def _optional(given: Mapping[str, Any], field: str, where: str) -> str | None:
    """Text, or a number as text (VQA data have integer answers)."""
    value = given.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        raise BadData(f"{where}: {field} is {value!r}; expected text or a number")
    return _text(str(value), where, field)
