"""A folder of images, each asked the same question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medlens.data.fields import Bad
from medlens.data.images import SUFFIXES
from medlens.errors import BadData
from medlens.types import Sample


def read_folder(path: Path, question: str | None, bad: Bad) -> Iterator[Sample]:
    """Every image below the folder, by name, asked `question`. Hidden files and other kinds of files are passed over."""
    if question is None:
        raise BadData(f"{path} is a folder of images and holds no questions: give one (--question, question=) or a file of them")
    for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")):
        name = file.relative_to(path).as_posix()
        yield Sample(image=file, question=question, id=name)
