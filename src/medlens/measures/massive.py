"""Massive activations: single entries, thousands of times as large as the rest, that sit on a few tokens and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medlens.errors import BadInput

LARGE = 100.0  # more than this,
TIMES = 1000.0  # and at least so many times the median


class Entry(NamedTuple):
    """Of which sample (its number in the case), at which place and column of the state, and what stands there."""

    sample: int
    place: int
    column: int
    value: float


def massive(state: Tensor, of_sample: Sequence[Sequence[int]]) -> list[Entry]:
    """The massive entries of a state (T, d): above 100 in size, and at least 1000 times the median size in their sample's state.

    of_sample: of each sample in the state, its places; samples that are packed behind a prefix have its places in common. An
    entry there is massive if it is so for any of them, and given once, for the first such. Any float type. Costs one look at the
    largest entry where there are none. Raises BadInput for another shape. Source: Sun et al. 2024, Massive Activations in Large
    Language Models, section 2.
    """
    if state.ndim != 2:
        raise BadInput(f"a state is (places, columns); got shape {tuple(state.shape)}")
    if state.numel() == 0 or float(max(state.max(), -state.min())) <= LARGE:
        return []
    large = (state.double().abs() > LARGE).nonzero()
    found: dict[tuple[int, int], Entry] = {}
    for k, places in enumerate(of_sample):
        mine = large[torch.isin(large[:, 0], torch.tensor(list(places), dtype=torch.int64, device=large.device))]
        if len(mine) == 0:
            continue
        least = TIMES * float(np.median(state[list(places)].double().abs().cpu().numpy()))
        for place, column in mine.tolist():
            value = float(state[place, column])
            if abs(value) >= least:
                found.setdefault((place, column), Entry(k, place, column, value))
    return list(found.values())
