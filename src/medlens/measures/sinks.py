"""Attention sinks among an image's tokens: places that are looked at whoever looks, and so say little of what is looked for."""

from __future__ import annotations

import torch
from torch import Tensor

TIMES = 10.0  # an even share


def sinks(weights: Tensor) -> Tensor:
    """Which image tokens are sinks: (tokens,) bool. weights: (lookers, tokens), the attention that each looking token gives them.

    A token is one where at least half of those who look give it more than TIMES an even share of what they give the image. (Of an
    image with fewer tokens than that, none can be.) Kang et al. 2025, See What You Are Told, find such places by their massive
    activations; this rule reads attention alone, so that it holds for any model, and takes a place that is rightly looked at by
    nearly all words for a sink as well: it marks, and removes nothing.
    """
    if weights.ndim != 2:
        raise ValueError(f"weights are (lookers, tokens); got {tuple(weights.shape)}")
    lookers, tokens = weights.shape
    if lookers == 0 or tokens == 0:
        return torch.zeros(tokens, dtype=torch.bool, device=weights.device)
    shares = weights.double() / weights.double().sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return (shares > TIMES / tokens).double().mean(0) >= 0.5
