"""Tables with images inside: a parquet file, a folder of parquet shards, or what `datasets` writes with `save_to_disk`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medlens.data.fields import Bad, to_samples
from medlens.data.parts import test_set
from medlens.errors import BadData
from medlens.jsontext import parse
from medlens.picture import opened
from medlens.types import Embedded, Region, Sample

SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?(-[0-9a-f]+)?$")  # test-00000-of-00002-1a2b: a shard of `test`


def is_tables(path: Path) -> bool:
    """A parquet file, a folder with some in it or in its `data/`, or a folder that `save_to_disk` wrote."""
    if path.is_dir():
        return (path / "dataset_dict.json").is_file() or bool(_arrow(path) or _shards(path))
    return path.suffix.lower() == ".parquet"


def read_tables(path: Path, question: str | None, bad: Bad) -> Iterator[Sample]:
    """Columns as the fields in `fields.to_sample`; of several splits, the one called test. `image` (or `images`, `mask`) is
    {bytes, path}, bytes, or a path relative to the file; other columns with bytes in them are left out.
    """
    files = _files(path) if path.is_dir() else [path]
    known: dict[bytes, Embedded] = {}
    return to_samples(rows(files), files[0].parent, question, bad, partial(_known, known))


def rows(files: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row, with what to call it in an error. Raises BadData for a file that is not such a table."""
    import polars as pl

    for file in files:
        try:
            table = pl.read_parquet(file) if file.suffix.lower() == ".parquet" else pl.read_ipc_stream(file)
        except FileNotFoundError as e:
            raise BadData(f"{file.name} does not exist in {file.parent.name}/; is part of the data set missing?") from e
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as e:
            raise BadData(f"{file.name} is damaged, or not what its ending {file.suffix} says") from e
        for number, row in enumerate(table.iter_rows(named=True), start=1):
            yield f"{file.name} row {number}", row


def _files(folder: Path) -> list[Path]:
    if (folder / "dataset_dict.json").is_file():
        folder = test_set(folder, [f for f in folder.iterdir() if _arrow(f)])
    if arrow := _arrow(folder):
        return arrow
    shards = _shards(folder)
    chosen = test_set(folder, {file.with_name(_split(file)) for file in shards})
    return [file for file in shards if _split(file) == chosen.name]


def _arrow(folder: Path) -> list[Path]:
    """The files that state.json names; others beside them are caches."""
    try:
        named = parse((folder / "state.json").read_text())["_data_files"]
        return [folder / Path(file["filename"]).name for file in named]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))


def _split(file: Path) -> str:
    return SHARD.sub("", file.stem) or file.parent.name


def _known(known: dict[bytes, Embedded], row: dict[str, Any]) -> dict[str, Any]:
    """Questions on one image share one object, by which they are seen to be on one image."""
    record = {k: v for k, v in row.items() if k in ("image", "images", "mask") or not _bytes(v)}
    for field in ("image", "images"):
        if isinstance(value := record.get(field), list):
            record[field] = [_image(known, v) for v in value]
        elif value is not None:
            record[field] = _image(known, value)
    if data := _bytes(record.get("mask")):
        record["mask"] = (Region("mask", draw=partial(_bright, data)),)
    return record


def _image(known: dict[bytes, Embedded], value: Any) -> Any:
    data = _bytes(value)
    if not data:
        return value.get("path") if isinstance(value, dict) else value
    digest = hashlib.sha256(data).digest()
    path = value.get("path") if isinstance(value, dict) else None
    return known.setdefault(digest, Embedded(data, re.split(r"[\\/]", path)[-1] if path else f"image {len(known) + 1}"))


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _bright(data: bytes) -> np.ndarray:
    with opened(data, "mask") as picture:
        return np.asarray(picture.convert("L")) > 127
