"""Geometry of the hidden states, by layer and token group: fills sums while the cases pass, and turns them into rows."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from medlens.findings import Findings
from medlens.measures import MEASURES
from medlens.measures.neighbours import CHUNK
from medlens.plan import Plan
from medlens.stats import CosineSums, Folds, Moments, PairSums, RowSample
from medlens.stats.flat import need, nested, parts
from medlens.stats.rows import priority
from medlens.types import GROUPS, Row, Value
from medlens.walk.layout import Layout

RESOLUTION = 1e-5  # of a row's norm: the contract's tolerance for one state computed in two batches
WITH_ALL = (*GROUPS, "all")


class Passing(Protocol):
    """What geometry must know of a case: where its groups are, which image it shows, and what each place is."""

    @property
    def image(self) -> str: ...
    def where(self, group: str) -> list[int]: ...
    def identity(self, place: int) -> tuple[str, int]: ...


class Seen:
    """What is kept of one state beside its moments: cosines and a sample of rows, by group."""

    def __init__(self, cap: int) -> None:
        self.cosines = {g: CosineSums() for g in WITH_ALL}  # rows of all are fed again: closed images do not merge across groups
        self.rows = {g: RowSample(cap) for g in GROUPS}

    def update(self, group: str, x: Tensor, image: str, priorities: Tensor) -> None:
        self.cosines[group].update(x, image)
        self.cosines["all"].update(x, image)
        self.rows[group].update(x, priorities)

    def close(self) -> None:
        for cosines in self.cosines.values():
            cosines.close()

    def merge(self, other: Seen) -> None:
        for group, cosines in self.cosines.items():
            cosines.merge(other.cosines[group])
        for group, rows in self.rows.items():
            rows.merge(other.rows[group])

    def tensors(self) -> dict[str, Tensor]:
        cosines = [nested(f"cosines/{g}", sums.tensors()) for g, sums in self.cosines.items()]
        rows = [nested(f"rows/{g}", sample.tensors()) for g, sample in self.rows.items()]
        return dict(ChainMap(*cosines, *rows))

    @classmethod
    def from_tensors(cls, cap: int, tensors: Mapping[str, Tensor]) -> Seen:
        new, (_, found) = cls(cap), parts(tensors)
        need("cosines and rows", found, [*(f"cosines/{g}" for g in WITH_ALL), *(f"rows/{g}" for g in GROUPS)])
        new.cosines = {g: CosineSums.from_tensors(found[f"cosines/{g}"]) for g in WITH_ALL}
        new.rows = {g: RowSample.from_tensors(found[f"rows/{g}"]) for g in GROUPS}
        return new


Moving = dict[str, Folds[PairSums]]
Standing = dict[str, Folds[Moments]]


class Geometry:
    """Every measure of `MEASURES` for every state or block and every token group; `all` is the merge of the groups.

    plan: its neighbour_rows of a group enter the intrinsic dimension, chosen by its seed, the same at every layer. layout: the fold
    of each image; sums are kept by fold.

    Cases of one image must pass one after the other. When all have passed a block: `leave`; when all have left the last one:
    `conclude`. Sums that were gathered elsewhere are handed over (`hand_over`) in place of either, and taken (`take`) before it.
    """

    def __init__(self, plan: Plan, layout: Layout | None = None, findings: Findings | None = None) -> None:
        self.plan, self.layout, self.findings = plan, layout or Layout(), findings or Findings()
        cap, folds = plan.neighbour_rows, self.layout.folds
        self._pairs: Moving = {g: Folds(PairSums, folds) for g in GROUPS}
        self._seen = Seen(cap)
        self._last: dict[str, tuple[Standing, Seen]] = {
            variant: ({g: Folds(Moments, folds) for g in GROUPS}, Seen(cap)) for variant in ("raw", "normed")
        }
        self._open: str | None = None
        self._priorities: dict[int, dict[str, Tensor]] = {}

    # ---- while the cases pass

    def visit(self, block: int, case: Passing, before: Tensor, after: Tensor) -> None:
        self._close_before(case, [self._seen])
        for group, places in self._groups(case):
            self._pairs[group][self.layout.fold_of.get(case.image, 0)].update(before[places], after[places])
            self._seen.update(group, before[places], case.image, self._order(case, group, places))

    def finish(self, case: Passing, raw: Tensor, normed: Tensor) -> None:
        self._close_before(case, [seen for _, seen in self._last.values()])
        for group, places in self._groups(case):
            for state, (moments, seen) in zip((raw, normed), self._last.values(), strict=True):
                moments[group][self.layout.fold_of.get(case.image, 0)].update(state[places])
                seen.update(group, state[places], case.image, self._order(case, group, places))

    def _close_before(self, case: Passing, all_seen: Sequence[Seen]) -> None:
        """The image before this one is complete."""
        if self._open not in (None, case.image):
            for seen in all_seen:
                seen.close()
        self._open = case.image

    def _groups(self, case: Passing) -> Iterator[tuple[str, list[int]]]:
        for group in GROUPS:
            if places := case.where(group):
                yield group, places

    def _order(self, case: Passing, group: str, places: list[int]) -> Tensor:
        """Priorities of a case's rows: hashed once, used at every layer."""
        known = self._priorities.setdefault(id(case), {})
        if group not in known:
            known[group] = torch.tensor([priority(self.plan.seed, *case.identity(place)) for place in places])
        return known[group]

    # ---- when they have passed

    def leave(self, block: int) -> None:
        """All cases have passed this block."""
        self._seen.close()
        self._open = None
        for group, pairs in _with_all(self._pairs):
            for name, measure in MEASURES.items():
                if measure.needs == "pairs":
                    self._note(name, block, group, "raw", measure.of_sums(pairs))
            self._note_moments(block, group, "raw", pairs.x)
        self._note_seen(block, "raw", self._seen)
        self._follow()

    def _follow(self) -> None:
        self._pairs = {g: folds.map(PairSums.follow, PairSums) for g, folds in self._pairs.items()}
        self._seen = Seen(self.plan.neighbour_rows)

    def conclude(self, layer: int) -> None:
        """All cases have left the last block, in this state."""
        for variant, (moments, seen) in self._last.items():
            seen.close()
            for group, sums in _with_all(moments):
                self._note_moments(layer, group, variant, sums)
            self._note_seen(layer, variant, seen)

    def _note_moments(self, layer: int, group: str, variant: str, moments: Moments) -> None:
        for name, measure in MEASURES.items():
            if measure.needs == "moments":
                self._note(name, layer, group, variant, measure.of_sums(moments))

    def _note_seen(self, layer: int, variant: str, seen: Seen) -> None:
        rows = {**seen.rows, "all": RowSample(self.plan.neighbour_rows)}
        for sample in seen.rows.values():
            rows["all"].merge(sample)
        for group in WITH_ALL:
            for name, measure in MEASURES.items():
                if measure.needs == "cosines":
                    self._note(name, layer, group, variant, measure.of_sums(seen.cosines[group]))
                if measure.needs == "rows":
                    self._note(name, layer, group, variant, measure.of_sums(rows[group], self.plan.keep, RESOLUTION))

    def _note(self, measure: str, layer: int, tokens: str, variant: str, value: Value) -> None:
        self.findings.add(Row("sound", measure, layer, tokens, "all", variant, float(value), None, None, value.n, value.note))

    # ---- across machines

    def hand_over(self) -> dict[str, Tensor]:
        """The sums of the block that all cases here have passed, as named tensors, for another's `take`; the next block follows."""
        self._seen.close()
        self._open = None
        pairs = [nested(f"pairs/{g}", folds.tensors()) for g, folds in self._pairs.items()]
        found = dict(ChainMap(*pairs, nested("seen", self._seen.tensors())))
        self._follow()
        return found

    def hand_over_last(self) -> dict[str, Tensor]:
        """The same of the last state."""
        found: dict[str, Tensor] = {}
        for variant, (moments, seen) in self._last.items():
            seen.close()
            found |= nested(f"seen/{variant}", seen.tensors())
            for group, folds in moments.items():
                found |= nested(f"moments/{variant}/{group}", folds.tensors())
        return found

    def take(self, sums: Mapping[str, Tensor]) -> None:
        """Add what another has handed over, of a block or of the last state. Raises BadRun for anything else."""
        _, found = parts(sums)
        if "seen" in found:
            need("sums of a block", found, ["seen", *(f"pairs/{g}" for g in GROUPS)])
            for group, pairs in self._pairs.items():
                pairs.merge(_folds(found[f"pairs/{group}"], PairSums))
            self._seen.merge(Seen.from_tensors(self.plan.neighbour_rows, found["seen"]))
            return
        last = [name for v in self._last for name in (f"seen/{v}", *(f"moments/{v}/{g}" for g in GROUPS))]
        need("sums of the last state", found, last)
        for variant, (moments, seen) in self._last.items():
            for group, folds in moments.items():
                folds.merge(_folds(found[f"moments/{variant}/{group}"], Moments))
            seen.merge(Seen.from_tensors(self.plan.neighbour_rows, found[f"seen/{variant}"]))


def _folds(tensors: Mapping[str, Tensor], kind: Any) -> Folds[Any]:
    return Folds.from_tensors(tensors, lambda _, own: kind.from_tensors(own), kind)


def _with_all(sums: Mapping[str, Folds[Any]]) -> Iterator[tuple[str, Any]]:
    """Each group's total, and in the end that of all: no more than two totals at a time, as each has matrices of the full width."""
    merged: Any = None
    for group, folds in sums.items():
        total = folds.total()
        yield group, total
        merged = total if merged is None else merged.merge(total)
    yield "all", merged


class Size(NamedTuple):
    """Bytes: of the sums while the cases pass, and what is needed beside them while they are read."""

    held: int
    reading: int


def geometry_bytes(counts: Mapping[str, int], width: int, plan: Plan, itemsize: int) -> Size:
    """What `Geometry` needs for so many rows of each group."""
    matrix, held, wide = width * width * 8, 0, False
    for group in GROUPS:
        n = counts[group]
        summed = n / plan.folds > width
        wide |= summed
        held += plan.folds * 3 * matrix if summed else 2 * n * width * itemsize
        held += min(n, plan.neighbour_rows) * width * 8
    factors = 10 * matrix if wide or counts["all"] > width else 4 * min(counts["all"], width) ** 2 * 8
    neighbours = min(counts["all"], plan.neighbour_rows) * (2 * width + 3 * CHUNK) * 8
    return Size(held, max(factors, neighbours))
