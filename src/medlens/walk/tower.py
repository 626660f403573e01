"""Before the decoder: an image on its way through the vision tower, and out of the projector."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medlens import hooks
from medlens.errors import NotFinite
from medlens.models.base import Model
from medlens.models.tower import class_places, tower_layers
from medlens.walk import replay
from medlens.walk.cases import Case, arguments


class Before(NamedTuple):
    """states: of tower layer t the state t, (patches, d_tower), t = 0 behind its embeddings; without the class token, and all
    tiles of all images one after the other. projected: (image tokens, d), the image's rows of the decoder's state 0."""

    states: tuple[Tensor, ...]
    projected: Tensor


def before_the_decoder(model: Model, case: Case) -> Before:
    """What the tower makes of a case's images, and what enters the decoder. No block of the decoder works.

    Needs the weights of "around" and "norm" (see `Model.here`). Raises BadModel for a family whose tower is not found, and
    NotFinite.
    """
    layers = tower_layers(model)
    with hooks.evaluation(model.module), hooks.inputs_of(layers[0]) as entered, hooks.outputs_of_each(layers) as left:
        state, _ = replay.enter(model, lambda: model.module(**arguments(model, case), use_cache=False, logits_to_keep=1))
    skipped, calls = class_places(model), len(left) // len(layers)
    of_each = [entered, *(left[t :: len(layers)] for t in range(len(layers)))]  # a tower may be called once for each image
    states = tuple(torch.cat([_rows(out, skipped) for out in outs[:calls]]) for outs in of_each)
    for t, rows in enumerate(states):
        if not torch.isfinite(rows).all():
            raise NotFinite(f"NaN or infinity in state {t} of the vision tower, image {case.image}; try --dtype float32")
    return Before(states, state[[i for i, g in enumerate(case.groups) if g == "image"]])


def _rows(out: Tensor, skipped: int) -> Tensor:
    """(tiles, places, d), or (places, d) of a tower without tiles, as rows."""
    return out[:, skipped:].flatten(0, 1) if out.dim() == 3 else out[skipped:]
