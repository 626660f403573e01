"""The vision tower, read like a decoder: probes of the mean patch at every state, and geometry of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from medlens.walk.cases import Case

ROWS = 2048  # patches in all that enter the geometry: evenly spread over each image, as many of each


@dataclass(frozen=True)
class Patches:
    """Some patches of an image, as a case that geometry can read: all are image tokens. states: (places, d) of each layer."""

    image: str
    states: Sequence[Tensor]

    @cached_property
    def _all(self) -> list[int]:
        return list(range(len(self.states[0])))

    def where(self, group: str) -> list[int]:
        return self._all if group in ("image", "all") else []

    def identity(self, place: int) -> tuple[str, int]:
        return self.image, place

    @property
    def readings(self) -> list[list[int]]:
        return [self._all]

    def described(self, reading: int, place: int) -> tuple[str, int, str, str]:
        return self.image, place, "", "tower"


class Tower:
    """Sees one image after the other: their mean patch at every state, and the patches that enter the geometry."""

    def __init__(self, images: int) -> None:
        self._most = max(2, ROWS // max(images, 1))
        self.means: list[dict[str, Tensor]] = []
        self.patches: list[Patches] = []

    def see(self, case: Case, states: Sequence[Tensor]) -> None:
        """states: (patches, d) of tower state 0, 1, ..."""
        if not self.means:
            self.means = [{} for _ in states]
        for means, rows in zip(self.means, states, strict=True):
            means[case.image] = rows.float().mean(0).cpu()
        if len({rows.shape for rows in states}) == 1:  # a tower whose layers merge patches has no rows to follow
            n = len(states[0])
            count = min(n, self._most)
            chosen = [(2 * k + 1) * n // (2 * count) for k in range(count)]
            self.patches.append(Patches(case.image, [rows[chosen].float().cpu() for rows in states]))
