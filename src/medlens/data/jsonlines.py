"""A JSON-lines file of questions (one object a line), or a JSON file with a list of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medlens.data.fields import Bad, to_sample
from medlens.errors import BadData
from medlens.types import Sample


def read_json(path: Path, question: str | None, bad: Bad) -> Iterator[Sample]:
    """Fields as in `fields.to_sample`; records that cannot be read go to `bad`, named by line (or by number, in a list)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadData(f"{path.name} is not UTF-8 text; save it as UTF-8") from e
    listed = path.suffix.lower() == ".json" and text.lstrip().startswith("[")
    records = _list(text, path) if listed else _lines(text, path, bad)
    for number, (where, record) in enumerate(records, start=1):
        try:
            if not isinstance(record, dict):
                raise BadData(f"{where}: {record!r} is not an object with fields")
            yield to_sample(record, where, path.parent, number, question)
        except BadData as e:
            bad(e)


def _list(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise BadData(f"{path.name} is not JSON: {e}") from e
    for number, record in enumerate(records, start=1):
        yield f"{path.name} record {number}", record


def _lines(text: str, path: Path, bad: Bad) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as e:
            bad(BadData(f"{where} is not JSON: {e}"))
