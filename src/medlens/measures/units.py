"""Units of an MLP: which of them a gradient points to, and which word each of them writes.

A unit is a column of `down_proj`: what it writes into the state when it is on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from medlens.types import Value

NONE = -1  # in place of a word's id
DRAWS = 1000  # shuffles of the images


def decode(columns: Tensor, head: Iterable[tuple[int, Tensor]]) -> Tensor:
    """The word that each unit raises most: (units,) ids, the arg-max over words of head @ column (ties: the first).

    columns: (units, d), as rows. head: rows of the head, (id of the first word, (words, d)), block after block, so that units x
    vocabulary is never in memory; with or without the final norm's weight in them: see `Unembedding.rows`. Source: Geva et al.
    2022, Transformer Feed-Forward Layers Build Predictions by Promoting Concepts (there with the score's distribution).
    """
    best = columns.new_full((len(columns),), -torch.inf)
    ids = torch.zeros(len(columns), dtype=torch.int64, device=columns.device)
    for begin, rows in head:
        score, word = (columns @ rows.T).max(1)
        better = score > best
        best, ids = torch.where(better, score, best), torch.where(better, word + begin, ids)
    return ids


def attribute(value: Tensor, gradient: Tensor) -> Tensor:
    """Gradient x value, signed, in float32 at least: to first order, what the target would lose without each entry. Source:
    Schwettmann et al. 2023, Multimodal Neurons in Pretrained Text-Only Transformers."""
    kind = torch.promote_types(value.dtype, torch.float32)
    return value.to(kind) * gradient.to(kind)


def strongest(value: Tensor, gradient: Tensor, k: int = 10) -> Tensor:
    """Of each of T tokens the k units with the largest signed gradient x value, largest first: (T, k). Both (T, units)."""
    return attribute(value, gradient).topk(min(k, value.shape[1]), dim=1).indices


class Varies(NamedTuple):
    """ratio: the variance of a word's count between images, over what shuffled images have; p: share of the shuffles that vary as
    much (with this one counted in: never 0)."""

    ratio: Value
    p: Value


def varies(counts: Tensor, seed: int = 0, draws: int = DRAWS) -> list[Varies]:
    """Does a word's count vary with the image more than by chance? counts: (words, images, places), how often each word was found
    at each place of each image.

    The null: at every place the images are shuffled, independently of the other places; what depends on the place stays. Where
    neighbouring places depend on each other for other reasons than the image, p is too small. Undefined (NaN) for fewer than two
    images, and the ratio where no shuffle varies. One-sided permutation test, (1 + how many >= observed) / (1 + draws): Phipson and
    Smyth 2010.
    """
    words, images, places = counts.shape
    if images < 2:
        nothing = Value.undefined(images, "one image: nothing to vary with")
        return [Varies(nothing, nothing)] * words
    counts = counts.double()
    generator = torch.Generator().manual_seed(seed)
    observed = counts.sum(2).var(1)
    as_much, total = torch.zeros(words), torch.zeros(words, dtype=torch.float64)
    for _ in range(draws):
        order = torch.rand(images, places, generator=generator).argsort(0)
        shuffled = counts.gather(1, order.expand(words, -1, -1)).sum(2).var(1)
        as_much += shuffled >= observed * (1 - 1e-12)
        total += shuffled
    return [_varies(float(o), float(t) / draws, int(m), draws, images) for o, t, m in zip(observed, total, as_much, strict=True)]


def _varies(observed: float, expected: float, as_much: int, draws: int, images: int) -> Varies:
    why = "the count is the same however the images are shuffled"
    ratio = Value(observed / expected, images) if expected > 0 else Value.undefined(images, why)
    return Varies(ratio, Value((1 + as_much) / (1 + draws), images))


def domain_entropy(active: Tensor) -> Tensor:
    """Domain activation probability entropy, (units,), in nats: of the probabilities (domains, units) with which each unit is
    active in each domain, made to sum to 1 over the domains. 0: active in one domain alone; log(domains): in all alike. NaN for a
    unit that is never active. Source: Huo et al. 2024, MMNeuron: Discovering Neuron-Level Domain-Specific Interpretation in
    Multimodal Large Language Models."""
    total = active.double().sum(0)
    p = active.double() / total
    return torch.where(total > 0, -torch.xlogy(p, p).sum(0), torch.nan)
