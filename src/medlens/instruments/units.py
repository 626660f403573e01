"""On the way back: of each image token the units of the MLP that a target's gradient points to, and the words these write."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medlens import hooks
from medlens.errors import BadModel
from medlens.measures.units import NONE, decode, strongest
from medlens.models.base import Model
from medlens.models.unembedding import Unembedding
from medlens.walk.cases import Case
from medlens.walk.reverse import Traced
from medlens.walk.target import Aim, EveryLogit, Target

TOP = 10  # units of each image token
WORDS = 1024  # of the vocabulary at a time, against all units of a block: 56 MiB of 14,336 in float32


class Names(NamedTuple):
    """Where a block's MLP has its parts, by their names in the block."""

    gate: str = "mlp.gate_proj"
    down: str = "mlp.down_proj"


class Convention(NamedTuple):
    """Whose gradient is taken, with respect to what (`gate`: what `gate_proj` returns; else what `down_proj` is given, the unit's
    own activation), and whether units are decoded with the final norm's weight."""

    aim: type[EveryLogit] | type[Target]
    gate: bool
    folded: bool


CONVENTIONS = {"published": Convention(EveryLogit, True, False), "sound": Convention(Target, False, True)}


class Units:
    """Follows the targets of one convention, and no others, into some blocks.

    words: of each block and image, the words of the strongest units of each image token, (T, k) ids (NONE where no gradient comes
    back to a token: any ten units would be as good). all: of each block, the word of
    every unit, (units,) ids.
    """

    def __init__(self, model: Model, blocks: Collection[int], convention: Convention, names: Names = Names()) -> None:  # noqa: B008
        self.model, self.blocks, self.convention, self.names = model, blocks, convention, names
        self.head = Unembedding(model, WORDS)
        self.words: dict[tuple[int, str], Tensor] = {}
        self.all: dict[int, Tensor] = {}

    def begin(self, case: Case, target: Aim, value: float, state: Tensor, gradient: Tensor) -> None: ...

    def inside(self, block: int, module: nn.Module) -> AbstractContextManager[list[Tensor]]:
        if block not in self.blocks:
            return nullcontext([])
        if self.convention.gate:
            return hooks.outputs_of_each([part_of(self.model, module, self.names.gate)])
        return hooks.inputs_of(part_of(self.model, module, self.names.down))

    def visit(self, block: int, case: Case, target: Aim, state: Tensor, gradient: Tensor, traced: list[Traced]) -> None:
        if block not in self.blocks or not isinstance(target, self.convention.aim):
            return
        if block not in self.all:  # now, because a streamed model's block is in memory now
            self.all[block] = self._decoded(block)
        shown = case.where("image")
        (units,) = traced
        value, gradient = units.value[0][shown], units.gradient[0][shown]
        reached = gradient.any(1)
        if not reached.any():
            raise BadModel(
                f"{self.model.name}: no gradient comes back to the image's tokens in block {block} (image {case.image}): "
                "there is nothing to explain there"
            )
        found = self.all[block][strongest(value, gradient, TOP)]
        self.words[block, case.image] = torch.where(reached[:, None], found, NONE)

    def leave(self, block: int) -> None: ...

    def _decoded(self, block: int) -> Tensor:
        down = part_of(self.model, self.model.blocks[block], self.names.down)
        with self.model.here("norm"):
            return decode(down.weight.detach().T, self.head.rows(self.convention.folded))  # pyright: ignore


def check_names(model: Model, names: Names = Names()) -> None:  # noqa: B008
    """Raise BadModel, saying what was looked for, where a block has no such parts."""
    for block in model.blocks:
        for name in names:
            part_of(model, block, name)


def part_of(model: Model, block: nn.Module, name: str) -> nn.Linear:
    """A linear part of a block, by its name in it. Raises BadModel for one that is not there."""
    try:
        part = block.get_submodule(name)
    except AttributeError:
        part = None
    if isinstance(part, nn.Linear):
        return part
    there = ", ".join(n for n, m in block.named_modules() if isinstance(m, nn.Linear)) or "none"
    raise BadModel(
        f"{model.name}: units were looked for in {name} of a {type(block).__name__}, whose linear parts are {there}; "
        "give the names with names=(gate, down), or leave units out (--unit-images 0)"
    )
