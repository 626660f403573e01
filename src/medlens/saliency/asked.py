"""What is explained: one prompt, and what is said behind it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from medlens.walk.cases import Case
from medlens.walk.target import Aim


class Asked(NamedTuple):
    """A case of one prompt, alone, and a target in it. row: of methods that read one row of attention, which position's (None: the
    one whose logits the target is made of; of several words, the first)."""

    case: Case
    target: Aim
    row: int | None = None

    @property
    def image(self) -> list[int]:
        """The image's places, in order."""
        return [i for i, group in enumerate(self.case.groups) if group == "image"]

    @property
    def reading(self) -> int:
        """The place whose row of attention is read."""
        return self.target.behind[0] if self.row is None else self.row


def picked(matrix: torch.Tensor, asked: Asked) -> torch.Tensor:
    """Of a matrix (T, T) the asked row, at the image's places."""
    return matrix[asked.reading, asked.image]
