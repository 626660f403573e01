"""Sums as a flat `dict[str, Tensor]`, which any file of tensors holds: parts of parts have dotted names ("x.zz")."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from medlens.errors import BadRun

DIGEST = 8  # bytes of a hash


def nested(name: str | int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one part, under its name."""
    return {f"{name}.{key}": tensor for key, tensor in tensors.items()}


def parts(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The tensors that belong to no part, and those of each part."""
    own: dict[str, Tensor] = {}
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, dot, rest = key.partition(".")
        if dot:
            found.setdefault(part, {})[rest] = tensor
        else:
            own[key] = tensor
    return own, found


def need(what: str, got: Iterable[str], names: Collection[str], optional: Collection[str] = ()) -> None:
    """Raises BadRun unless exactly these names were got."""
    missing, unknown = set(names) - set(got), set(got) - set(names) - set(optional)
    if missing or unknown:
        said = [f"{word} {', '.join(sorted(which))}" for word, which in (("missing", missing), ("unknown", unknown)) if which]
        raise BadRun(f"these tensors are no {what}: {'; '.join(said)}")


def digests_to_tensor(digests: Iterable[bytes]) -> Tensor:
    """Hashes as (count, 8) uint8, sorted."""
    joined = b"".join(sorted(digests))
    return torch.tensor(list(joined), dtype=torch.uint8).reshape(-1, DIGEST)


def digests_from_tensor(tensor: Tensor) -> list[bytes]:
    """The inverse of `digests_to_tensor`."""
    return [row.tobytes() for row in tensor.cpu().numpy()]
