"""Safetensors files of a checkpoint, checked before anything is built: headers whole, index and files of one mind."""

from __future__ import annotations

from pathlib import Path

import safetensors

from medlens.errors import BadModel
from medlens.jsontext import parse

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
LONGEST = 200  # characters of a file name


def check_shards(folder: Path) -> dict[str, Path]:
    """Every tensor's name and the file it lies in. Raises BadModel: no weights, a shard that is missing, cut off or damaged, an
    index that names a tensor that is not there, or a file outside of the folder."""
    found = {name: shard for shard in sorted(folder.glob("*.safetensors")) for name in _names(shard)}
    index = folder / INDEX
    if index.is_file():
        _check_index(index, found)
    elif not found:
        raise BadModel(f"{folder} holds no *.safetensors; medlens reads no pickled weights: convert them first")
    elif not (folder / WHOLE).is_file():
        raise BadModel(f"{folder} holds shards, but no {INDEX} that names them; copy it from where the weights came from")
    return found


def _names(shard: Path) -> list[str]:
    try:
        with safetensors.safe_open(shard, "pt") as opened:
            return list(opened.keys())
    except (safetensors.SafetensorError, OSError) as e:
        raise BadModel(f"{shard} is cut off, damaged or no safetensors file ({e}); copy it again") from e


def _check_index(index: Path, found: dict[str, Path]) -> None:
    try:
        placed = parse(index.read_text(encoding="utf-8"))["weight_map"]
        places = {str(name): str(file) for name, file in placed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadModel(f"{index} is no index of weights: it is not JSON, or has no weight_map; copy it again") from e
    for file in sorted(set(places.values())):
        if Path(file).name != file or len(file) > LONGEST:
            raise BadModel(f"{index} names the file {file[:LONGEST]!r}, which does not lie beside it; shards have plain names")
        if not (index.parent / file).is_file():
            raise BadModel(f"{index.parent} lacks the shard {file} that {index.name} names; copy it, all shards are needed")
    for name, file in places.items():
        if name not in found or found[name].name != file:
            raise BadModel(f"{index.name} names the tensor {name} in {file}, which does not hold it; they do not belong together")
