"""Interventions: the model as it is, but for what some of its units do. Context managers, which leave nothing behind.

A unit is an entry of what enters a block's `down_proj`: its activation, act(gate(x)) * up(x).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from medlens import hooks
from medlens.errors import BadInput, BadModel
from medlens.models.base import Model

DOWN = "mlp.down_proj"
Unit = tuple[int, int]  # (block, unit)


def down(model: Model, block: int, name: str = DOWN) -> nn.Linear:
    """The projection through which a block's units write, by its name in the block. Raises BadInput for a block that is not there;
    BadModel for a family whose blocks have none of this name."""
    if not 0 <= block < model.depth:
        raise BadInput(f"{model.name} has blocks 0 to {model.depth - 1}; got {block}")
    try:
        found = model.blocks[block].get_submodule(name)
    except AttributeError:
        found = None
    if not isinstance(found, nn.Linear):
        raise BadModel(f"{model.name}: block {block} of {model.family} has no {name}, so its units are not known")
    return found


@contextmanager
def units_scaled(model: Model, units: Sequence[Unit], factor: float = 0.0, name: str = DOWN) -> Iterator[None]:
    """With the activations of these units multiplied by a factor, at every token: 0 ablates them, 2 is the mirror test. name: of
    the projection through which they write."""
    with _changed(model, units, lambda _, activations: activations * factor, name):
        yield


@contextmanager
def units_set(
    model: Model, units: Sequence[Unit], values: Mapping[Unit, float | Tensor], name: str = DOWN
) -> Iterator[None]:  # fmt: skip
    """With the activations of these units set: to a number each (their mean over other images, for a mean ablation), or to as many
    as there are tokens, (T,) (another image's, for a resample ablation)."""
    if missing := [unit for unit in units if unit not in values]:
        raise BadInput(f"no value for {len(missing)} of {len(units)} units, the first of them {missing[0][0]}.{missing[0][1]}")

    def to(block: int, activations: Tensor, own: Sequence[int]) -> Tensor:
        given = [torch.as_tensor(values[block, unit], dtype=activations.dtype, device=activations.device) for unit in own]
        return torch.stack([one.expand(activations.shape[:-1]) for one in given], -1)

    with _changed(model, units, lambda at, activations: to(at[0], activations, at[1]), name):
        yield


@contextmanager
def units_noted(model: Model, units: Sequence[Unit], name: str = DOWN) -> Iterator[dict[int, list[Tensor]]]:
    """Collect these units' activations: of each block, of each of its calls in order, (T, k), its units in ascending order."""
    with ExitStack() as stack:
        yield {
            block: stack.enter_context(hooks.inputs_of_each([down(model, block, name)], lambda a, own=own: a[0][:, own].clone()))
            for block, own in by_block(model, units, name).items()
        }


@contextmanager
def units_swapped(model: Model, units: Sequence[Unit], name: str = DOWN) -> Iterator[None]:
    """With the activations of these units taken from another sample of as many tokens (a resample ablation), which walks just in
    front: of every two calls of a block the first is left as it is, and gives the second one its activations."""
    given: dict[int, Tensor] = {}

    def to(at: tuple[int, list[int]], activations: Tensor) -> Tensor:
        if at[0] in given:
            return given.pop(at[0])
        given[at[0]] = activations.clone()
        return activations

    with _changed(model, units, to, name):
        yield


Change = Callable[[tuple[int, list[int]], Tensor], Tensor]  # ((block, units), their activations (..., T, k)) to other ones


@contextmanager
def _changed(model: Model, units: Sequence[Unit], change: Change, name: str) -> Iterator[None]:
    with ExitStack() as stack:
        for block, own in by_block(model, units, name).items():
            stack.enter_context(hooks.changed_input(down(model, block, name), _only(own, lambda a, at=(block, own): change(at, a))))
        yield


def _only(own: list[int], change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def changed(activations: Tensor) -> Tensor:
        new = activations.clone()
        new[..., own] = change(activations[..., own])
        return new

    return changed


def by_block(model: Model, units: Sequence[Unit], name: str = DOWN) -> dict[int, list[int]]:
    """The units of each block, ascending. Raises BadInput for units that are not there."""
    found: dict[int, list[int]] = defaultdict(list)
    for block, unit in sorted(set(units)):
        wide = down(model, block, name).in_features
        if not 0 <= unit < wide:
            raise BadInput(f"unit {block}.{unit}: block {block} of {model.name} has units 0 to {wide - 1}")
        found[block].append(unit)
    return dict(found)
