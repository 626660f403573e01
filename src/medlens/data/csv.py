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
            _check_fields(list(rows.fieldnames or ()), path)
            for number, row in enumerate(rows, start=1):
                try:
                    yield to_sample(
                        _whole(row, path, rows.line_num), f"{path.name} line {rows.line_num}", path.parent, number, question
                    )
                except BadData as e:
                    bad(e)
        except UnicodeDecodeError as e:
            raise BadData(f"{path.name} is not UTF-8 text (after line {rows.line_num}); save it as UTF-8") from e
        except csv.Error as e:
            raise BadData(f"{path.name} line {rows.line_num + 1}: {e}") from e


def _check_fields(fields: list[str], path: Path) -> None:
    if "image" not in fields and "images" not in fields:
        hint = "; separate fields with commas" if any(c in f for f in fields for c in ";\t") else "; names are lower case"
        raise BadData(f"{path.name} line 1: no column `image`; got {', '.join(fields) + hint if fields else 'an empty file'}")
    if twice := sorted({f for f in fields if fields.count(f) > 1}):
        raise BadData(f"{path.name} line 1: the column {twice[0]!r} comes twice")


def _whole(row: dict[str, str], path: Path, line: int) -> dict[str, str]:
    if None in row:
        raise BadData(f"{path.name} line {line}: more fields than the first line names")
    return row
