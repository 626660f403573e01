"""A CSV file of questions, one a row, fields named in its first line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from medlens.data.fields import Bad, to_sample
from medlens.errors import BadData
from medlens.types import Sample


def read_csv(path: Path, question: str | None, bad: Bad) -> Iterator[Sample]:
    """Fields as in `fields.to_sample`; rows that cannot be read go to `bad`, named by line."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            if "image" not in (rows.fieldnames or ()):
                raise BadData(f"{path.name} line 1: no column `image`; got {', '.join(rows.fieldnames or ()) or 'an empty file'}")
            for number, row in enumerate(rows, start=1):
                try:
                    yield to_sample(
                        _whole(row, path, rows.line_num), f"{path.name} line {rows.line_num}", path.parent, number, question
                    )
                except BadData as e:
                    bad(e)
        except (csv.Error, UnicodeDecodeError) as e:
            raise BadData(f"{path.name} line {rows.line_num + 1}: {e}") from e


def _whole(row: dict[str, str], path: Path, line: int) -> dict[str, str]:
    if None in row:
        raise BadData(f"{path.name} line {line}: more fields than the first line names")
    return row
