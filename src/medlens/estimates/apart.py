"""Rows with a massive activation, kept apart as they came: few, and taken out of the sums for the variant without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medlens.stats.flat import nested, parts
from medlens.types import GROUPS

Part = tuple[int, Tensor, Tensor, Tensor]  # fold; rows x, y; which of them are massive in x itself


class Apart:
    """By token group: pairs of rows massive before or behind a block, and which of them are so before it."""

    def __init__(self) -> None:
        self.of_group: dict[str, list[Part]] = {group: [] for group in GROUPS}

    def add(self, group: str, fold: int, x: Tensor, y: Tensor, before: Sequence[bool], either: Sequence[bool]) -> None:
        """x, y (n, d): rows of a case, and which of them are massive before the block, and before it or behind it."""
        some = torch.tensor([a or b for a, b in zip(before, either, strict=True)])
        if some.any():
            self.of_group[group].append((fold, x[some].clone(), y[some].clone(), torch.tensor(before)[some]))

    def any(self, group: str) -> bool:
        return any(self.of_group[g] for g in _groups(group))

    def pairs(self, group: str, without: int | None) -> tuple[Tensor, Tensor] | None:
        """Rows x, y of a group ("all": of every one), without those of a fold; None where there are none."""
        chosen = self._chosen(group, without)
        return (torch.cat([x for _, x, _, _ in chosen]), torch.cat([y for _, _, y, _ in chosen])) if chosen else None

    def states(self, group: str, without: int | None) -> Tensor | None:
        """Rows x that are massive before the block."""
        chosen = [x[before] for _, x, _, before in self._chosen(group, without) if before.any()]
        return torch.cat(chosen) if chosen else None

    def by_fold(self, group: str) -> dict[int, tuple[Tensor, Tensor]]:
        folds = {fold for fold, *_ in self.of_group[group]}
        found = {}
        for k in folds:
            mine = [part for part in self.of_group[group] if part[0] == k]
            found[k] = torch.cat([x for _, x, _, _ in mine]), torch.cat([y for _, _, y, _ in mine])
        return found

    def _chosen(self, group: str, without: int | None) -> list[Part]:
        return [part for g in _groups(group) for part in self.of_group[g] if part[0] != without]

    def merge(self, other: Apart) -> None:
        for group, rows in other.of_group.items():
            self.of_group[group] += rows

    def tensors(self) -> dict[str, Tensor]:
        found = {"count": torch.tensor(sum(map(len, self.of_group.values())))}  # there, even when there are none
        for group, rows in self.of_group.items():
            for k, (fold, x, y, before) in enumerate(rows):
                found |= nested(f"{group}/{k}", {"fold": torch.tensor(fold), "x": x, "y": y, "before": before})
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Apart:
        new = cls()
        for name, part in parts(tensors)[1].items():
            new.of_group[name.partition("/")[0]].append((int(part["fold"]), part["x"], part["y"], part["before"]))
        return new


def _groups(group: str) -> Sequence[str]:
    return GROUPS if group == "all" else (group,)
