"""Attention knockout: tokens of one group can no longer look at those of another, in chosen blocks (Geva et al. 2023).

What is changed is the mask that a block is called with, in a copy of its step: neither the model nor the way is touched, so there
is nothing to put back. A knocked-out way always holds an additive mask, which "eager" and "sdpa" both take.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from medlens import hooks
from medlens.errors import BadInput, BadModel
from medlens.models.base import Model
from medlens.models.prompt import as_batch
from medlens.walk.again import Again
from medlens.walk.cases import Case
from medlens.walk.packing import additive, visible
from medlens.walk.way import Way

MASK = "attention_mask"  # what every block of transformers is called with
LAST = "last"  # the rows that predict: the token in front of the answer, and all behind it
PATHS: dict[str, tuple[str, tuple[str, ...]]] = {  # name: whose tokens are no longer seen, and by whose
    "image to question": ("image", ("text",)),
    "image to template": ("image", ("template",)),
    "image to last": ("image", (LAST,)),
    "question to last": ("text", (LAST,)),
    "image to all": ("image", ("text", "template", LAST)),
}


@dataclass(frozen=True)
class Knockout:
    """Blocks the attention along `paths` (names of `PATHS`) in `blocks`; as `changed` of `Again.walk`.

    The groups share the places among them: a place that predicts is LAST, whatever else it is. To block the image's way to the
    question alone leaves the template's tokens behind it, which carry the image on: "image to all" blocks every way. No token is
    kept from seeing itself. Raises BadInput for a path or a case that has none of these tokens, and for masks that were made for
    another attention than "eager" or "sdpa"; BadModel for blocks that take no mask.
    """

    model: Model
    paths: tuple[str, ...]
    blocks: range

    def __call__(self, case: Case, block: int, way: Way) -> Way:
        """The way with a step changed, where the block is one of these; else the way itself."""
        if block not in self.blocks:
            return way
        if way.attention not in ("eager", "sdpa"):
            raise BadInput(f"attention is blocked under eager and sdpa; this model runs {way.attention}: use one of these")
        step = way.steps[block]
        if MASK not in step.call.kwargs:
            raise BadModel(f"{self.model.name}: block {block} of {self.model.family} is called without {MASK}: nothing to block")
        mask = _blocked(self.model, case, step.call.kwargs[MASK], self.cut(case))
        call = hooks.Call(step.call.args, {**step.call.kwargs, MASK: mask})
        return Way([*way.steps[:block], step._replace(call=call), *way.steps[block + 1 :]], "eager")

    def cut(self, case: Case) -> Tensor:
        """(T, T) bool: row i shall not see column j."""
        members, device = _members(case), self.model.device
        found = torch.zeros((len(case.pack.ids),) * 2, dtype=torch.bool, device=device)
        for path in self.paths:
            seen, seeing = _ends(path)
            rows = torch.tensor([group in seeing for group in members], device=device)
            columns = torch.tensor([group == seen for group in case.groups], device=device)
            if not (rows.any() and columns.any()):
                raise BadInput(f"{case.who(len(members) - 1)}: nothing to block on the path {path}: there are no such tokens")
            found |= rows[:, None] & columns[None]
        return found & ~torch.eye(len(members), dtype=torch.bool, device=device)

    def verify(self, again: Again, number: int) -> None:
        """Walk a case with the paths blocked in all blocks, and look: raises BadModel unless the blocked weights are exactly zero
        behind every block's softmax."""
        model, cut = self.model, self.cut(again.walkers[number])
        everywhere = Knockout(model, self.paths, range(model.depth))
        with hooks.attention(model.module, "eager"), ExitStack() as stack:
            largest = [stack.enter_context(hooks.attentions_of(b, lambda w: w[0][:, cut].abs().max())) for b in model.blocks]
            again.walk(lambda case, normed: None, 0, [number], changed=everywhere)
        for block, collected in enumerate(largest):
            if len(collected) != 1 or float(collected[0]) != 0:
                raise BadModel(f"{model.name}: block {block} still attends along {', '.join(self.paths)}: {collected}")


def predicting(case: Case, branch: int) -> list[int]:
    """The places of a case whose logits say a prompt's answer: of the token in front of it, and of all behind (the last ones say
    what would follow it)."""
    tokens, rows = case.prompts[branch].tokens, case.pack.rows(branch)
    return rows[min(tokens.where("answer"), default=len(tokens)) - 1 :]


def _members(case: Case) -> list[str]:
    """Of each place its group, or LAST."""
    found: list[str] = list(case.groups)
    for branch in range(len(case.prompts)):
        for place in predicting(case, branch):
            found[place] = LAST
    return found


def _ends(path: str) -> tuple[str, Sequence[str]]:
    if path not in PATHS:
        raise BadInput(f"attention can be blocked along {', '.join(PATHS)}; got {path!r}")
    return PATHS[path]


def _blocked(model: Model, case: Case, mask: Tensor | None, cut: Tensor) -> Tensor:
    """An additive mask, (1, heads or 1, T, T): the block's own and the cut. None is what "sdpa" takes for plain causal attention;
    it makes masks of bool, too, which "eager" would add."""
    places = len(case.pack.ids)
    if mask is None:
        segments, positions = torch.zeros(1, places, device=model.device, dtype=torch.long), as_batch(range(places), model.device)
        mask = additive(visible(segments, positions), model.dtype)
    if mask.dim() != 4 or mask.shape[-2:] != (places, places):
        raise BadModel(f"{model.name}: expected a mask (1, heads, {places}, {places}); a block is called with {tuple(mask.shape)}")
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, torch.finfo(model.dtype).min)
    return mask.masked_fill(cut, torch.finfo(mask.dtype).min)
