"""Units that never matter: what a unit writes to the residual stream, at its most, against the state that it writes to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from medlens import hooks
from medlens.errors import BadInput
from medlens.models.base import Model
from medlens.walk.cases import Case
from medlens.walk.forward import Tick, walk
from medlens.walk.intervene import DOWN, Unit, down


def written_at_most(model: Model, walkers: Sequence[Case], name: str = DOWN, tick: Tick = lambda: None) -> list[Tensor]:
    """Of each block, (units,) float32: of each unit the largest |activation| x ||column of down_proj|| / ||state behind the block||
    over all tokens of the cases. (The score of Wanda, Sun et al. 2024, of a whole column, relative to what it is added to, and its
    largest, not its mean.) name: of the projection through which units write.

    Raises BadInput without cases, BadModel for a family whose blocks have no such projection, NotFinite.
    """
    if not walkers:
        raise BadInput("units are judged on prompts; got none")
    visitor = _Written(model, name)
    with ExitStack() as stack:
        for b in range(model.depth):
            visitor.noted.append(stack.enter_context(hooks.inputs_of_each([down(model, b, name)], lambda a: a[0].detach())))
        walk(model, walkers, [visitor], tick)
    return visitor.most


def units_never(model: Model, walkers: Sequence[Case], threshold: float = 0.01, name: str = DOWN) -> list[Unit]:
    """The units that write no more than `threshold` of the state they write to, at any token of the cases (see `written_at_most`),
    those that write least first. Give discovery images, and judge on others. `units_scaled(model, units, 0)` takes them out, and
    `medlens.edit` writes a checkpoint without them. Raises BadInput for a threshold that is not above 0, and what
    `written_at_most` raises."""
    if not threshold > 0:
        raise BadInput(f"a unit never matters below a threshold above 0; got {threshold}")
    most = written_at_most(model, walkers, name)
    return [unit for unit in quietest(most) if most[unit[0]][unit[1]] <= threshold]


def quietest(most: Sequence[Tensor]) -> list[Unit]:
    """All units of `written_at_most`, those that write least first."""
    units = [(block, unit) for block, of_block in enumerate(most) for unit in range(len(of_block))]
    return [units[k] for k in torch.cat(list(most)).argsort(stable=True).tolist()]


class _Written:
    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name = model, name
        self.noted: list[list[Tensor]] = []
        self.most: list[Tensor] = []

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        activations = self.noted[block].pop()
        if len(self.most) == block:
            self._columns = down(self.model, block, self.name).weight.float().norm(dim=0)
            self.most.append(torch.zeros(activations.shape[-1]))
        relative = activations.float().abs() / after.float().norm(dim=1, keepdim=True)
        self.most[block] = self.most[block].maximum((relative.amax(0) * self._columns).cpu())

    def leave(self, block: int) -> None:
        pass

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        pass
