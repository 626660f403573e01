"""Occlusion: each of the image's tokens in turn replaced by what a blank image has there (Zeiler and Fergus 2014, Visualizing and
Understanding Convolutional Networks; there with grey squares on the image)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medlens import hooks
from medlens.models.base import Model
from medlens.models.families import SEE_WHOLE_IMAGE, SHARE_IMAGES, WINDOWS
from medlens.models.prompt import as_batch
from medlens.saliency.asked import Asked
from medlens.saliency.blank import entered
from medlens.types import Group
from medlens.walk import replay
from medlens.walk.batch import onward, valued
from medlens.walk.cases import masks_of
from medlens.walk.packing import pack

TOGETHER = 8  # variants in one walk


def occlusion(model: Model, asked: Asked) -> np.ndarray:
    """(tokens,): by how much the target falls without each token.

    Attention is causal, so what stands in front of a token does not change with it: variants are packed behind the common prefix
    and share it. Where a family cannot be packed, or an image's tokens see each other both ways, they walk side by
    side, each whole.
    """
    way, image = entered(model, asked), asked.image
    packed = model.family in SHARE_IMAGES - SEE_WHOLE_IMAGE and model.text_config.model_type in WINDOWS
    value = lambda states: valued(model, states, asked.target.behind, asked.target.of)
    before = float(value(onward(model, way.steps, way.own[None])[-1]))
    found: list[float] = []
    for begin in range(0, len(image), TOGETHER):
        places = image[begin : begin + TOGETHER]
        variants = way.own.repeat(len(places), 1, 1)
        variants[range(len(places)), places] = way.blank[places]
        last = _shared(model, asked, variants, places[0]) if packed else onward(model, way.steps, variants)[-1]
        found += value(last).tolist()
    return before - np.array(found)


def _shared(model: Model, asked: Asked, variants: Tensor, shared: int) -> Tensor:
    """The last states (variants, T, d) of variants that are alike up to place `shared`, each place walked once."""
    case, count = asked.case, len(variants)
    together = pack([case.pack.ids] * count, shared)
    segments, positions = as_batch(together.segments, model.device), as_batch(together.positions, model.device)
    groups: list[Group] = [case.groups[p] for p in together.positions]
    state = torch.cat([variants[0, :shared], *variants[:, shared:]])
    called = {"position_ids": positions, "attention_mask": masks_of(model, segments, positions, groups), "use_cache": False}
    with hooks.evaluation(model.module), model.here("around", "norm"):
        decoder = model.decoder
        _, steps = replay.enter(model, lambda: decoder(inputs_embeds=state[None], **called))
    last = onward(model, steps, state[None])[-1][0]
    return torch.stack([last[together.rows(k)] for k in range(count)])
