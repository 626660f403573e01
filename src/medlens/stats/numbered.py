"""Rows that are known by number: kept as they come, read in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.flat import need


class Numbered:
    """Rows (n, d) and their numbers, which are distinct in a study. All are kept: whoever feeds them says how many."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._numbers: list[Tensor] = []

    @property
    def n(self) -> int:
        return sum(map(len, self._rows))

    def update(self, rows: Tensor, numbers: Sequence[int]) -> None:
        """rows (n, d) with n numbers; none is fine."""
        if len(rows) != len(numbers):
            raise BadInput(f"{len(rows)} rows but {len(numbers)} numbers")
        if len(rows):
            self._rows.append(rows.clone())  # a hook may write the next state over this one
            self._numbers.append(torch.tensor(numbers, dtype=torch.int64))

    def merge(self, other: Numbered) -> Numbered:
        self._rows += other._rows
        self._numbers += other._numbers
        return self

    def rows(self) -> Tensor:
        """All rows, (n, d), by rising number; (0, 1) where there are none."""
        if not self._rows:
            return torch.zeros(0, 1)
        return torch.cat(self._rows)[torch.cat(self._numbers).argsort()]

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved; `from_tensors` is the inverse."""
        numbers = torch.cat(self._numbers).sort().values if self._numbers else torch.zeros(0, dtype=torch.int64)
        return {"rows": self.rows(), "numbers": numbers}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Numbered:
        """Raises BadRun for missing or unknown names."""
        need("numbered rows", tensors, ["rows", "numbers"])
        new = cls()
        new.update(tensors["rows"], tensors["numbers"].tolist())
        return new
