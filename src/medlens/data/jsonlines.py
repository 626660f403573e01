"""A JSON-lines file of questions (one object a line), or a JSON file with a list of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medlens.data.fields import Bad, to_samples
from medlens.errors import BadData
from medlens.jsontext import parse
from medlens.types import Sample

HEAD = 2**18  # characters: more than one record is ever long


def read_json(path: Path, question: str | None, bad: Bad) -> Iterator[Sample]:
    """Fields as in `fields.to_sample`; records that cannot be read go to `bad`, named by line (or by number, in a list)."""
    return to_samples(records(path, bad), path.parent, question, bad)


def records(path: Path, bad: Bad) -> Iterator[tuple[str, Any]]:
    """Every record of the file, with what to call it in an error. Raises BadData where the file is not JSON text at all."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadData(f"{path.name} is not UTF-8 text; save it as UTF-8") from e
    listed = path.suffix.lower() == ".json" and text.lstrip().startswith("[")
    return _list(text, path) if listed else _lines(text, path, bad)


def first_fields(path: Path) -> set[str]:
    """The fields of the file's first record, by which a layout is known; none where its beginning is not such a record."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.read(HEAD).lstrip().removeprefix("[").lstrip()
        record, _ = json.JSONDecoder().raw_decode(head)
    except (OSError, ValueError, RecursionError):
        return set()
    return set(record) if isinstance(record, dict) else set()


def _list(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        records = parse(text)
    except ValueError as e:
        raise BadData(f"{path.name} is not JSON: {e}") from e
    for number, record in enumerate(records, start=1):
        yield f"{path.name} record {number}", record


def _lines(text: str, path: Path, bad: Bad) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            yield where, parse(line)
        except ValueError as e:
            bad(BadData(f"{where} is not JSON: {e}"))
