"""Find: units ranked by what a word would lose without them, on one half of the images; with the same on the other half."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medlens._neurons.concepts import FOLDS, Concept
from medlens.instruments.attribution import Attribution, OfBlock, Place
from medlens.models.base import Model
from medlens.walk.cases import Case
from medlens.walk.forward import steps
from medlens.walk.intervene import Unit
from medlens.walk.reverse import steps_back
from medlens.walk.room import Files
from medlens.walk.target import LogOdds, Word
from medlens.walk.units import Names

RANKED_BY = "all"
LISTED = 0.03  # of all units, by rank, of each word: what is kept of them


@dataclass(frozen=True, eq=False)
class Found:
    """ranked: of each word the best units, best first. rows: of each word the same with their numbers. active: of each word
    (true - false) mean activation at image tokens on discovery images, (blocks, units); mean: at all tokens. units: of a block."""

    ranked: Mapping[str, list[Unit]]
    rows: Mapping[str, list[dict[str, Any]]]
    active: Mapping[str, Tensor]
    mean: Tensor
    units: int

    def seeing(self, word: str, among: int, count: int) -> list[Unit]:
        """Of so many best units those with the largest attribution at image tokens: what they give comes from the image."""
        rows = sorted(self.rows[word][:among], key=lambda row: -row["image"])
        return [(row["layer"], row["unit"]) for row in rows[:count]]

    @property
    def total(self) -> int:
        return self.mean.numel()


def predicting(case: Case, branch: int) -> int:
    """The place of a pack whose logits say a prompt's next word."""
    return case.pack.rows(branch)[-1]


def find(
    model: Model, laid: Sequence[Case], concepts: Sequence[Concept], places: Mapping[int, Mapping[str, Place]], names: Names,
    scratch: Path, tick: Callable[[], None],
) -> Found:  # fmt: skip
    """Ranked by gradient x activation, summed over all tokens, mean over the discovery images of which the word is true."""
    tracer = Attribution(model, places, FOLDS, names)
    aims = [_aims(case, concepts) for case in laid]
    ranking = _Ranking(concepts)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        room = Files(
            Path(folder), [len(case.pack.ids) for case in laid], model.width, model.dtype, model.device, kept_from=0
        )  # fmt: skip
        for _ in steps(model, laid, [], tick, room):
            pass
        for block in steps_back(model, laid, aims, [tracer], tick, room):
            if block < model.depth:
                ranking.add(block, list(tracer.found(block)), model.depth)
                tracer.leave(block)
    return ranking.result()


def _aims(case: Case, concepts: Sequence[Concept]) -> list[LogOdds]:
    return [
        LogOdds(Word(len(prompt.tokens) - 1, concept.id), branch)
        for branch, prompt in enumerate(case.prompts)
        for concept in concepts
        if prompt.sample.id in concept.true
    ]


class _Ranking:
    """Keeps the best units of the blocks that have come, and forgets the others' numbers."""

    def __init__(self, concepts: Sequence[Concept]) -> None:
        self.word_of = {c.id: c.word for c in concepts}
        self._rows: dict[str, list[dict[str, Any]]] = {c.word: [] for c in concepts}
        self._active: dict[tuple[str, int], Tensor] = {}
        self._mean: dict[int, Tensor] = {}

    def add(self, block: int, found: Sequence[OfBlock], depth: int) -> None:
        """All words and both halves of one block."""
        for word, name in self.word_of.items():
            discovery, test = (next(f for f in found if (f.word, f.half) == (word, half)) for half in ("discovery", "test"))
            ranked = discovery.scores[RANKED_BY].true.value
            keep = max(1, int(LISTED * len(ranked) * depth))
            best = ranked.topk(min(keep, len(ranked))).indices
            rows = self._rows[name] + [_row(name, block, int(unit), discovery, test) for unit in best]
            self._rows[name] = sorted(rows, key=lambda row: -row["score"])[:keep]
            self._active[name, block] = (discovery.active[0] - discovery.active[1]).float()
            self._mean[block] = discovery.mean.float()

    def result(self) -> Found:
        blocks = sorted(self._mean)
        ranked = {name: [(row["layer"], row["unit"]) for row in rows] for name, rows in self._rows.items()}
        active = {name: torch.stack([self._active[name, b] for b in blocks]) for name in ranked}
        rows = {name: [row | {"rank": k + 1} for k, row in enumerate(of)] for name, of in self._rows.items()}
        mean = torch.stack([self._mean[b] for b in blocks])
        return Found(ranked, rows, active, mean, mean.shape[1])


def _row(name: str, block: int, unit: int, discovery: OfBlock, test: OfBlock) -> dict[str, Any]:
    """As the table `neurons` says."""
    row: dict[str, Any] = {"concept": name, "layer": block, "unit": unit}
    for prefix, of in (("", discovery), ("test_", test)):
        true, difference = of.scores[RANKED_BY]
        for label, sure in (("score", true), ("contrast", difference)):
            value, low, high = (float(part[unit]) for part in sure)
            row |= {f"{prefix}{label}": value, f"{prefix}{label}_low": low, f"{prefix}{label}_high": high}
    return row | {scope: float(discovery.scores[scope].true.value[unit]) for scope in ("image", "direct")}
