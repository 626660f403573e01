"""Prove: what becomes of a word's log-odds, on images that had no say in which units were chosen, when they are changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medlens._neurons.concepts import Concept
from medlens._neurons.find import predicting
from medlens.instruments.attribution import Place
from medlens.measures.lens import said
from medlens.models.base import Model
from medlens.models.unembedding import Unembedding
from medlens.types import Sample
from medlens.walk.again import Again
from medlens.walk.cases import Prompt, cases
from medlens.walk.forward import prepare
from medlens.walk.heads import Head, heads_swapped
from medlens.walk.intervene import Unit, by_block, units_noted, units_scaled, units_set, units_swapped
from medlens.walk.units import Names

Tick = Callable[[], None]


class Odds(NamedTuple):
    """Of samples (n) and all words (w): log-odds (n, w) in float64, and whether the word is the likeliest, (n, w) bool."""

    value: Tensor
    said: Tensor


class Bench:
    """The samples of a half (the test images), walked once; and again, with some units changed.

    donors: of a sample of a word, another one's image under the sample's own question: one of which the word is false for one of
    which it is true, and the other way round. None where the two have different numbers of tokens.
    """

    def __init__(
        self, model: Model, prompts: Sequence[Prompt], concepts: Sequence[Concept], places: Mapping[int, Mapping[str, Place]],
        names: Names, scratch: Path, seed: int, tick: Tick, half: str = "test",
    ) -> None:  # fmt: skip
        self.model, self.concepts, self.names, self.tick = model, concepts, names, tick
        self.prompts = [p for p in prompts if any(_within(half, places[c.id].get(p.sample.id)) for c in concepts)]
        self.units = [p.unit for p in self.prompts]
        draw, given = np.random.default_rng(seed), []
        self.donors: dict[tuple[str, int], int] = {}
        for concept in concepts:
            for k, donor in self._donors(concept, draw):
                self.donors[concept.word, k] = len(self.prompts) + len(given)
                given.append(donor)
        walkers = [cases(model, [prompt])[0] for prompt in (*self.prompts, *given)]
        self._again = Again(model, walkers, scratch / half)
        self._logits = Unembedding(model).logits
        self.before = self._read(model.depth, range(len(self.prompts)))

    def which(self, concept: Concept, true: bool) -> list[int]:
        """The samples of which a word is true, or false."""
        return [k for k, p in enumerate(self.prompts) if concept.true.get(p.sample.id) == true]

    def scaled(self, units: Sequence[Unit], which: Sequence[int], factor: float) -> Odds:
        with units_scaled(self.model, units, factor, self.names.down):
            return self._read(_first(units), which)

    def fixed(self, units: Sequence[Unit], which: Sequence[int], mean: Tensor) -> Odds:
        """Set to their mean."""
        with units_set(self.model, units, {unit: float(mean[unit]) for unit in units}, self.names.down):
            return self._read(_first(units), which)

    def swapped(self, units: Sequence[Unit], which: Sequence[int], word: str) -> Odds:
        """Set to what they are on the donors' images."""
        with units_swapped(self.model, units, self.names.down):
            return self._read(_first(units), which, [self.donors[word, k] for k in which])

    def patched(self, heads: Sequence[Head], into: Sequence[int], source: Sequence[int]) -> Odds:
        """Samples or donors, with what these heads give taken from others, one for each."""
        with heads_swapped(self.model, heads):
            return self._read(_first(heads), into, source)

    def unchanged(self, which: Sequence[int]) -> Odds:
        """Samples or donors as they are."""
        return self._read(self.model.depth, which)

    def noted(self, units: Sequence[Unit], which: Sequence[int]) -> dict[Unit, list[Tensor]]:
        """The units' activations at all tokens of some samples, (T,) each."""
        with units_noted(self.model, units, self.names.down) as found:
            self._again.walk(lambda *_: None, _first(units), which, end=max(b for b, _ in units) + 1)
        own = by_block(self.model, units, self.names.down)
        return {(b, u): [a[:, k].cpu() for a in found[b]] for b, of in own.items() for k, u in enumerate(of)}

    def _read(self, begin: int, which: Sequence[int], donors: Sequence[int] | None = None) -> Odds:
        order = list(which) if donors is None else [k for pair in zip(donors, which, strict=True) for k in pair]
        ids = torch.tensor([concept.id for concept in self.concepts], device=self.model.device)
        rows: list[Tensor] = []
        self._again.walk(lambda case, normed: rows.append(normed[predicting(case, 0)]), begin, order)
        with self.model.here("head"), torch.no_grad():
            of_each = [said(r, r, ids, self._logits) for row in rows for r in [row.expand(len(ids), -1)]]
        kept = of_each if donors is None else of_each[1::2]
        self.tick()
        return Odds(torch.stack([o.log_odds for o in kept]).cpu(), torch.stack([o.rank == 1 for o in kept]).cpu())

    def _donors(self, concept: Concept, draw: np.random.Generator) -> list[tuple[int, Prompt]]:
        found = []
        for true in (True, False):
            others = self.which(concept, not true)
            for k in self.which(concept, true):
                sample, other = self.prompts[k].sample, self.prompts[others[draw.integers(len(others))]].sample
                shown = prepare(self.model, _shows(sample, other))
                if shown.tokens.groups == self.prompts[k].tokens.groups:
                    found.append((k, shown))
        return found


def _shows(sample: Sample, other: Sample) -> Sample:
    return sample.showing(other.images)


def _within(half: str, place: Place | None) -> bool:
    return place is not None and place.half == half


def _first(units: Sequence[Unit]) -> int:
    return min(block for block, _ in units)
