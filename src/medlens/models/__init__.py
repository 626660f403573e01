"""Loading: from a name, a folder, a hub id or an object in memory to a `Model` that passed its self-test."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medlens.errors import BadInput, BadModel
from medlens.models.base import Model
from medlens.models.hf import load_folder, load_hub
from medlens.models.phantom import load_phantom
from medlens.models.selftest import check_weights, self_test

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load(model: str | Path | Any = "phantom", processor: Any = None, *, device: str = "cpu", dtype: str = "float32") -> Model:
    """Load a vision-language model and run its self-test.

    model: "phantom" (shipped; its kin are "phantom:shortcut", "phantom:textonly", "phantom:random"), a transformers folder, a hub id ("owner/name", the only case that uses the network), or a
    transformers model in memory, with its `processor`. device: as torch names it. dtype: float32, float16 or bfloat16.

    Raises BadModel when it cannot be loaded (a part is missing, a weight is NaN) or fails the self-test; BadInput for arguments
    that make no sense.
    """
    _check_device(device)
    if dtype not in DTYPES:
        raise BadInput(f"dtype is one of {', '.join(DTYPES)}; got {dtype}")
    if not isinstance(model, str | Path):
        if not isinstance(model, torch.nn.Module):
            raise BadInput(f"a model is a name, a folder or a transformers model; got {type(model).__name__}")
        if processor is None:
            raise BadInput("a model object needs its processor: medlens.load(model, processor)")
        return _tested(Model(type(model).__name__, model.eval(), processor))
    name = str(model)
    return _tested(Model(name, *_find(name, device, DTYPES[dtype])))


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as e:  # torch raises any of them, depending on how it was built
        raise BadInput(
            f"device {device} cannot be used here: expected cpu, or a GPU that this torch was built for (cuda, mps)"
        ) from e


def _find(name: str, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    if name.partition(":")[0] == "phantom":
        return load_phantom(name, device, dtype)
    if Path(name).is_dir():
        return load_folder(Path(name), device, dtype)
    hub = re.fullmatch(r"([\w.-]+)/[\w.-]+", name)
    if hub and not name.startswith(".") and not Path(name).exists() and not Path(hub[1]).is_dir():  # no network for a mistyped path
        return load_hub(name, device, dtype)
    raise BadModel(f"no model {name!r}: give `phantom`, a folder with config.json, or a hub id owner/name")


def _tested(model: Model) -> Model:
    check_weights(model)
    return replace(model, checks=self_test(model))
