"""Attention heads as interventions know them: what a head gives is a slice of what enters the block's `o_proj`, as a unit is an
entry of what enters `down_proj`. So a head is changed as units are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from medlens.errors import BadInput, BadModel
from medlens.models.base import Model
from medlens.walk.intervene import Unit, down, units_scaled, units_swapped

OUT = "self_attn.o_proj"
Head = tuple[int, int]  # (block, head)


def heads_of(model: Model, block: int) -> int:
    """How many heads a block has. Raises BadModel for one whose attention does not say how wide a head is."""
    return down(model, block, OUT).in_features // _width(model, block)


@contextmanager
def heads_scaled(model: Model, heads: Sequence[Head], factor: float = 0.0) -> Iterator[None]:
    """With what these heads give multiplied by a factor, at every token: 0 ablates them. Raises BadInput for heads that are not
    there."""
    with units_scaled(model, _entries(model, heads), factor, OUT):
        yield


@contextmanager
def heads_swapped(model: Model, heads: Sequence[Head]) -> Iterator[None]:
    """With what these heads give taken from another sample of as many tokens, which walks just in front: of every two calls of a
    block the first is left as it is, and gives the second one its own (activation patching: Vig et al. 2020; Meng et al. 2022)."""
    with units_swapped(model, _entries(model, heads), OUT):
        yield


def _entries(model: Model, heads: Sequence[Head]) -> list[Unit]:
    found: list[Unit] = []
    for block, head in heads:
        count = heads_of(model, block)
        if not 0 <= head < count:
            raise BadInput(f"head {block}.{head}: block {block} of {model.name} has heads 0 to {count - 1}")
        width = _width(model, block)
        found += [(block, entry) for entry in range(head * width, (head + 1) * width)]
    return found


def _width(model: Model, block: int) -> int:
    found = getattr(getattr(model.blocks[block], "self_attn", None), "head_dim", None)
    if not isinstance(found, int):
        raise BadModel(f"{model.name}: the attention of block {block} does not say how wide a head is (self_attn.head_dim)")
    return found
