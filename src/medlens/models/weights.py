"""Weights that stay in their files: a part of the model is read when it is needed and let go when it is not.

So a model of any size needs the memory of its largest part. Files are mapped, never copied: what is anonymous memory is only what a
part has been converted to (a bfloat16 block on a CPU without fast bfloat16 becomes float32).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from medlens.budget import give_back
from medlens.errors import BadModel
from medlens.models.table import one_more_row

SAMPLED = 2**16  # entries of a weight that its digest looks at


@dataclass(frozen=True)
class Place:
    """Where a weight lies: file, name in it, first and last byte, and its shape."""

    file: Path
    name: str
    begin: int
    end: int
    shape: tuple[int, ...]


@dataclass(eq=False)
class Weights:
    """The weights of `module`, all of them on the meta device until they are brought.

    places: of each parameter, by its name in the module. edits: what is done to some of them once they are read (an adapter).
    digests: of every weight that has been read, by which a file that changes meanwhile is found out.
    """

    module: nn.Module
    places: dict[str, Place]
    dtype: torch.dtype
    device: torch.device
    edits: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def bring(self, names: Iterable[str]) -> list[str]:
        """Read the parameters of these names that are not there yet; returns which those were. Raises BadModel for a NaN or
        infinity, and for a file that has changed since it was first read."""
        brought: list[str] = []
        try:
            for name in names:
                if self._parameter(name).is_meta:
                    self._set(name, self.read(name))
                    brought.append(name)
        except BaseException:
            self.take_away(brought)
            raise
        return brought

    def take_away(self, names: Iterable[str]) -> None:
        """Let go of the parameters of these names."""
        for name in names:
            self._set(name, self._parameter(name).detach().to("meta"))
        give_back()

    def read(self, name: str) -> Tensor:
        """One weight, in the type and on the device in which the model computes."""
        place = self.places[name]
        try:
            with safetensors.safe_open(place.file, "pt") as opened:
                weight = opened.get_tensor(place.name).to(self.device, self.dtype)
        except (safetensors.SafetensorError, OSError) as e:
            raise BadModel(f"{place.file}: weight {place.name} cannot be read any more ({e})") from e
        weight = self._as_long_as_its_table(name, weight)
        if name in self.edits:
            weight = self.edits[name](weight)
        if not math.isfinite(float(weight.sum())) and not torch.isfinite(weight).all():  # a sum is quick, but may overflow
            raise BadModel(f"{place.file}: weight {place.name} holds a NaN or infinity; the file is damaged")
        if self.digests.setdefault(name, found := digest(weight)) != found:
            raise BadModel(f"{place.file}: weight {place.name} is not what it was when it was first read; the file has changed")
        return weight

    def read_rows(self, name: str, begin: int, end: int) -> Tensor:
        """Some rows of one weight, without the others. Raises BadModel for a NaN or infinity."""
        place = self.places[name]
        if name in self.edits:  # an edit is of the whole
            return self.read(name)[begin:end]
        try:
            with safetensors.safe_open(place.file, "pt") as opened:
                rows = opened.get_slice(place.name)[begin:end].to(self.device, self.dtype)
        except (safetensors.SafetensorError, OSError) as e:
            raise BadModel(f"{place.file}: weight {place.name} cannot be read any more ({e})") from e
        if not torch.isfinite(rows).all():
            raise BadModel(f"{place.file}: weight {place.name} holds a NaN or infinity; the file is damaged")
        return rows

    def expect(self, names: Iterable[str]) -> None:
        """Have the system read these weights' bytes ahead, into its own cache: no memory of ours, and no waiting for it."""
        if not hasattr(os, "posix_fadvise"):
            return
        for name in names:
            place = self.places[name]
            descriptor = os.open(place.file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, place.begin, place.end - place.begin, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)

    def size(self, names: Iterable[str]) -> int:
        """Bytes in memory of the parameters of these names, once they are there."""
        return sum(self._parameter(name).numel() for name in names) * self.dtype.itemsize

    def _parameter(self, name: str) -> nn.Parameter:
        return self.module.get_parameter(name)

    def _set(self, name: str, weight: Tensor) -> None:
        path, _, leaf = name.rpartition(".")
        self.module.get_submodule(path)._parameters[leaf] = nn.Parameter(weight, requires_grad=False)

    def _as_long_as_its_table(self, name: str, weight: Tensor) -> Tensor:
        """The input table may end with one row more than its file: see `table`."""
        if len(self._parameter(name)) != len(weight) + 1:
            return weight
        longer = weight.new_zeros(len(weight) + 1, *weight.shape[1:])
        longer[:-1] = weight
        return longer


def digest(weight: Tensor) -> str:
    """Of shape, type and (of large weights, every k-th of the) values."""
    flat = weight.detach().flatten()
    sampled = flat[:: max(1, len(flat) // SAMPLED)].contiguous().cpu().view(torch.uint8)
    return hashlib.sha256(f"{tuple(weight.shape)} {weight.dtype}".encode() + sampled.numpy().tobytes()).hexdigest()


def left_in_files(
    folder: Path, make: Callable[[], Any], places: Callable[[Any], dict[str, Place]], dtype: torch.dtype, device: str
) -> tuple[Any, Weights, dict[str, Any]]:
    """The model that `make` makes, its weights left where `places` says that they lie, and what transformers would report of
    loading them: missing keys, and sizes that do not fit."""
    module = skeleton(make)
    if (folder / "generation_config.json").is_file():
        from transformers.generation.configuration_utils import GenerationConfig

        module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    if getattr(module.config, "image_token_id", None) is not None:  # a tower alone has no table
        one_more_row(module)
    weights = Weights(module, places(module), dtype, torch.device(device))
    for name, buffer in list(module.named_buffers()):
        real = weights.read(name) if name in weights.places else buffer
        module.get_submodule(name.rpartition(".")[0]).register_buffer(
            name.rpartition(".")[2], real.to(device), persistent=name in module.state_dict()
        )
    return module, weights, _report(module, weights.places)


def _report(module: Any, places: dict[str, Place]) -> dict[str, Any]:
    table = getattr(module.get_input_embeddings(), "weight", None)
    wrong = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        got, expected = places[name].shape if name in places else None, tuple(tensor.shape)
        grown = tensor is table and got == (expected[0] - 1, *expected[1:])  # see `table`
        if got not in (None, expected) and not grown:
            wrong.add((name, got, expected))
    return {"missing_keys": set(module.state_dict()) - set(places), "mismatched_keys": wrong}


def skeleton(make: Callable[[], Any]) -> Any:
    """What `make` makes, with its parameters on the meta device and its buffers (rotary frequencies, ...) real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return make().eval()


def places_of(module: Any, files: dict[str, Path], key_mapping: dict[str, str] | None = None) -> dict[str, Place]:
    """Where each tensor of the module lies, by transformers' own renaming of what is in the files (each tensor's name and file).

    Raises BadModel for a family whose weights are not only renamed but rearranged while they are loaded: it cannot be streamed.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    conversions = get_model_conversion_mapping(module, key_mapping)
    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    converters = [c for c in conversions if not isinstance(c, WeightRenaming)]
    expected = module.state_dict()
    lying = {name: place for file in set(files.values()) for name, place in places_in(file).items()}
    found = {}
    for name in files:
        target, converted = rename_source_key(name, renamings, converters, module.base_model_prefix, expected)  # pyright: ignore
        if converted is not None and target in expected:
            raise BadModel(
                f"{files[name].parent}: {name} is rearranged while it is loaded; this family can be neither streamed nor int8 yet"
            )
        if target in expected:
            found[target] = lying[name]
    for target, source in (getattr(module, "all_tied_weights_keys", None) or {}).items():
        if target not in found and source in found:
            found[target] = found[source]
    return found


def size_of(files: dict[str, Path], dtype: torch.dtype) -> int:
    """Bytes in memory of all that is in the files, in that type."""
    entries = sum(prod(place.shape) for file in set(files.values()) for place in places_in(file).values())
    return entries * dtype.itemsize


def places_in(file: Path) -> dict[str, Place]:
    """Every tensor of a safetensors file (its header: eight bytes of length, then JSON)."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        written = json.loads(opened.read(length))
    start = 8 + length
    return {
        name: Place(file, name, start + told["data_offsets"][0], start + told["data_offsets"][1], tuple(told["shape"]))
        for name, told in written.items()
        if name != "__metadata__"
    }
