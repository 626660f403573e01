"""What linearity scores where there is nothing to find: each image's input with another image's output."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.measures.linear import linearity
from medlens.stats.checked import checked
from medlens.types import Value

Image = TypeVar("Image", bound=Hashable)


def linearity_floor(x: Tensor, y: Tensor, image: Sequence[Hashable] | Tensor, seed: int = 0) -> Value:
    """`linearity` of rows x (n, d) and the rows y of other images: whole images permuted against each other.

    image: names the image of each row. Images, in an order drawn from `seed`, change places in twos (see `in_rings`); two images of
    different length are cut to the shorter. Rank/(n - 1), the mean for rows that could be exchanged one by one, is far too low
    for patches of one image, which resemble each other. Undefined for one image, and as `linearity`. Raises NotFinite, and
    BadInput unless x and y have the same shape and `image` as many names as there are rows.

    Source: permutation of whole exchangeable units, Winkler et al. 2015, Multi-level block permutation.
    """
    x, y = checked(x), checked(y)
    names = image.tolist() if isinstance(image, Tensor) else list(image)
    if x.shape != y.shape or len(names) != len(x):
        raise BadInput(
            f"x {tuple(x.shape)}, y {tuple(y.shape)} and {len(names)} image names: one row of each for every token is needed"
        )
    rows_of: dict[Hashable, list[int]] = {}
    for row, name in enumerate(names):
        rows_of.setdefault(name, []).append(row)
    if len(rows_of) < 2:
        return Value.undefined(len(x), f"rows of {len(rows_of)} image{'s' * (len(rows_of) != 1)}: no other to pair it with")
    images = list(rows_of)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    mine: list[int] = []
    others: list[int] = []
    for ring in in_rings([images[k] for k in order]):
        for k, name in enumerate(ring):
            own, partner = rows_of[name], rows_of[ring[k - 1]]
            shorter = min(len(own), len(partner))
            mine += own[:shorter]
            others += partner[:shorter]
    return linearity(x[mine], y[others])


def linearity_of_update_floor(x: Tensor, y: Tensor, image: Sequence[Hashable] | Tensor, seed: int = 0) -> Value:
    """`linearity_floor(x, y - x, image, seed)`: what the update of another image scores. Shapes, errors and source as there."""
    x, y = checked(x).double(), checked(y).double()
    return linearity_floor(x, y - x if x.shape == y.shape else y, image, seed)


def adjusted(value: Value, floor: Value) -> Value:
    """(value - floor) / (1 - floor): 0 for what scores no more than chance does, 1 for what is all explained. Undefined where
    either is, or the floor is 1. Source: Theil 1961, Economic Forecasts and Policy (the adjusted R2)."""
    for part in (value, floor):
        if math.isnan(part):
            return Value.undefined(part.n, part.note)
    if floor >= 1:
        return Value.undefined(value.n, "the floor is 1: unrelated rows are explained just as well")
    return Value((value - floor) / (1 - floor), value.n, value.note)


def in_rings(images: Sequence[Image]) -> list[list[Image]]:
    """In twos as they come, the last of them in threes where they are odd; a single one stays alone. Each is paired with the one
    before it in its ring."""
    rings = [list(images[k : k + 2]) for k in range(0, len(images), 2)]
    if len(rings) > 1 and len(rings[-1]) == 1:
        rings[-2:] = [rings[-2] + rings[-1]]
    return rings
