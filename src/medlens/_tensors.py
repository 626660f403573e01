"""Large tensors straight to a file. Of a full disk safetensors makes an error of its own; here it is the OSError that it was."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], told: dict[str, str] | None = None) -> None:
    """Write them, with `told` in the header, and make sure that they reached the disk. Raises OSError."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, told)
    except SafetensorError as e:
        found = re.search(r"(?:os error|code:) (\d+)", str(e))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from e
    with path.open("rb") as file:
        os.fsync(file.fileno())
