"""A blank in the place of the image: mid-grey, of the same size, the way through processor and tower that every image goes."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from medlens import hooks
from medlens.data.images import open_image
from medlens.errors import BadModel
from medlens.models.base import Model
from medlens.models.prompt import look
from medlens.saliency.asked import Asked
from medlens.walk import replay
from medlens.walk.cases import Case, arguments, cases

GREY = 128


class Entered(NamedTuple):
    """State 0 of a case with its image, and with the blank, (T, d) each; and what the blocks are called with."""

    own: Tensor
    blank: Tensor
    steps: list[replay.Step]


def entered(model: Model, asked: Asked) -> Entered:
    """Raises BadModel where what the model adds behind a block depends on the image (Qwen3-VL): state 0 is not all of it then."""
    prompt = asked.case.prompts[0]
    images = [open_image(image, prompt.sample.id, grey=True) for image in prompt.sample.images]
    greys = look(model, [Image.new(image.mode, image.size, tuple([GREY] * len(image.getbands()))) for image in images])
    other = cases(model, [replace(prompt, look=greys)])[0]
    with hooks.evaluation(model.module), model.here("around", "norm", "head"):
        own, steps = _enter(model, asked.case)
        blank, _ = _enter(model, other)
    if any(step.added is not None for step in steps):
        raise BadModel(f"{model.name}: {model.family} adds image features behind blocks too, which state 0 does not hold")
    return Entered(own, blank, steps)


def _enter(model: Model, case: Case) -> tuple[Tensor, list[replay.Step]]:
    return replay.enter(model, lambda: model.module(**arguments(model, case), use_cache=False, logits_to_keep=1))
