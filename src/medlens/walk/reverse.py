"""The way back: gradients of targets, found by entering the blocks again in reverse order.

The gradient of a target with respect to state b is the vector-Jacobian product of block b with its gradient with respect to state
b + 1. A block is run once more from the state that was kept (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost), and
its graph then serves every target of the case; so the weights of one block, and the graph of one block and one case, are all that
is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from medlens import hooks
from medlens.errors import BadInput, NotFinite
from medlens.models.base import Model
from medlens.walk.cases import Case
from medlens.walk.forward import Tick, steps
from medlens.walk.room import Room
from medlens.walk.target import Aim, check_targets, cotangent
from medlens.walk.way import Way, through


class Traced(NamedTuple):
    """A tensor inside a block, and the gradient of a target with respect to it, of the same shape."""

    value: Tensor
    gradient: Tensor


class Tracer(Protocol):
    """An instrument that follows targets on their way back. States and gradients are (T, d), one row for each place of the case.
    All are to be read and not written to."""

    def begin(self, case: Case, target: Aim, value: float, state: Tensor, gradient: Tensor) -> None:
        """A target sets out: its value, state L (raw), and the target's gradient with respect to that."""

    def inside(self, block: int, module: nn.Module) -> AbstractContextManager[list[Tensor]]:
        """What to trace inside a block: a context (from `hooks`) that collects tensors while the block works;
        `contextlib.nullcontext([])` for nothing."""
        ...

    def visit(self, block: int, case: Case, target: Aim, state: Tensor, gradient: Tensor, traced: list[Traced]) -> None:
        """A target has come back through `block`: state `block`, the target's gradient with respect to it, and the tensors that
        `inside` collected, in their order."""

    def leave(self, block: int) -> None:
        """All targets have come back through `block`."""


def reverse(
    model: Model,
    walkers: Sequence[Case],
    targets: Sequence[Sequence[Aim]],
    tracers: Sequence[Tracer],
    room: Room,
    tick: Tick = lambda: None,
) -> None:
    """Walk the cases to the last state and their targets back to state `room.kept_from`. targets: of each case. `tick` is called
    once for each case and block, there and back.

    Raises BadInput for targets that are none and for a room that keeps no states; NotFinite.
    """
    check_targets(model, walkers, targets)
    _down_to(model, room)
    for _ in steps(model, walkers, [], tick, room):
        pass
    for passed in steps_back(model, walkers, targets, tracers, tick, room):
        if passed < model.depth:
            for tracer in tracers:
                tracer.leave(passed)


def steps_back(
    model: Model,
    walkers: Sequence[Case],
    targets: Sequence[Sequence[Aim]],
    tracers: Sequence[Tracer],
    tick: Tick,
    room: Room,
) -> Iterator[int]:
    """The way back of cases that have walked (`steps`) in this room: yields L when all targets have set out, and b when all have
    come back through block b, from L - 1 down to `room.kept_from`. States that lie behind are forgotten; blocks further down are
    never touched. Of a model that is streamed, one part is in memory at a time, and none while whoever takes these steps works on
    what the tracers saw.

    Raises NotFinite, naming layer and sample, as soon as a gradient is not finite.
    """
    check_targets(model, walkers, targets)
    down_to = _down_to(model, room)
    with hooks.evaluation(model.module), model.here("norm", "head"), hooks.frozen(model.norm, model.head):
        for k, case in enumerate(walkers):
            if targets[k]:
                _set_out(model, k, case, targets[k], tracers, room)
    yield model.depth
    room.forget(model.depth)
    for b in reversed(range(down_to, model.depth)):
        with hooks.evaluation(model.module), model.here(b), hooks.frozen(model.blocks[b]):
            if b > down_to:
                model.expect(b - 1)
            for k, case in enumerate(walkers):
                if targets[k]:
                    _come_back(model, b, k, case, targets[k], tracers, room)
                tick()
        yield b
        room.forget(b)


def _down_to(model: Model, room: Room) -> int:
    """The state down to which a room lets targets come back. Raises BadInput if it is none of the model's."""
    if room.kept_from is None or not 0 <= room.kept_from <= model.depth:
        raise BadInput(f"a way back needs a room with kept_from=0 to {model.depth}; got {room.kept_from}")
    return room.kept_from


def _set_out(model: Model, k: int, case: Case, aims: Sequence[Aim], tracers: Sequence[Tracer], room: Room) -> None:
    """All targets of a case from the words to the last state."""
    state = room.get(model.depth, k)
    for j, target in enumerate(aims):
        value, gradient = cotangent(model, case, target, state)
        _check(gradient, model.depth, case, target)
        room.keep(("gradient", k, j), gradient)
        for tracer in tracers:
            tracer.begin(case, target, value, state, gradient)


def _come_back(model: Model, b: int, k: int, case: Case, aims: Sequence[Aim], tracers: Sequence[Tracer], room: Room) -> None:
    """All targets of a case through block b. The graph lives no longer than this call."""
    state = room.get(b, k)
    entered = state.detach().requires_grad_()
    collected, after = _enter_again(model, b, room.fetch(("way", k)), entered, tracers)
    within = [tensor for each in collected for tensor in each]
    for j, target in enumerate(aims):
        name = ("gradient", k, j)
        gradient, *inner = torch.autograd.grad(after, [entered, *within], room.fetch(name), retain_graph=j + 1 < len(aims))
        _check(gradient, b, case, target)
        if b == room.kept_from:
            room.drop(name)
        else:
            room.keep(name, gradient)
        traced = iter([Traced(tensor.detach(), of_it) for tensor, of_it in zip(within, inner, strict=True)])
        for tracer, own in zip(tracers, collected, strict=True):
            tracer.visit(b, case, target, state, gradient, [next(traced) for _ in own])


def _enter_again(model: Model, b: int, way: Way, entered: Tensor, tracers: Sequence[Tracer]) -> tuple[list[list[Tensor]], Tensor]:
    """What each tracer has collected inside a block, and the state after it, all with the graph that leads there."""
    with ExitStack() as stack, torch.enable_grad():
        collected = [stack.enter_context(tracer.inside(b, model.blocks[b])) for tracer in tracers]
        after = through(model, b, way, entered)
    for tensor in (tensor for each in collected for tensor in each):
        if not (isinstance(tensor, Tensor) and tensor.requires_grad):
            raise BadInput(
                f"what is to be traced inside block {b} is no part of what it computes (attention weights: only with eager)"
            )
    return collected, after


def _check(gradient: Tensor, layer: int, case: Case, target: Aim) -> None:
    """What is not finite inside a block is not finite in front of it either: so this one gradient says it for all of them."""
    if not torch.isfinite(gradient).all():
        sample = case.prompts[target.branch].sample.id or "?"
        raise NotFinite(f"NaN or infinity in the gradient at hidden state {layer}, sample {sample}; try --dtype float32")
