"""Integrated gradients over the image's embeddings, from those of a blank image (Sundararajan, Taly and Yan 2017, Axiomatic
Attribution for Deep Networks)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from medlens.models.base import Model
from medlens.saliency.asked import Asked
from medlens.saliency.blank import entered
from medlens.walk.batch import gradients, onward, valued

BATCH = 16  # nodes that walk together


class Integrated(NamedTuple):
    """values: (tokens,). difference: of the target between image and blank, which they must sum to; error: how far their sum is
    from it, as a share of it."""

    values: np.ndarray
    difference: float
    error: float


def integrated_gradients(model: Model, asked: Asked, nodes: int = 64) -> Integrated:
    """(image - blank) . the mean gradient along the straight line between them, by Gauss-Legendre quadrature, which needs far
    fewer nodes than Riemann sums; of each image token the sum over its columns."""
    way, image, target = entered(model, asked), asked.image, asked.target
    step = way.own[image] - way.blank[image]
    at, weights = np.polynomial.legendre.leggauss(nodes)
    at, weights = (at + 1) / 2, weights / 2
    total = torch.zeros_like(step, dtype=torch.float64)
    for begin in range(0, nodes, BATCH):
        share = torch.tensor(at[begin : begin + BATCH], dtype=step.dtype, device=step.device)[:, None, None]
        states = way.own.repeat(len(share), 1, 1)
        states[:, image] = way.blank[image] + share * step
        _, slope = gradients(model, way.steps, states, target.behind, target.of)
        weight = torch.tensor(weights[begin : begin + BATCH], device=step.device)
        total += torch.einsum("n,ntd->td", weight, slope[:, image].double())
    ends = way.own.repeat(2, 1, 1)
    ends[1, image] = way.blank[image]
    own, blank = valued(model, onward(model, way.steps, ends)[-1], target.behind, target.of).tolist()
    values = (total * step.double()).sum(1)
    difference = own - blank
    return Integrated(values.cpu().numpy(), difference, abs(float(values.sum()) - difference) / max(abs(difference), 1e-9))
