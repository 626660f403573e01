"""On the way back: of each image token the units of the MLP that a target's gradient points to, and the words these write."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from medlens.errors import BadModel
from medlens.measures.units import NONE, decode, strongest
from medlens.models.base import Model
from medlens.models.unembedding import Unembedding
from medlens.walk.cases import Case
from medlens.walk.target import Aim, EveryLogit, Target
from medlens.walk.units import Names, UnitTracer

TOP = 10  # units of each image token
WORDS = 1024  # of the vocabulary at a time, against all units of a block: 56 MiB of 14,336 in float32


class Convention(NamedTuple):
    """Whose gradient is taken, with respect to what (`gate`: what `gate_proj` returns; else what `down_proj` is given, the unit's
    own activation), and whether units are decoded with the final norm's weight."""

    aim: type[EveryLogit] | type[Target]
    gate: bool
    folded: bool


CONVENTIONS = {"published": Convention(EveryLogit, True, False), "sound": Convention(Target, False, True)}


class Units(UnitTracer):
    """Follows the targets of one convention, and no others, into some blocks.

    words: of each block and image, the words of the strongest units of each image token, (T, k) ids (NONE where no gradient comes
    back to a token: any ten units would be as good). all: of each block, the word of
    every unit, (units,) ids.
    """

    def __init__(self, model: Model, blocks: Collection[int], convention: Convention, names: Names = Names()) -> None:  # noqa: B008
        super().__init__(model, blocks, convention.aim, convention.gate, names)
        self.convention = convention
        self.head = Unembedding(model, WORDS)
        self.words: dict[tuple[int, str], Tensor] = {}
        self.all: dict[int, Tensor] = {}

    def note(self, block: int, case: Case, target: Aim, value: Tensor, gradient: Tensor) -> None:
        if block not in self.all:  # now, because a streamed model's block is in memory now
            with self.model.here("norm"):
                self.all[block] = decode(self.written(block), self.head.rows(self.convention.folded))
        shown = case.where("image")
        value, gradient = value[shown], gradient[shown]
        reached = gradient.any(1)
        if not reached.any():
            raise BadModel(
                f"{self.model.name}: no gradient comes back to the image's tokens in block {block} (image {case.image}): "
                "there is nothing to explain there"
            )
        found = self.all[block][strongest(value, gradient, TOP)]
        self.words[block, case.image] = torch.where(reached[:, None], found, NONE)
