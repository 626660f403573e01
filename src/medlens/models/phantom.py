"""The phantom's models by name: what is shipped, and the random one, which is not."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from medlens.errors import BadModel
from medlens.models.hf import Loaded, load_folder

WEIGHTS = Path(__file__).parent.parent / "phantom" / "weights"
FOLDERS = {"phantom": "sound", "phantom:sound": "sound", "phantom:shortcut": "shortcut", "phantom:textonly": "textonly"}
RANDOM = "phantom:random"  # with a seed: phantom:random:7
NAMES = ("phantom", "phantom:shortcut", "phantom:textonly", RANDOM)


def load_phantom(name: str, device: str, dtype: torch.dtype, memory: int) -> Loaded:
    """One of NAMES; streamed, where its weights need more memory (bytes) than that. (A random one has no files to be streamed
    from.) Raises BadModel for another name."""
    folder = folder_of(name)
    if name in FOLDERS:
        return load_folder(folder, device, dtype, memory)
    return _random(int(name.removeprefix(RANDOM).removeprefix(":") or 0), device, dtype)


def folder_of(name: str) -> Path:
    """Where a phantom's files lie (a random one's architecture: the sound one's). Raises BadModel for another name."""
    start, _, seed = name.removeprefix(RANDOM).partition(":")
    random = name.startswith(RANDOM) and not start and (seed.isdecimal() or name == RANDOM)
    if name not in FOLDERS and not random:
        raise BadModel(f"no model {name!r}: the phantoms are {', '.join(NAMES)} (or {RANDOM}:SEED)")
    return WEIGHTS / FOLDERS.get(name, "sound")


def _random(seed: int, device: str, dtype: torch.dtype) -> Loaded:
    """The sound one's architecture and processor, with fresh weights."""
    module, processor, *_ = load_folder(WEIGHTS / "sound", "cpu", torch.float32, sys.maxsize)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(module)(module.config)
    return Loaded(fresh.to(device, dtype).eval(), processor, {}, None)
