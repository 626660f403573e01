"""The modality gap between image and text states, state by state."""

from __future__ import annotations

import torch
from torch import Tensor

from medlens.findings import Findings
from medlens.measures.gap import modality_gap_from_sums, split
from medlens.stats import Folds
from medlens.stats.cosines import CosineSums
from medlens.stats.intervals import jackknife
from medlens.stats.rows import priority
from medlens.types import Row
from medlens.walk.cases import Case
from medlens.walk.layout import Layout

Pair = tuple[Folds[CosineSums], Folds[CosineSums]]


class Gap:
    """Reads the walk: image tokens against the user's own words, with jackknife intervals over whole images; and the floor, the
    same rows of each case divided at random, the same way at every layer."""

    def __init__(self, layout: Layout, findings: Findings, seed: int) -> None:
        self.layout, self.findings, self.seed = layout, findings, seed
        self._sums, self._last = self._empty(), {variant: self._empty() for variant in ("raw", "normed")}

    def _empty(self) -> dict[str, Pair]:
        folds = self.layout.folds
        return {name: (Folds(CosineSums, folds), Folds(CosineSums, folds)) for name in ("modality_gap", "modality_gap_floor")}

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        self._see(case, before, self._sums)

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        for sums, state in zip(self._last.values(), (raw, normed), strict=True):
            self._see(case, state, sums)

    def _see(self, case: Case, state: Tensor, sums: dict[str, Pair]) -> None:
        fold = self.layout.fold_of[case.image]
        image, text = state[case.where("image")], state[case.where("text")]
        generator = torch.Generator().manual_seed(priority(self.seed, "gap", case.prompts[0].sample.id))
        for name, rows in (("modality_gap", (image, text)), ("modality_gap_floor", split(image, text, generator))):
            for folds, part in zip(sums[name], rows, strict=True):
                if len(part):
                    folds[fold].update(part)

    def leave(self, block: int) -> None:
        self._note(block, "raw", self._sums)
        self._sums = self._empty()

    def conclude(self, layer: int) -> None:
        for variant, sums in self._last.items():
            self._note(layer, variant, sums)

    def _note(self, layer: int, variant: str, sums: dict[str, Pair]) -> None:
        for name, (image, text) in sums.items():
            value = modality_gap_from_sums(image.total(), text.total())
            filled = sorted({*image.filled, *text.filled})
            without = {k: modality_gap_from_sums(image.without(k), text.without(k)) for k in filled}
            low, high, why = jackknife(value, list(without.values()))
            note = value.note or why
            row = Row("sound", name, layer, "image and text", "all", variant, float(value), low, high, value.n, note)
            self.findings.add(row, without if low is not None else None)
