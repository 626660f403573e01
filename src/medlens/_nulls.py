"""Nulls that cost a walk: the same cases through a model of random weights, or with noise in place of their images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from medlens.data.images import open_image
from medlens.data.noise import noise_like
from medlens.errors import BadInput, BadModel
from medlens.models import prompt as prompts_
from medlens.models.base import Model
from medlens.models.null import reinitialised
from medlens.plan import Plan
from medlens.walk.cases import Prompt
from medlens.walk.room import Spill

WALKED = ("weights", "noise")


def walked_nulls(plan: Plan) -> list[str]:
    """Those of the plan that cost a walk."""
    return [null for null in WALKED if null in plan.nulls]


def refuse_walked_nulls(plan: Plan) -> None:
    """Raise BadInput where a study that is shared out is to walk them."""
    if walked := walked_nulls(plan):
        raise BadInput(
            f"null {' and '.join(walked)}: not with --workers, --cluster or --shard yet; leave it out, or walk in one process"
        )


def null_walks(model: Model, prompts: Sequence[Prompt], plan: Plan, scratch: Path) -> Iterator[tuple[str, Model, list[Prompt]]]:
    """Name, model and prompts of each; with the answers that were given to the real images by the real model."""
    for null in walked_nulls(plan):
        if null == "weights":
            yield null, reinitialised(model, plan.seed), list(prompts)
        else:
            yield null, model, _noisy(model, prompts, plan.seed, Spill(scratch))


def _noisy(model: Model, prompts: Sequence[Prompt], seed: int, spill: Spill) -> list[Prompt]:
    """The same tokens behind noise: one noise image for each distinct image, made once and kept on disk until it is needed."""
    looks: dict[str, prompts_.Look] = {}
    found = []
    for prompt in prompts:
        if prompt.image not in looks:
            shown = [open_image(image, prompt.sample.id, grey=True) for image in prompt.sample.images]
            number = len(looks) * 1000  # a thousand images to a sample at most
            look = prompts_.look(model, [noise_like(image, seed, number + k) for k, image in enumerate(shown)])
            if look.placeholders != prompt.look.placeholders:
                raise BadModel(f"{model.name}: noise of the size of sample {prompt.sample.id}'s image takes other tokens than it")
            looks[prompt.image] = replace(look, make=partial(spill.fetch, spill.keep(look.inputs)))
        found.append(replace(prompt, look=looks[prompt.image]))
    return found
