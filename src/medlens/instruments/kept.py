"""Rows of a few places at a few states, kept until all cases have walked: what is compared across layers waits here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medlens.measures.massive import massive
from medlens.walk.cases import Case


class Kept:
    """A visitor. places: of each case, by its image, which of its places. layers: which states; state L is kept raw. In memory:
    layers x places x d floats, float32. massive: columns in which any row that passed has a massive activation."""

    def __init__(self, places: Mapping[str, Sequence[int]], layers: Sequence[int], depth: int) -> None:
        self.places, self.layers, self.depth = places, layers, depth
        self.massive: set[int] = set()
        self._rows: dict[tuple[int, str], Tensor] = {}

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        self._keep(block, case, before)

    def leave(self, block: int) -> None:
        """Nothing is summed up."""

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        self._keep(self.depth, case, raw)

    def _keep(self, layer: int, case: Case, state: Tensor) -> None:
        self.massive |= {entry.column for entry in massive(state, case.readings)}
        if layer in self.layers and case.image in self.places:
            self._rows[layer, case.image] = state[list(self.places[case.image])].detach().float().cpu()

    def states(self) -> Tensor:
        """(layers, places, d): cases in the order of `places`, layers as they were given. What was kept is handed over."""
        rows, self._rows = self._rows, {}
        return torch.stack([torch.cat([rows.pop((layer, image)) for image in self.places]) for layer in self.layers])
