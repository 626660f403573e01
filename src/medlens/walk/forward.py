"""The walk: all cases through block b before any enters block b + 1, read by every visitor as they pass."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from medlens import hooks
from medlens.data.images import open_image
from medlens.errors import BadInput, NotFinite
from medlens.models.base import Model
from medlens.models.prompt import look, read
from medlens.types import Sample, Tokens
from medlens.walk.cases import Case, Prompt, arguments, cases
from medlens.walk.room import Room


class Visitor(Protocol):
    """An instrument in the room. States are (T, d), one row for each place of the case."""

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        """A case has passed `block`: `before` is its state `block`, `after` its state `block + 1`."""

    def leave(self, block: int) -> None:
        """All cases have passed `block`."""

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        """A case has left the last block: state L, raw and after the final norm."""


Tick = Callable[[], None]


def walk(model: Model, walkers: Sequence[Case], visitors: Sequence[Visitor], tick: Tick = lambda: None) -> None:
    """Walk the cases through the model's blocks. `tick` is called once for each case and block.

    Raises NotFinite, naming layer, sample and token, as soon as a state is not finite.
    """
    for passed in steps(model, walkers, visitors, tick, Room()):
        if passed < model.depth:
            for visitor in visitors:
                visitor.leave(passed)


def steps(model: Model, walkers: Sequence[Case], visitors: Sequence[Visitor], tick: Tick, room: Room) -> Generator[int]:
    """The walk, a block at a time: yields b when all cases have passed block b, and L when all have left the last one.

    The states wait in `room`, and the walk begins at the block that the room says. Of a model that is streamed, one block is in
    memory at a time, and none while whoever takes these steps works on what the visitors saw.
    """
    with hooks.evaluation(model.module), model.here("around", "norm", "head"):
        ways = [room.keep(_enter(model, case, k, room)) for k, case in enumerate(walkers)]
    room.close(room.begun)
    for b in range(room.begun, model.depth):
        with hooks.evaluation(model.module), model.here(b):
            model.expect(b + 1 if b + 1 < model.depth else "norm")
            for k, case in enumerate(walkers):
                before = room.get(b, k)
                after = _through(model.blocks[b], b, room.fetch(ways[k]), before)
                _check(after, case, b + 1)
                room.put(b + 1, k, after)
                for visitor in visitors:
                    visitor.visit(b, case, before, after)
                tick()
        room.close(b + 1)
        yield b
        room.forget(b)
    with hooks.evaluation(model.module), model.here("norm"):
        for k, case in enumerate(walkers):
            raw = room.get(model.depth, k)
            normed = model.norm(raw[None])[0]
            for visitor in visitors:
                visitor.finish(case, raw, normed)
    yield model.depth
    room.forget(model.depth)


def _through(block: nn.Module, b: int, way: _Way, state: Tensor) -> Tensor:
    """The state after a block, with what the model itself adds behind it."""
    out = block(state[None], *way.calls[b].args, **way.calls[b].kwargs)
    return ((out[0] if isinstance(out, tuple) else out) + way.added.get(b, 0))[0]


class _Way(NamedTuple):
    """What each block is to be called with for a case, and what the model adds to the states after some blocks (image features from
    further down the tower, in Qwen3-VL), so that state b + 1 is what enters block b + 1."""

    calls: list[hooks.Call]
    added: dict[int, Tensor]


def _enter(model: Model, case: Case, number: int, room: Room) -> _Way:
    """All that the model's own forward does around its blocks, found by stand-ins. State 0 goes to the room, unless the walk begins
    later."""
    with hooks.stand_ins(model.decoder) as standing, hooks.inputs_of(model.norm) as into_norm:
        model.module(**arguments(model, case), use_cache=False, logits_to_keep=1)
    calls = [s.call for s in standing if s.call is not None]
    state, *between = [*(s.entered for s in standing), into_norm[-1] if into_norm[-1].any() else None]
    if len(calls) != len(standing) or state is None:
        raise RuntimeError(f"{len(standing) - len(calls)} blocks were never called by {type(model.module).__name__}")
    _check(state[0], case, 0)
    if room.begun == 0:
        room.put(0, number, state[0])
    return _Way(calls, {b: added for b, added in enumerate(between) if added is not None})


def _check(state: Tensor, case: Case, layer: int) -> None:
    finite = torch.isfinite(state).all(1)
    if not finite.all():
        place = int((~finite).nonzero()[0])
        raise NotFinite(f"NaN or infinity in hidden state {layer}, {case.who(place)}; try --dtype float32")


@dataclass(frozen=True)
class Forward:
    """One sample's way through the model. Indices as in transformers.

    hidden_states: L + 1 tensors (T, d); 0 enters the first block, the last one is after the final norm. raw_last: (T, d), state L
    before that norm. logits: (T, V). attentions: L tensors (heads, T, T), rows sum to 1. tokens: ids, groups, texts.
    """

    hidden_states: tuple[Tensor, ...]
    raw_last: Tensor
    logits: Tensor
    attentions: tuple[Tensor, ...]
    tokens: Tokens


class _Collector:
    def __init__(self) -> None:
        self.states: list[Tensor] = []
        self.raw: Tensor | None = None

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        self.states.append(before)

    def leave(self, block: int) -> None:
        pass

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        self.raw = raw
        self.states.append(normed)


def forward(model: Model, sample: Sample, answer: str | None = None) -> Forward:
    """Run one sample (its prompt, or prompt and `answer`) and keep everything: see `Forward`.

    Raises BadImage, BadData (a control token in the question, a prompt too long) and NotFinite (layer, sample, token).
    """
    prompt = prepare(model, sample, answer)
    collector = _Collector()
    with hooks.attention(model.module, "eager"), ExitStack() as stack:
        collected = [stack.enter_context(hooks.attentions_of(block)) for block in model.blocks]
        walk(model, cases(model, [prompt]), [collector])
    assert collector.raw is not None
    with torch.no_grad(), model.here("head"):
        logits = model.unembed(collector.states[-1])
    attentions = tuple(weights[0][0] for weights in collected)
    return Forward(tuple(collector.states), collector.raw, logits, attentions, prompt.tokens)


def prepare(model: Model, sample: Sample, answer: str | None = None) -> Prompt:
    """One sample, its images opened and processed, its tokens grouped."""
    if not isinstance(sample, Sample):
        raise BadInput(f"expected a Sample; got {type(sample).__name__}")
    seen = look(model, [open_image(image, sample.id, grey=True) for image in sample.images])
    return Prompt(sample, seen, read(model, sample, seen, answer), sample.image_id or sample.id)
