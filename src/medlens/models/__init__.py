"""Loading: from a name, a folder, a hub id or an object in memory to a `Model` that passed its self-test."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medlens.budget import bytes_of, free_memory, give_back
from medlens.errors import BadInput, BadModel, MedlensError
from medlens.models.adapter import merge_adapter
from medlens.models.base import Model
from medlens.models.families import check_family
from medlens.models.hf import Loaded, fetch, first_line, load_folder
from medlens.models.int8 import in_int8
from medlens.models.llava_med import is_original, load_original
from medlens.models.phantom import load_phantom
from medlens.models.selftest import check_weights, self_test

MOST = 0.7  # of the free memory: what weights may take where no budget is named
INT8 = "int8"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, INT8: torch.float32}  # to compute in


def load(
    model: str | Path | Any = "phantom",
    processor: Any = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    vision_tower: str | Path = "auto",
    adapter: str | Path | None = None,
    revision: str | None = None,
    memory: str | int | None = None,
) -> Model:
    """Load a vision-language model and run its self-test.

    model: "phantom" (shipped; its kin: "phantom:shortcut", "phantom:textonly", "phantom:random"), a transformers folder, a hub id
    ("owner/name", the only case that uses the network), or a transformers model in memory, with its `processor`. device: as torch
    names it. dtype: float32, float16 or bfloat16; or int8: the blocks' weights in eight bits, read and rounded a block at a time,
    all computed in float32 (see `int8`).

    vision_tower: only for a checkpoint in LLaVA-Med's original layout: "external" (the tower that its config.json names, which is
    what the original code uses), "checkpoint" (the one inside it), a folder or hub id; or "auto": the external one where it is here
    (or the model is named by a hub id), else the one inside, with a MedlensWarning. revision: of a hub id. Which tower and revision
    were used stands in `Model.origin`. adapter: a folder with a LoRA adapter as peft saves it, merged into the weights.

    memory: at most so much for the weights ("4GiB", or bytes; default: most of what is free). A model that needs more is streamed:
    its weights stay in their files, and each block is read when it is its turn. The results are the same.

    Raises BadModel when it cannot be loaded (a part is missing, a weight is NaN) or fails the self-test; BadInput for arguments
    that make no sense.
    """
    check_device(device)
    if dtype not in DTYPES:
        raise BadInput(f"dtype is one of {', '.join(DTYPES)}; got {dtype}")
    if not isinstance(model, str | Path):
        if not isinstance(model, torch.nn.Module):
            raise BadInput(f"a model is a name, a folder or a transformers model; got {type(model).__name__}")
        if processor is None:
            raise BadInput("a model object needs its processor: medlens.load(model, processor)")
        if adapter is not None:
            raise BadInput("an adapter is merged into a model that is loaded by its name, not into an object of yours")
        if dtype == INT8:
            raise BadInput("a model is quantised while it is loaded by its name; an object of yours is left as it is")
        return _tested(Model(type(model).__name__, model.eval(), processor))
    name = str(model)
    allowed = int(MOST * free_memory(device)) if memory is None else bytes_of(memory)
    at_once = 0 if dtype == INT8 else allowed  # int8: left in its files, so that no more than a block of it is ever float32
    module, processor, origin, weights = _find(name, device, DTYPES[dtype], str(vision_tower), revision, at_once)
    if adapter is not None:
        origin = {**origin, "adapter": merge_adapter(module, Path(adapter), weights)}
    loaded = Model(name, module, processor, origin=origin, weights=weights)
    return _tested(in_int8(loaded, allowed) if dtype == INT8 else loaded)


def check_device(device: str) -> None:
    """Raise BadInput for a device that this torch cannot use here."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as e:  # torch raises any of them, depending on how it was built
        raise BadInput(
            f"device {device} cannot be used here: expected cpu, or a GPU that this torch was built for (cuda, mps)"
        ) from e


def _find(name: str, device: str, dtype: torch.dtype, vision_tower: str, revision: str | None, memory: int) -> Loaded:
    if name.partition(":")[0] == "phantom":
        return load_phantom(name, device, dtype, memory)
    if Path(name).is_dir():
        return _open(Path(name), device, dtype, vision_tower, memory)
    hub = re.fullmatch(r"([\w.-]+)/[\w.-]+", name)
    if hub and not name.startswith(".") and not Path(name).exists() and not Path(hub[1]).is_dir():  # no network for a mistyped path
        folder, fetched = fetch(name, revision)
        loaded = _open(folder, device, dtype, vision_tower, memory, network=True)
        return loaded._replace(origin={**loaded.origin, "revision": fetched})
    raise BadModel(f"no model {name!r}: give `phantom`, a folder with config.json, or a hub id owner/name")


def _open(folder: Path, device: str, dtype: torch.dtype, vision_tower: str, memory: int, network: bool = False) -> Loaded:
    if is_original(folder):
        return load_original(folder, device, dtype, memory, vision_tower, network)
    if vision_tower not in ("auto", "external"):
        raise BadInput(f"--vision-tower is for LLaVA-Med's original layout (llava_mistral); {folder} is not in it")
    return load_folder(folder, device, dtype, memory)


def _tested(model: Model) -> Model:
    check_family(model.name, model.module)
    if model.weights is None:  # streamed ones are checked whenever they are read
        check_weights(model)
    try:
        tested = replace(model, checks=self_test(model))
        give_back()  # int8 weights are made float32 and freed, hundreds of times
        return tested
    except MedlensError:
        raise
    except Exception as e:  # a family, or a processor, that is put together in a way that is not known here
        said = f"{type(e).__name__}: {first_line(e)[:200]}"
        raise BadModel(f"{model.name}: {model.family} cannot be read: its self-test stopped with {said}") from e
