"""Rows of every state, of the same tokens: what maps between states are trained on. They wait in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from medlens.stats.rows import priority
from medlens.walk.cases import Case


class Token(NamedTuple):
    """Whose state a kept row is: of which image, and of which group."""

    image: str
    group: str


class KeptRows:
    """A visitor that keeps the states of some tokens of every case, in a folder, a file a state.

    most: at most so many tokens, the same share of every case; of every group (image, and all others) the same number where a case
    has enough of both, because image tokens are many and alike. tokens: whose the rows are, in their order.
    """

    def __init__(self, folder: Path, laid: Sequence[Case], width: int, most: int, seed: int = 0) -> None:
        self._folder, self._width = folder, width
        self._chosen: dict[int, list[int]] = {}
        self.tokens: list[Token] = []
        each = max(2, most // max(1, len(laid)))
        for case in laid:
            chosen = _choose(case, each, seed)
            self._chosen[id(case)] = chosen
            self.tokens += [Token(case.image, case.groups[place]) for place in chosen]

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        self._append(block, case, before)

    def leave(self, block: int) -> None:
        pass

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        self._append("normed", case, normed)

    def rows(self, state: int | str) -> Tensor:
        """(n, d) float32 of a state 0 .. L-1, or of the last one behind the final norm ("normed")."""
        read = torch.frombuffer(bytearray(self._path(state).read_bytes()), dtype=torch.float32)
        return read.view(-1, self._width)

    def _append(self, state: int | str, case: Case, rows: Tensor) -> None:
        with self._path(state).open("ab") as file:
            file.write(rows[self._chosen[id(case)]].detach().to("cpu", torch.float32).contiguous().numpy().data)

    def _path(self, state: int | str) -> Path:
        return self._folder / f"rows-{state}.bin"


def _choose(case: Case, most: int, seed: int) -> list[int]:
    image = case.where("image")
    others = sorted(set(case.where("all")) - set(image))
    share = min(len(image), max(most // 2, most - len(others)))
    drawn = [*_draw(image, share, case, seed), *_draw(others, most - share, case, seed)]
    return sorted(drawn)


def _draw(places: list[int], most: int, case: Case, seed: int) -> list[int]:
    return sorted(places, key=lambda place: priority(seed, "kept", *case.identity(place)))[:most]
