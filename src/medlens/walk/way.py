"""A case's way through the model: what each block is called with for it, found once, and the same in both directions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medlens import hooks
from medlens.errors import BadInput, NotFinite
from medlens.models.base import Model
from medlens.walk.cases import Case, arguments
from medlens.walk.room import Room


class Way(NamedTuple):
    """What each block is to be called with for a case, what the model adds to the states after some blocks (image features from
    further down the tower, in Qwen3-VL), so that state b + 1 is what enters block b + 1, and for which implementation of attention
    the masks were made."""

    calls: list[hooks.Call]
    added: dict[int, Tensor]
    attention: str


def enter(model: Model, case: Case, number: int, room: Room) -> None:
    """All that the model's own forward does around its blocks, found by stand-ins. The way goes to the room, and so does state 0,
    unless the walk begins later."""
    with hooks.stand_ins(model.decoder) as standing, hooks.inputs_of(model.norm) as into_norm:
        model.module(**arguments(model, case), use_cache=False, logits_to_keep=1)
    calls = [s.call for s in standing if s.call is not None]
    state, *between = [*(s.entered for s in standing), into_norm[-1] if into_norm[-1].any() else None]
    if len(calls) != len(standing) or state is None:
        raise RuntimeError(f"{len(standing) - len(calls)} blocks were never called by {type(model.module).__name__}")
    check_state(state[0], case, 0)
    if room.begun == 0:
        room.put(0, number, state[0])
    added = {b: added for b, added in enumerate(between) if added is not None}
    room.keep(("way", number), Way(calls, added, hooks.attention_of(model.module)))


def through(model: Model, b: int, way: Way, state: Tensor) -> Tensor:
    """State b + 1 of a case, (T, d), from its state b: block b, and what the model itself adds behind it.

    Raises BadInput when the masks were made for another implementation of attention (those for "eager" are plain numbers and serve
    "sdpa" as well; under "sdpa" there may be none at all, and "eager" would then look ahead).
    """
    now = hooks.attention_of(model.module)
    if way.attention != now and (way.attention, now) != ("eager", "sdpa"):
        raise BadInput(f"the cases entered with {way.attention} attention, block {b} is called with {now}: enter them with eager")
    out = model.blocks[b](state[None], *way.calls[b].args, **way.calls[b].kwargs)
    return ((out[0] if isinstance(out, tuple) else out) + way.added.get(b, 0))[0]


def check_state(state: Tensor, case: Case, layer: int) -> None:
    """Raise NotFinite, naming layer, sample and token, for a state (T, d) that is not finite."""
    finite = torch.isfinite(state).all(1)
    if not finite.all():
        place = int((~finite).nonzero()[0])
        raise NotFinite(f"NaN or infinity in hidden state {layer}, {case.who(place)}; try --dtype float32")
