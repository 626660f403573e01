"""Where the cases wait between two blocks: their states, and what the blocks will be called with. In memory, or in files.

In files, memory does not grow with the number of cases, and the states that have passed a block are a checkpoint. Plain reads and
writes: a full disk is an error and not a crash, and what there is memory for stays in the system's cache by itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from io import BufferedRandom
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STATE_BYTES = 4  # of an entry: states wait as float32, which holds the half types exactly


class Room:
    """In memory. begun: the state at which the walk begins, which every case has reached. kept_from: states from this one on stay
    here when the cases have left them, because they will come back that far (None: no state stays)."""

    begun = 0

    def __init__(self, kept_from: int | None = None) -> None:
        self.kept_from = kept_from
        self._states: dict[tuple[int, int], Tensor] = {}
        self._kept: dict[Hashable, Any] = {}

    def put(self, layer: int, case: int, state: Tensor) -> None:
        """Keep a case's state `layer`, (T, d)."""
        self._states[layer, case] = state

    def get(self, layer: int, case: int) -> Tensor:
        return self._states[layer, case]

    def close(self, layer: int) -> None:
        """All cases have reached state `layer`."""

    def left(self, layer: int) -> None:
        """All cases have left state `layer`, and it is forgotten, unless they will come back to it."""
        if self.kept_from is None or layer < self.kept_from:
            self.forget(layer)

    def forget(self, layer: int) -> None:
        """State `layer` is not needed any more."""
        self._states = {at: state for at, state in self._states.items() if at[0] != layer}

    def keep(self, name: Hashable, tree: Any) -> None:
        """Keep a tree of dictionaries, lists and tuples with the tensors in it, in place of what has had this name."""
        self._kept[name] = tree

    def fetch(self, name: Hashable) -> Any:
        return self._kept[name]

    def drop(self, name: Hashable) -> None:
        """What has this name is not needed any more."""
        del self._kept[name]


class Files(Room):
    """In files of a folder, one a state: `state-07.bin`. All else lies in a file without a name, which vanishes with the process.
    Raises OSError when the disk is full."""

    def __init__(
        self, folder: Path, lengths: Sequence[int], width: int, dtype: torch.dtype, device: torch.device, begun: int = 0,
        kept_from: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(kept_from)
        self.begun = begun
        self._folder, self._lengths, self._width, self._dtype, self._device = folder, lengths, width, dtype, device
        self._starts = [0, *accumulate(n * width * STATE_BYTES for n in lengths)]
        self._open: dict[int, BufferedRandom] = {}
        self._spill = Spill(folder)

    def put(self, layer: int, case: int, state: Tensor) -> None:
        if layer not in self._open:
            self._open[layer] = self._path(layer).open("w+b")
        file = self._open[layer]
        file.seek(self._starts[case])
        file.write(state.detach().to("cpu", torch.float32).contiguous().numpy().data)

    def get(self, layer: int, case: int) -> Tensor:
        if layer not in self._open:
            self._open[layer] = self._path(layer).open("r+b")
        file = self._open[layer]
        file.seek(self._starts[case])
        read = torch.empty(self._lengths[case], self._width)
        whole = file.readinto(read.numpy().data)
        if whole != read.numel() * STATE_BYTES:
            raise OSError(f"{self._path(layer).name} is cut off")
        return read.to(self._device, self._dtype)

    def close(self, layer: int) -> None:
        if layer in self._open:
            self._open[layer].flush()
            os.fsync(self._open[layer].fileno())

    def forget(self, layer: int) -> None:
        if layer in self._open:
            self._open.pop(layer).close()
        self._path(layer).unlink(missing_ok=True)

    def holds(self, layer: int) -> bool:
        """Whether all of state `layer` is there, left by an earlier walk."""
        path = self._path(layer)
        return path.exists() and path.stat().st_size == self._starts[-1]

    def tidy(self) -> None:
        """Forget all that an earlier walk has left but the state at which this one begins: it was stopped before it forgot them."""
        for path in self._folder.glob("state-*.bin"):
            if path != self._path(self.begun):
                path.unlink()

    def keep(self, name: Hashable, tree: Any) -> None:
        if name in self._kept:
            self.drop(name)
        self._kept[name] = self._spill.keep(tree)

    def fetch(self, name: Hashable) -> Any:
        return self._spill.fetch(self._kept[name])

    def drop(self, name: Hashable) -> None:
        self._spill.drop(self._kept.pop(name))

    def _path(self, layer: int) -> Path:
        return self._folder / f"state-{layer:02d}.bin"


@dataclass(frozen=True)
class _Slot:
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def size(self) -> int:
        """In bytes."""
        return prod(self.shape) * self.dtype.itemsize


class Spill:
    """Tensors in a temporary file. The place of one that is dropped goes to the next one of its size."""

    def __init__(self, folder: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as this does)
        self._end = 0
        self._free: dict[int, set[int]] = {}  # places, by their size in bytes

    def keep(self, tree: Any) -> Any:
        """Write the tensors of a tree, each once, and return the tree without them, for `fetch` and `drop`."""
        written: dict[int, _Slot] = {}
        return _mapped(tree, Tensor, lambda tensor: written.setdefault(id(tensor), self._write(tensor)))

    def fetch(self, kept: Any) -> Any:
        """The tree with its tensors."""
        read: dict[int, Tensor] = {}
        return _mapped(
            kept, _Slot, lambda slot: read[slot.start] if slot.start in read else read.setdefault(slot.start, self._read(slot))
        )

    def drop(self, kept: Any) -> None:
        """The tensors of this tree are not needed any more."""
        _mapped(kept, _Slot, lambda slot: self._free.setdefault(slot.size, set()).add(slot.start))

    def _write(self, tensor: Tensor) -> _Slot:
        free = self._free.get(tensor.nbytes)
        slot = _Slot(free.pop() if free else self._end, tuple(tensor.shape), tensor.dtype, tensor.device)
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        self._file.seek(slot.start)
        self._file.write(flat.numpy().data)
        self._end = max(self._end, slot.start + max(1, len(flat)))  # so that no two slots begin at one place
        return slot

    def _read(self, slot: _Slot) -> Tensor:
        read = torch.empty(slot.shape, dtype=slot.dtype)
        self._file.seek(slot.start)
        self._file.readinto(read.flatten().view(torch.uint8).numpy().data)  # pyright: ignore[reportAttributeAccessIssue]
        return read.to(slot.device)


def _mapped(tree: Any, kind: type, change: Any) -> Any:
    """The tree with `change` done to everything of a kind in it."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _mapped(value, kind, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [_mapped(value, kind, change) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree
