"""Units of an MLP on the way back: where a block has them, and a tracer that follows targets into them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medlens import hooks
from medlens.errors import BadModel
from medlens.models.base import Model
from medlens.models.unembedding import Unembedding
from medlens.walk.cases import Case
from medlens.walk.intervene import DOWN
from medlens.walk.reverse import Traced
from medlens.walk.target import Aim


class Names(NamedTuple):
    """Where a block's MLP has its parts, by their names in the block."""

    gate: str = "mlp.gate_proj"
    down: str = DOWN


class UnitTracer:
    """Follows the targets of one kind, and no others, into the units of some blocks, and tells `note` what comes back.

    gate: the units' value is what `gate_proj` returns; else what `down_proj` is given, the unit's own activation.
    """

    def __init__(
        self, model: Model, blocks: Collection[int], aim: type[Aim], gate: bool = False, names: Names = Names()  # noqa: B008
    ) -> None:  # fmt: skip
        self.model, self.blocks, self.aim, self.gate, self.names = model, blocks, aim, gate, names

    def begin(self, case: Case, target: Aim, value: float, state: Tensor, gradient: Tensor) -> None: ...

    def inside(self, block: int, module: nn.Module) -> AbstractContextManager[list[Tensor]]:
        if block not in self.blocks:
            return nullcontext([])
        if self.gate:
            return hooks.outputs_of_each([part_of(self.model, module, self.names.gate)])
        return hooks.inputs_of(part_of(self.model, module, self.names.down))

    def visit(self, block: int, case: Case, target: Aim, state: Tensor, gradient: Tensor, traced: list[Traced]) -> None:
        if block in self.blocks and isinstance(target, self.aim):
            (units,) = traced
            self.note(block, case, target, units.value[0], units.gradient[0])

    def note(self, block: int, case: Case, target: Aim, value: Tensor, gradient: Tensor) -> None:
        """value: of each unit at each place of the case, (T, units), and the target's gradient with respect to it."""
        raise NotImplementedError

    def leave(self, block: int) -> None: ...

    def written(self, block: int) -> Tensor:
        """What each unit of a block writes, (units, d) as rows. Of a streamed model, the block must be in memory."""
        return part_of(self.model, self.model.blocks[block], self.names.down).weight.detach().T


def words_written(
    model: Model, block: int, units: Sequence[int], count: int, names: Names = Names()  # noqa: B008
) -> list[tuple[list[str], list[str]]]:  # fmt: skip
    """Of each unit of a block so many words that it raises most when it is on, and that it lowers most: its column against the
    head, with the final norm's weight folded in (Geva et al. 2022)."""
    with model.here(block, "norm", "head"), torch.no_grad():
        columns = part_of(model, model.blocks[block], names.down).weight.detach()[:, list(units)]
        scores = torch.cat([rows @ columns for _, rows in Unembedding(model).rows(folded=True)]).float()
    k, say = min(count, len(scores)), model.tokenizer.convert_ids_to_tokens
    most, least = (each.topk(k, dim=0).indices.T.tolist() for each in (scores, -scores))
    return [(say(up), say(down)) for up, down in zip(most, least, strict=True)]


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
        "give the names with names=(gate, down) (--gate, --down), or leave units out of a study (--unit-images 0)"
    )
