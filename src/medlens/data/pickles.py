"""Pickles are refused: opening one runs whatever code its writer put into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medlens.data.fields import Bad
from medlens.errors import BadData
from medlens.types import Sample


def is_pickle(path: Path) -> bool:
    """By its ending; it is not opened."""
    return path.is_file() and path.suffix.lower() in (".pkl", ".pickle")


def refuse_pickle(path: Path, question: str | None, bad: Bad) -> Iterator[Sample]:
    """Always raises BadData, with what to do instead."""
    raise BadData(
        f"{path.name} is a pickle, which runs code when it is opened, and is not read; use the data set's parquet form, or have "
        f"whoever trusts the file write its list of records as {path.stem}.json beside it"
    )
