"""Reading data sets. A reader is one function `(path, question, bad) -> Iterator[Sample]`, in a file of its own, and a row here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from medlens.data.csv import read_csv
from medlens.data.dicom import is_dicom, open_dicom
from medlens.data.fields import Bad
from medlens.data.folder import read_folder
from medlens.data.grouping import duplicates, split
from medlens.data.images import SUFFIXES, open_image
from medlens.data.jsonlines import read_json
from medlens.data.llava_med import is_llava_med, read_llava_med
from medlens.data.path_vqa import is_path_vqa, read_path_vqa
from medlens.data.pickles import is_pickle, refuse_pickle
from medlens.data.slake import is_slake, read_slake
from medlens.data.tables import is_tables, read_tables
from medlens.data.vqa_rad import is_vqa_rad, read_vqa_rad
from medlens.errors import BadData, BadInput
from medlens.types import Sample

Reader = Callable[..., Iterator[Sample]]


class Layout(NamedTuple):
    """A data set known by how its files lie: `fits` looks at a folder or a file, `read` reads it."""

    name: str
    fits: Callable[[Path], bool]
    read: Reader


LAYOUTS = (
    Layout("VQA-RAD", is_vqa_rad, read_vqa_rad),
    Layout("LLaVA-Med qa50", is_llava_med, read_llava_med),
    Layout("SLAKE", is_slake, read_slake),
    Layout("PathVQA", is_path_vqa, read_path_vqa),
    Layout("pickle, refused", is_pickle, refuse_pickle),
    Layout("tables", is_tables, read_tables),
)
READERS: dict[str, Reader] = {".csv": read_csv, ".jsonl": read_json, ".ndjson": read_json, ".json": read_json}

__all__ = ["LAYOUTS", "READERS", "duplicates", "open_dicom", "open_image", "read", "split"]


def read(path: str | Path, question: str | None = None, bad: Bad | None = None, **options: Any) -> list[Sample]:
    """Read a data set: a folder or file in one of the `LAYOUTS`, a folder of images (asked `question`), or a file of questions.

    Files have the fields `image, question, answer, mask, id, question_type, image_id, patient_id`, of which `image` is needed;
    paths in them are relative to the file; other fields become tags. `question` is asked where a record has none.
    Of a published data set's folder the test set is read; name one of its files to read another.

    `options` go to the reader: SLAKE has `language="en"` or "zh"; the others have none, and raise BadInput.

    Images are opened later, when they are needed. Raises BadData, naming file and line, at the first record that cannot be read;
    or, where `bad` is given, calls it with that error and goes on. An empty data set is an error in any case.
    """
    path = Path(path)
    if not path.exists():
        raise BadData(f"no data at {path}; give a folder of images, or a file: {', '.join(READERS)}")
    reader = _reader(path)
    if unknown := set(options) - set(signature(reader).parameters):
        raise BadInput(f"{path.name}: its reader has no option {', '.join(sorted(unknown))}")
    samples = list(reader(path, question, bad or _raise, **options))
    if not samples:
        what = f"images ({', '.join(sorted(SUFFIXES))})" if path.is_dir() else "samples"
        raise BadData(f"{path} holds no {what} that can be read")
    return samples


def _reader(path: Path) -> Reader:
    for layout in LAYOUTS:
        if layout.fits(path):
            return layout.read
    reader = read_folder if path.is_dir() else READERS.get(path.suffix.lower())
    if reader is None and (path.suffix.lower() in SUFFIXES or is_dicom(path)):
        raise BadData(f"{path.name} is one image; give its folder, or a file of questions that names it")
    if reader is None:
        raise BadData(
            f"{path.name}: no reader for {path.suffix or 'a file without ending'}; readers: a folder, {', '.join(READERS)}"
        )
    return reader


def _raise(error: BadData) -> None:
    raise error
