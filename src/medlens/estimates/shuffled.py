"""What pair measures give where there is nothing to be found: every image's rows before a block with another image's behind it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medlens.measures import MEASURES
from medlens.stats import PairSums
from medlens.stats.flat import nested, parts
from medlens.types import Value

GROUPS = ("image", "text")
Rows = tuple[Tensor, Tensor]


class Shuffled:
    """Pairs of x of one image with y, and with the update, of its partner; both cut to the shorter of the two.

    partner_of: a permutation of whole images without fixed points, in small rings (see `walk.layout`): rows wait until their
    ring is complete. Source: Theil 1961, for what is done with it (`adjusted`).
    """

    def __init__(self, partner_of: Mapping[str, str]) -> None:
        self.partner_of = partner_of
        self.of_y = {group: PairSums() for group in GROUPS}
        self.of_update = {group: PairSums(moments_of_y=False) for group in GROUPS}
        self._coming: dict[str, dict[str, list[Rows]]] = {}
        self._whole: dict[str, dict[str, Rows]] = {}

    def add(self, image: str, group: str, x: Tensor, y: Tensor) -> None:
        if image in self.partner_of and group in GROUPS:
            self._coming.setdefault(image, {}).setdefault(group, []).append((x, y))

    def close(self) -> None:
        """The images that came are complete."""
        for image, of_group in self._coming.items():
            self._whole[image] = {
                g: (torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows])) for g, rows in of_group.items()
            }
        for image in self._coming:
            ring = self._ring(image)
            if all(other in self._whole for other in ring):
                for other in ring:
                    self._pair(self._whole[other], self._whole[self.partner_of[other]])
                for other in ring:
                    del self._whole[other]
        self._coming = {}

    def _ring(self, image: str) -> list[str]:
        ring = [image]
        while self.partner_of[ring[-1]] != image:
            ring.append(self.partner_of[ring[-1]])
        return ring

    def _pair(self, own: Mapping[str, Rows], partner: Mapping[str, Rows]) -> None:
        for group in own.keys() & partner.keys():
            x, (before, after) = own[group][0].double(), partner[group]
            n = min(len(x), len(before))
            self.of_y[group].update(x[:n], after[:n])
            self.of_update[group].update(x[:n], x[:n] + (after[:n].double() - before[:n].double()))

    def values(self, group: str) -> dict[str, Value]:
        """What linearity, linearity of the update and alignment are worth here."""
        if not self.of_y[group].n:
            why = Value.undefined(0, "no two images of a fold to change places")
            return dict.fromkeys(("linearity", "linearity_of_update", "cka"), why)
        of = {"linearity": self.of_y, "linearity_of_update": self.of_update, "cka": self.of_y}
        return {name: MEASURES[name].of_sums(sums[group]) for name, sums in of.items()}

    def merge(self, other: Shuffled) -> None:
        for group in GROUPS:
            self.of_y[group].merge(other.of_y[group])
            self.of_update[group].merge(other.of_update[group])

    def tensors(self) -> dict[str, Tensor]:
        of_y = [nested(f"of_y/{g}", sums.tensors()) for g, sums in self.of_y.items()]
        of_update = [nested(f"of_update/{g}", sums.tensors()) for g, sums in self.of_update.items()]
        return {name: tensor for part in (*of_y, *of_update) for name, tensor in part.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Shuffled:
        new, (_, found) = cls({}), parts(tensors)
        new.of_y = {g: PairSums.from_tensors(found[f"of_y/{g}"]) for g in GROUPS}
        new.of_update = {g: PairSums.from_tensors(found[f"of_update/{g}"]) for g in GROUPS}
        return new
