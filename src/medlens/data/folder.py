"""A folder of images, each asked the same question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medlens.data.dicom import is_dicom
from medlens.data.fields import Bad
from medlens.data.images import SUFFIXES
from medlens.errors import BadData
from medlens.types import Sample


def read_folder(path: Path, question: str | None, bad: Bad) -> Iterator[Sample]:
    """Every image below the folder (DICOM files by ending or mark), by name, asked `question`. Hidden files and other kinds
    of files are passed over.
    """
    if question is None:
        raise BadData(f"{path} is a folder of images and holds no questions: give one (--question, question=) or a file of them")
    for file in sorted(p for p in path.rglob("*") if not p.name.startswith(".") and _is_image(p)):
        name = file.relative_to(path).as_posix()
        yield Sample(image=file, question=question, id=name)


def _is_image(path: Path) -> bool:
    named = path.suffix.lower() in SUFFIXES and not path.is_dir()  # a link that leads nowhere, too: it is missed when it is opened
    return named or (path.is_file() and is_dicom(path))
