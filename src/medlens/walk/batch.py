"""Many variants of one case at once: states that differ, through blocks that are called alike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medlens import hooks
from medlens.models.base import Model
from medlens.walk.replay import Step, through_many

Row = Callable[[Tensor], Tensor]  # logits (words, V) of a variant to a number


def onward(model: Model, steps: list[Step], states: Tensor, begin: int = 0) -> list[Tensor]:
    """States of all variants, (variants, T, d) each, from state `begin` (which is given) to the last."""
    found = [states]
    with hooks.evaluation(model.module):
        for b in range(begin, model.depth):
            with model.here(b):
                found.append(through_many(model.blocks[b], steps[b], found[-1]))
    return found


def valued(model: Model, last: Tensor, places: list[int], of: Row) -> Tensor:
    """A target's value for each variant, (variants,), from their last states (variants, T, d), raw."""
    with hooks.evaluation(model.module), model.here("norm", "head"):
        logits = model.unembed(model.norm(last[:, places]))
        return torch.stack([of(one) for one in logits])


def gradients(model: Model, steps: list[Step], states: Tensor, places: list[int], of: Row) -> tuple[Tensor, Tensor]:
    """A target's value for each variant, (variants,), and its gradient with respect to state 0, (variants, T, d): there and back, a
    block's weights and its graph in memory at a time."""
    every = onward(model, steps, states)
    with hooks.evaluation(model.module), model.here("norm", "head"), hooks.frozen(model.norm, model.head), torch.enable_grad():
        rows = every[-1][:, places].requires_grad_()
        values = torch.stack([of(one) for one in model.unembed(model.norm(rows))])
        (of_rows,) = torch.autograd.grad(values.sum(), rows)
    index = torch.tensor(places, device=states.device)
    gradient = torch.zeros_like(every.pop()).index_add_(1, index, of_rows)
    for b in reversed(range(model.depth)):
        with hooks.evaluation(model.module), model.here(b), hooks.frozen(model.blocks[b]), torch.enable_grad():
            entered = every.pop().detach().requires_grad_()
            after = through_many(model.blocks[b], steps[b], entered)
            (gradient,) = torch.autograd.grad(after, entered, gradient)
    return values.detach(), gradient
