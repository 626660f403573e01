"""Pictures with some tokens' pixels covered, and what a target is worth on them; and occlusion of pixels, made of that.

Inside the decoder an image token no longer stands for its own pixels alone: the vision tower has mixed them. What is covered on the
picture itself goes the whole way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from torch import Tensor

from medlens.data.images import open_image
from medlens.models.base import Model
from medlens.models.prompt import look
from medlens.saliency.asked import Asked
from medlens.types import Heatmap
from medlens.walk.cases import Case, Prompt, cases
from medlens.walk.forward import walk
from medlens.walk.target import Aim

TOGETHER = 32  # pictures that walk together


def pixel_occlusion(model: Model, asked: Asked, boxes: np.ndarray) -> np.ndarray:
    """(tokens,): by how much the target falls when a token's pixels are covered with the picture's mean colour (Zeiler and Fergus
    2014, Visualizing and Understanding Convolutional Networks). 0 for a token without a place."""
    prompt = asked.case.prompts[0]
    image = open_image(prompt.sample.image, prompt.sample.id, grey=True)
    inside, plain = pixels_of(boxes, (image.height, image.width)), mean_colour(image)
    pictures = [image, *(covered(image, plain, inside, [k]) for k in range(len(boxes)))]
    before, *without = values_on(model, prompt, asked.target, pictures)
    return before - np.array(without)


def pixels_of(boxes: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Of each token the pixels that it covers, (height, width) bool."""
    return [Heatmap("", "", np.ones(1), box[None], size).on_image() == 1 for box in boxes]


def mean_colour(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return np.broadcast_to(pixels.reshape(-1, *pixels.shape[2:]).mean(0).astype(np.uint8), pixels.shape)


def covered(image: Image.Image, blank: np.ndarray, inside: Sequence[np.ndarray], gone: Sequence[int] | np.ndarray) -> Image.Image:
    """The picture with what these tokens cover taken from `blank`, an array as the picture's."""
    pixels = np.asarray(image).copy()
    if len(gone):
        where = np.any([inside[k] for k in gone], axis=0)
        pixels[where] = blank[where]
    return Image.fromarray(pixels, image.mode)


class _Values:
    """A visitor that keeps the target's value of each case."""

    def __init__(self, model: Model, aim: Aim) -> None:
        self.model, self.aim, self.found = model, aim, []

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None: ...
    def leave(self, block: int) -> None: ...

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        with self.model.here("head"):
            self.found.append(float(self.aim.of(self.model.unembed(normed[self.aim.behind]))))


def values_on(model: Model, prompt: Prompt, aim: Aim, pictures: Sequence[Image.Image]) -> list[float]:
    """The target's value when the prompt shows each of these pictures, of the size of its own."""
    kept = _Values(model, aim)
    for begin in range(0, len(pictures), TOGETHER):
        prompts = [replace(prompt, look=look(model, [p])) for p in pictures[begin : begin + TOGETHER]]
        walk(model, [cases(model, [one])[0] for one in prompts], [kept])
    return kept.found
