"""Linear maps on the disk: a folder with `maps.json` (which blocks each stands for) and `maps.safetensors`.

Of map k: `k.mean_x` and `k.mean_u` (d,), `k.a` (d, d), float64 as they were fitted. What it makes of a row x of the state in front
of block `first` is the state behind block `last`: x + mean_u + (x - mean_x) a.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file

from medlens.errors import BadModel
from medlens.walk.surgery import LinearMap

TOLD, HELD = "maps.json", "maps.safetensors"
PARTS = ("mean_x", "mean_u", "a")


def save_maps(maps: Sequence[LinearMap], folder: Path) -> None:
    """Write maps into a folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({f"{k}.{part}": getattr(one, part).contiguous() for k, one in enumerate(maps) for part in PARTS}, folder / HELD)
    told = [{"first": one.first, "last": one.last, "tokens": one.n, "note": one.note} for one in maps]
    (folder / TOLD).write_text(json.dumps({"maps": told}, indent=1), encoding="utf-8")


def load_maps(folder: str | Path) -> list[LinearMap]:
    """The maps of a folder, for `blocks_linear`. Raises BadModel where it holds none, or damaged ones."""
    folder = Path(folder)
    try:
        told = json.loads((folder / TOLD).read_text(encoding="utf-8"))["maps"]
        held = load_file(folder / HELD)
        found = [
            LinearMap(of["first"], of["last"], n=of["tokens"], note=of["note"], **{part: held[f"{k}.{part}"] for part in PARTS})
            for k, of in enumerate(told)
        ]
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as e:
        raise BadModel(f"{folder} holds no maps, or damaged ones: expected {TOLD} and {HELD}, as medlens prune writes them") from e
    for one in found:
        d = len(one.mean_x)
        if one.mean_x.shape != (d,) or one.mean_u.shape != (d,) or one.a.shape != (d, d):
            raise BadModel(f"{folder / HELD}: the map of blocks {one.first}-{one.last} is no affine map of a state")
    return found
