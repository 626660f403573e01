"""Geometry of the hidden states, by layer and token group: fills sums while the cases pass, and turns them into rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from medlens.measures import MEASURES
from medlens.measures.neighbours import CHUNK
from medlens.plan import Plan
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


class Size(NamedTuple):
    """Bytes: of the sums while the cases pass, and what is needed beside them while they are read."""

    held: int
    reading: int


def geometry_bytes(counts: Mapping[str, int], width: int, plan: Plan) -> Size:
    """What `Geometry` needs for so many rows of each group."""
    matrix = width * width * 8
    groups = [n for group, n in counts.items() if group != "all" and n]
    held = sum(3 * matrix for n in groups)
    rows = sum(min(n, plan.neighbour_rows) * width * 8 for n in groups)
    neighbours = min(counts["all"], plan.neighbour_rows) * (2 * width + 3 * CHUNK) * 8
    return Size(held + rows, max(3 * matrix * 2 + 4 * matrix, neighbours))


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
        self._moments = {v: {g: Moments() for g in GROUPS} for v in ("raw", "normed")}  # of the last state
        self._priorities: dict[int, dict[str, Tensor]] = {}

    def _fresh(self) -> dict[str, StateSums]:
        return {g: StateSums(self.cap) for g in GROUPS}

    def visit(self, block: int, case: Passing, before: Tensor, after: Tensor) -> None:
        for group, places in self._groups(case):
            self._pairs[group].update(before[places], after[places])
            self._states[group].update(before[places], case.image, self._order(case, group, places))

    def leave(self, block: int) -> None:
        """All cases have passed this block."""
        for group, pairs in self._with_all(self._pairs, PairSums):
            for name, measure in MEASURES.items():
                if measure.needs == "pairs":
                    self._note(name, block, group, "raw", measure.of_sums(pairs))
            self._note_state(block, group, "raw", pairs.x)
        for group, sums in self._with_all(self._states, lambda: StateSums(self.cap)):
            self._note_cosines_and_rows(block, group, "raw", sums)
        self._pairs = {g: p.follow() for g, p in self._pairs.items()}
        self._states = self._fresh()

    def conclude(self, layer: int) -> None:
        """All cases have left the last block, in this state."""
        for variant, sums in (("raw", self._last), ("normed", self._normed)):
            for group, m in self._with_all(self._moments[variant], Moments):
                self._note_state(layer, group, variant, m)
            for group, s in self._with_all(sums, lambda: StateSums(self.cap)):
                self._note_cosines_and_rows(layer, group, variant, s)

    def finish(self, case: Passing, raw: Tensor, normed: Tensor) -> None:
        for group, places in self._groups(case):
            order = self._order(case, group, places)
            for variant, state, sums in (("raw", raw, self._last), ("normed", normed, self._normed)):
                self._moments[variant][group].update(state[places])
                sums[group].update(state[places], case.image, order)

    def noted(self) -> list[tuple[Any, ...]]:
        """What was found so far, as JSON holds it; `recall` takes it up again, and the next block follows."""
        return [tuple(row) for row in self.found]

    def recall(self, noted: Sequence[Sequence[Any]]) -> None:
        self.found = [Row(*row) for row in noted]

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
