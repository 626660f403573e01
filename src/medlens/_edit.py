"""A checkpoint with some units scaled, in the layout it has: for whoever wants to test an edit elsewhere."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from math import isfinite
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor

from medlens.errors import BadInput, BadModel, CannotWrite
from medlens.models import load
from medlens.models.base import Model
from medlens.models.llava_med import is_original
from medlens.models.weights import Place
from medlens.unfinished import explained, writing

RECORD = "medlens_edit.json"
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}

Unit = tuple[int, int]  # (block, unit)


def edit(model: str | Path, scale: Mapping[str, float], out: str | Path) -> Path:
    """Write the checkpoint `model` to the folder `out`, with what some units write to the residual stream scaled.

    scale: of units by name ("12.431": unit 431 of block 12) the factor; 0 takes a unit out, 1 leaves it. A unit is a column of the
    block's `down_proj`, so its activation stays what it was, and everything else does too: every other byte of the weights is
    copied. `medlens_edit.json` beside the weights says what was done. The model must load and pass its self-test first.

    Raises BadInput for units that the model does not have and factors that are no finite numbers; BadModel for a family whose
    blocks have no `mlp.down_proj`, or weights in a type that cannot be scaled; CannotWrite.
    """
    factors = parse_scale(scale)
    out = Path(out)
    if out.exists():
        raise CannotWrite(f"{out} is there already; choose another --out")
    with explained(out):
        own_tower = Path(model).is_dir() and is_original(Path(model))  # the tower that it names may lie elsewhere
        # streamed: then it knows where each weight lies
        loaded = load(model, memory=1, vision_tower="checkpoint" if own_tower else "external")
        if loaded.weights is None:
            raise BadInput(f"{model} has no files to edit")
        _check(loaded, factors)
        places = {b: loaded.weights.places[down_name(loaded, b)] for b, _ in factors}
        folder = next(iter(places.values())).file.parent
        with writing(out) as new:
            _copy(folder, new)
            for block, place in places.items():
                _scale(new / place.file.name, place, {u: f for (b, u), f in factors.items() if b == block})
            record = {"medlens": version("medlens"), "scaled": {f"{b}.{u}": f for (b, u), f in sorted(factors.items())}}
            (new / RECORD).write_text(json.dumps(record, indent=1))
    return out


def parse_scale(scale: Mapping[str, float]) -> dict[Unit, float]:
    """Units by (block, unit). Raises BadInput for what is no unit or no finite factor, and for none at all."""
    if not scale:
        raise BadInput("nothing to scale: give units and factors, such as 12.431=0")
    found = {}
    for name, factor in scale.items():
        numbers = re.fullmatch(r"(\d+)\.(\d+)", name.strip())
        if numbers is None:
            raise BadInput(f"a unit is BLOCK.UNIT, such as 12.431; got {name!r}")
        if not isfinite(factor):
            raise BadInput(f"unit {name}: a factor is a finite number; got {factor}")
        found[int(numbers[1]), int(numbers[2])] = float(factor)
    return found


def down_name(model: Model, block: int) -> str:
    """The name of the weight through which a block's units write. Raises BadModel where there is none."""
    (name, *more) = [n for n in model.names_of[block] if n.endswith("mlp.down_proj.weight")] or [""]
    if not name or more:
        raise BadModel(f"{model.name}: block {block} of {model.family} has no one mlp.down_proj, so its units are not known")
    return name


def _check(model: Model, factors: Mapping[Unit, float]) -> None:
    for block, unit in factors:
        if block >= model.depth:
            raise BadInput(f"unit {block}.{unit}: {model.name} has blocks 0 to {model.depth - 1}")
        units = model.module.get_parameter(down_name(model, block)).shape[1]
        if unit >= units:
            raise BadInput(f"unit {block}.{unit}: block {block} of {model.name} has units 0 to {units - 1}")


def _copy(folder: Path, new: Path) -> None:
    """All of a checkpoint's folder, and the folders in it (a tower's); of links, what they lead to."""
    shutil.copytree(folder, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))


def _scale(file: Path, place: Place, factors: Mapping[int, float]) -> None:
    """Scale columns of one weight where it lies in its file."""
    with safetensors.safe_open(file, "pt") as opened:
        kind = opened.get_slice(place.name).get_dtype()
    if kind not in TYPES:
        raise BadModel(f"{file.name}: {place.name} is stored as {kind}; expected one of {', '.join(TYPES)}")
    lying = np.memmap(file, np.uint8, "r+", offset=place.begin, shape=(place.end - place.begin,))
    weight: Tensor = torch.from_numpy(lying).view(TYPES[kind]).view(place.shape)
    by_factor = defaultdict(list)
    for unit, factor in factors.items():
        by_factor[factor].append(unit)
    for factor, units in by_factor.items():
        weight[:, units] = (weight[:, units].float() * factor).to(weight.dtype)
    lying.flush()
