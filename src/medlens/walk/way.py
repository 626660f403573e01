"""A case's way through the model: what each block is called with for it, found once, and the same in both directions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medlens import hooks
from medlens.errors import BadInput, NotFinite
from medlens.models.base import Model
from medlens.walk import replay
from medlens.walk.cases import Case, arguments
from medlens.walk.room import Room


class Way(NamedTuple):
    """A step for each block, and for which implementation of attention the masks were made."""

    steps: list[replay.Step]
    attention: str


def enter(model: Model, case: Case, number: int, room: Room) -> None:
    """All that the model's own forward does around its blocks. The way goes to the room, and so does state 0, unless the walk
    begins later."""
    state, found = replay.enter(model, lambda: model.module(**arguments(model, case), use_cache=False, logits_to_keep=1))
    check_state(state, case, 0)
    if room.begun == 0:
        room.put(0, number, state)
    room.keep(("way", number), Way(found, hooks.attention_of(model.module)))


def through(model: Model, b: int, way: Way, state: Tensor) -> Tensor:
    """State b + 1 of a case, (T, d), from its state b: block b, and what the model itself adds behind it.

    Raises BadInput when the masks were made for another implementation of attention (those for "eager" are plain numbers and serve
    "sdpa" as well; under "sdpa" there may be none at all, and "eager" would then look ahead).
    """
    now = hooks.attention_of(model.module)
    if way.attention != now and (way.attention, now) != ("eager", "sdpa"):
        raise BadInput(f"the cases entered with {way.attention} attention, block {b} is called with {now}: enter them with eager")
    return replay.through(model.blocks[b], way.steps[b], state)


def check_state(state: Tensor, case: Case, layer: int) -> None:
    """Raise NotFinite, naming layer, sample and token, for a state (T, d) that is not finite."""
    finite = torch.isfinite(state).all(1)
    if not finite.all():
        place = int((~finite).nonzero()[0])
        raise NotFinite(f"NaN or infinity in hidden state {layer}, {case.who(place)}; try --dtype float32")
