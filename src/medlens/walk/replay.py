"""What a family does around its blocks, found by stand-ins and not by knowing it: what enters them and what each is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medlens import hooks
from medlens.models.base import Model


class Step(NamedTuple):
    """What a block is called with, and what the model adds to the state behind it (image features from further down the tower, in
    Qwen3-VL)."""

    call: hooks.Call
    added: Tensor | None


def enter(model: Model, forward: Callable[[], object]) -> tuple[Tensor, list[Step]]:
    """State 0, (T, d), and a step for each block, of a forward of the model (or of its decoder)."""
    with hooks.stand_ins(model.decoder) as standing, hooks.inputs_of(model.norm) as into_norm:
        forward()
    calls = [s.call for s in standing if s.call is not None]
    if len(calls) != len(standing):
        raise RuntimeError(f"{len(standing) - len(calls)} blocks were never called by {type(model.module).__name__}")
    left = into_norm[-1]
    state = torch.zeros_like(left) if standing[0].entered is None else standing[0].entered  # zeros: a padding token's
    added = [*(s.entered for s in standing[1:]), left if left.any() else None]
    return state[0], [Step(call, more) for call, more in zip(calls, added, strict=True)]


def through(block: nn.Module, step: Step, state: Tensor) -> Tensor:
    """The state after a block, (T, d)."""
    return through_many(block, step, state[None])[0]


def through_many(block: nn.Module, step: Step, states: Tensor) -> Tensor:
    """The states after a block of several variants of what it was called for, (variants, T, d): masks and positions, made for one,
    serve them all."""
    out = block(states, *step.call.args, **step.call.kwargs)
    after = out[0] if isinstance(out, tuple) else out
    return after if step.added is None else after + step.added
