"""A few samples, token by token: where each token looks, and which units write most at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from medlens import hooks
from medlens.data.images import open_image
from medlens.errors import BadModel
from medlens.measures.sinks import sinks
from medlens.models import Model
from medlens.models.registration import boxes
from medlens.walk.cases import Case, Prompt, cases
from medlens.walk.forward import steps
from medlens.walk.room import Room
from medlens.walk.units import Names, part_of, words_written

UNITS = 5  # that are kept, of each token in each block
WORDS = 8  # that a unit raises most, and lowers most

Tick = Callable[[], None]
Record = dict[str, Any]


def shown(model: Model, prompts: Sequence[Prompt], room: Room | None = None, tick: Tick = lambda: None) -> dict[str, list[Record]]:
    """Of these prompts the records of the tables `looks`, `fires` and `unit_writes` (see `medlens.tables.viewing`).

    Attention is the mean over heads. A unit's rank at a token is |activation| x length of its column of `down_proj`: how much it
    writes there. What it raises and lowers is its column against the head, with the final norm's weight folded in (Geva et al.
    2022). A model whose blocks have no `mlp.down_proj` has no `fires`. room: where states wait. `tick`: for each prompt and block.
    """
    laid = [cases(model, [prompt])[0] for prompt in prompts]
    parts = _down(model)
    looks: list[Record] = []
    fires: list[Record] = []
    with hooks.attention(model.module, "eager"), ExitStack() as stack:
        attended = [stack.enter_context(hooks.attentions_of(block, _mean)) for block in model.blocks]
        strongest = [stack.enter_context(hooks.inputs_of_each([part], _strongest(part))) for part in parts]
        for b in steps(model, laid, [], tick, room or Room()):
            if b < model.depth:
                looks += [r for case, a in zip(laid, attended[b], strict=True) for r in _looks(case, b, a)]
                attended[b].clear()
            if b < len(parts):
                fires += [r for case, found in zip(laid, strongest[b], strict=True) for r in _fires(case, b, found)]
                strongest[b].clear()
    return {"looks": looks, "fires": fires, "unit_writes": _writes(model, {(f["layer"], u) for f in fires for u in f["units"]})}


def places(model: Model, prompts: Sequence[Prompt]) -> list[Record]:
    """Where the image tokens of these prompts lie on their images: records of the table `places`."""
    found: list[Record] = []
    for sample in (prompt.sample for prompt in prompts if len(prompt.sample.images) == 1):
        image = open_image(sample.image, sample.id, grey=True)
        try:
            placed = boxes(model, image)
        except BadModel:
            return []  # a family whose tokens cannot be placed
        shares = (placed / [image.width, image.height, image.width, image.height]).tolist()
        edges = ("left", "top", "right", "bottom")
        found += [{"sample": sample.id, "token": k} | dict(zip(edges, box, strict=True)) for k, box in enumerate(shares)]
    return found


def _down(model: Model) -> list[nn.Linear]:
    try:
        return [part_of(model, block, Names().down) for block in model.blocks]
    except BadModel:
        return []  # mixtures of experts, and others: units are another thing there


def _mean(weights: Tensor) -> Tensor:
    """(1, heads, T, T) to (T, T)."""
    return weights[0].float().mean(0).cpu()


def _strongest(part: nn.Linear) -> Callable[[Tensor], Tensor]:
    """Of activations (1, T, units) the strongest of each token, as (2, T, k): their numbers and their activations."""

    def kept(activations: Tensor) -> Tensor:
        own = activations[0].float()
        at = (own.abs() * part.weight.detach().float().norm(dim=0)).topk(min(UNITS, own.shape[1])).indices
        return torch.stack([at.double(), own.gather(1, at).double()]).cpu()

    return kept


def _tokens(case: Case, block: int) -> list[tuple[int, Record]]:
    """Of each token its place in the case, and what its records begin with."""
    (prompt,), (places,) = case.prompts, case.readings
    about = zip(places, prompt.tokens.texts, prompt.tokens.groups, strict=True)
    return [
        (place, {"sample": prompt.sample.id, "layer": block, "position": k, "token": text, "tokens": group})
        for k, (place, text, group) in enumerate(about)
    ]


def _looks(case: Case, block: int, attention: Tensor) -> list[Record]:
    image = [i for i, group in enumerate(case.groups) if group == "image"]
    if not image:
        return []
    weights = attention[:, image]
    drawn = sinks(weights[max(image) + 1 :]).nonzero()[:, 0].tolist()
    return [
        {**about, "weights": weights[place].tolist(), "sinks": drawn} for place, about in _tokens(case, block) if place > max(image)
    ]


def _fires(case: Case, block: int, found: Tensor) -> list[Record]:
    units, activations = found[0].long(), found[1]
    return [
        {**about, "units": units[place].tolist(), "activations": activations[place].tolist()}
        for place, about in _tokens(case, block)
    ]


def _writes(model: Model, units: set[tuple[int, int]]) -> list[Record]:
    found: list[Record] = []
    for block in sorted({b for b, _ in units}):
        numbers = sorted(u for b, u in units if b == block)
        said = words_written(model, block, numbers, WORDS)
        found += [{"layer": block, "unit": u, "raises": up, "lowers": down} for u, (up, down) in zip(numbers, said, strict=True)]
    return found
