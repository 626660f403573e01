"""Geometry of the hidden states, by layer and token group: fills sums while the cases pass, and turns them into rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from medlens.measures import MEASURES
from medlens.stats import CosineSums, Moments, PairSums, RowSample
from medlens.stats.rows import priority
from medlens.types import GROUPS, Row, Value

RESOLUTION = 1e-5  # of a row's norm: the contract's tolerance for one state computed in two batches


class Passing(Protocol):
    """What geometry must know of a case: where its groups are, which image it shows, and what each place is."""

    @property
    def image(self) -> str: ...
    def where(self, group: str) -> list[int]: ...
    def identity(self, place: int) -> tuple[str, int]: ...


class Mergeable(Protocol):
    def merge(self, other: Any) -> Self: ...


Sums = TypeVar("Sums", bound=Mergeable)


class StateSums:
    """Sums over one state of one token group."""

    def __init__(self, cap: int) -> None:
        self.cosines, self.rows = CosineSums(), RowSample(cap)

    def update(self, x: Tensor, image: str, priorities: Tensor) -> None:
        self.cosines.update(x, image)
        self.rows.update(x, priorities)

    def merge(self, other: StateSums) -> StateSums:
        self.cosines.merge(other.cosines)
        self.rows.merge(other.rows)
        return self


class Geometry:
    """Every measure of `MEASURES` for every state or block and every token group; `all` is the merge of the groups.

    cap: rows of a group that enter the intrinsic dimension, fitted on the share `keep` of the ratios. seed: of their choice, which
    is the same at every layer.
    """

    def __init__(self, cap: int, keep: float, seed: int) -> None:
        self.cap, self.keep, self.seed = cap, keep, seed
        self.found: list[Row] = []
        self._pairs = {g: PairSums() for g in GROUPS}
        self._states = self._fresh()
        self._last = self._fresh()
        self._normed = self._fresh()
        self._normed_moments = {g: Moments() for g in GROUPS}
        self._priorities: dict[int, dict[str, Tensor]] = {}

    def _fresh(self) -> dict[str, StateSums]:
        return {g: StateSums(self.cap) for g in GROUPS}

    def visit(self, block: int, case: Passing, before: Tensor, after: Tensor) -> None:
        for group, places in self._groups(case):
            self._pairs[group].update(before[places], after[places])
            self._states[group].update(before[places], case.image, self._order(case, group, places))

    def leave(self, block: int) -> None:
        for group, pairs in self._with_all(self._pairs, PairSums):
            for name, measure in MEASURES.items():
                if measure.needs == "pairs":
                    self._note(name, block, group, "raw", measure.of_sums(pairs))
            self._note_state(block, group, "raw", pairs.x)
        for group, sums in self._with_all(self._states, lambda: StateSums(self.cap)):
            self._note_cosines_and_rows(block, group, "raw", sums)
        self._depth = block + 1
        self._outgoing = {g: p.y for g, p in self._pairs.items()}
        self._pairs = {g: p.follow() for g, p in self._pairs.items()}
        self._states = self._fresh()

    def finish(self, case: Passing, raw: Tensor, normed: Tensor) -> None:
        for group, places in self._groups(case):
            order = self._order(case, group, places)
            self._last[group].update(raw[places], case.image, order)
            self._normed[group].update(normed[places], case.image, order)
            self._normed_moments[group].update(normed[places])

    def rows(self) -> list[Row]:
        """All rows, once the walk is over: the last state, raw and normed, is added here."""
        for variant, moments, sums in (
            ("raw", self._outgoing, self._last),
            ("normed", self._normed_moments, self._normed),
        ):
            for group, m in self._with_all(moments, Moments):
                self._note_state(self._depth, group, variant, m)
            for group, s in self._with_all(sums, lambda: StateSums(self.cap)):
                self._note_cosines_and_rows(self._depth, group, variant, s)
        return self.found

    def _groups(self, case: Passing) -> Iterator[tuple[str, list[int]]]:
        for group in GROUPS:
            if places := case.where(group):
                yield group, places

    def _order(self, case: Passing, group: str, places: list[int]) -> Tensor:
        """Priorities of a case's rows: hashed once, used at every layer."""
        known = self._priorities.setdefault(id(case), {})
        if group not in known:
            known[group] = torch.tensor([priority(self.seed, *case.identity(place)) for place in places])
        return known[group]

    def _with_all(self, sums: Mapping[str, Sums], empty: Callable[[], Sums]) -> Iterator[tuple[str, Sums]]:
        merged = empty()
        for group, own in sums.items():
            yield group, own
            merged.merge(own)
        yield "all", merged

    def _note_state(self, layer: int, group: str, variant: str, moments: Moments) -> None:
        for name, measure in MEASURES.items():
            if measure.needs == "moments":
                self._note(name, layer, group, variant, measure.of_sums(moments))

    def _note_cosines_and_rows(self, layer: int, group: str, variant: str, sums: StateSums) -> None:
        for name, measure in MEASURES.items():
            if measure.needs == "cosines":
                self._note(name, layer, group, variant, measure.of_sums(sums.cosines))
            if measure.needs == "rows":
                self._note(name, layer, group, variant, measure.of_sums(sums.rows, self.keep, RESOLUTION))

    def _note(self, measure: str, layer: int, tokens: str, variant: str, value: Value) -> None:
        self.found.append(Row("sound", measure, layer, tokens, "all", variant, float(value), None, None, value.n, value.note))
