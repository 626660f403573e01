"""Linear maps that stand in for blocks, fitted on discovery images: one for each unbroken run of blocks that goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medlens import hooks
from medlens._prune.choose import runs
from medlens._prune.judging import Bench
from medlens.stats.pairs import PairSums
from medlens.walk.surgery import LinearMap, fitted, skipped


class Fitting:
    """Maps by least squares over all tokens of the discovery half.

    Each takes the states as they come through the maps in front of it, and aims at the whole model's state behind its run: so a map
    also makes good what those before it have lost.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._rows = [torch.tensor(case.where("all")) for case in bench.laid]
        self._found: dict[tuple[tuple[int, int], ...], LinearMap] = {}  # by the runs up to and with its own

    def maps(self, blocks: Sequence[int]) -> list[LinearMap]:
        """In the order of the blocks."""
        wanted, found = runs(blocks), list[LinearMap]()
        for k in range(len(wanted)):
            name = tuple(wanted[: k + 1])
            if name not in self._found:
                self._found[name] = self._fit(*wanted[k], found)
            found.append(self._found[name])
        return found

    def _fit(self, first: int, last: int, before: Sequence[LinearMap]) -> LinearMap:
        sums, again = PairSums(moments_of_y=False), self.bench.again
        if not before:
            for k, rows in enumerate(self._rows):
                sums.update(again.state(first, k)[rows], again.state(last + 1, k)[rows])
            return fitted(sums, first, last)
        numbers = iter(range(len(self._rows)))

        def note(entering: Tensor) -> Tensor:
            k = next(numbers)
            sums.update(entering[0][self._rows[k]], again.state(last + 1, k)[self._rows[k]])
            return entering

        gone = [b for one in before for b in range(one.first, one.last + 1)]
        with skipped(self.bench.model, gone, before), hooks.changed_input(self.bench.model.blocks[first], note):
            again.walk(lambda *_: None, before[0].first, end=first + 1)
        return fitted(sums, first, last)
