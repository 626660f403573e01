"""Geometry of the hidden states, by layer and token group: fills sums while the cases pass, and turns them into rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from medlens.estimates.apart import Apart
from medlens.estimates.estimate import Estimate, estimates
from medlens.estimates.held_out import held_out_values
from medlens.estimates.lessened import lessened
from medlens.estimates.seen import Seen
from medlens.estimates.shuffled import GROUPS as SHUFFLED
from medlens.estimates.shuffled import Shuffled
from medlens.estimates.variants import RAW, Which, moment_values, pair_values
from medlens.findings import Findings, Massive
from medlens.measures.floor import adjusted
from medlens.measures.massive import massive
from medlens.measures.neighbours import CHUNK
from medlens.plan import WIDE, Plan
from medlens.stats import Folds, Moments, PairSums
from medlens.stats.flat import need, nested, parts
from medlens.stats.intervals import jackknife
from medlens.stats.rows import priority
from medlens.types import GROUPS, Row, Value
from medlens.walk.layout import Layout

WITH_ALL = (*GROUPS, "all")
COMPARED, KEPT = ("image", "text"), 256  # rows of each that stay with the run, to be compared with those of other models
LISTED = 1000  # massive activations of a state


class Passing(Protocol):
    """What geometry must know of a case: where its groups are, which image it shows, and what each place is."""

    @property
    def image(self) -> str: ...
    def where(self, group: str) -> list[int]: ...
    def identity(self, place: int) -> tuple[str, int]: ...
    @property
    def readings(self) -> Sequence[Sequence[int]]: ...
    def described(self, reading: int, place: int) -> tuple[str, int, str, str]: ...


Moving = dict[str, Folds[PairSums]]
Standing = dict[str, Folds[Moments]]


class Geometry:
    """Every measure of geometry for every state or block and every token group; `all` is the merge of the groups.

    plan: its neighbour_rows of a group enter the intrinsic dimension, chosen by its seed, the same at every layer. layout: the fold
    of each image; sums are kept by fold. protocol, group: what its rows are called. confidence: of their intervals.

    Cases of one image must pass one after the other. When all have passed a block: `leave`; when all have left the last one:
    `conclude`. Sums that were gathered elsewhere are handed over (`hand_over`) in place of either, and taken (`take`) before it.
    """

    def __init__(
        self, plan: Plan, layout: Layout | None = None, findings: Findings | None = None, *,
        protocol: str = "sound", group: str = "all", confidence: float = 0.95,
    ) -> None:  # fmt: skip
        self.plan, self.layout, self.findings = plan, layout or Layout(), findings or Findings()
        self.protocol, self.group, self.confidence = protocol, group, confidence
        self._pairs: Moving = {g: Folds(PairSums, self.layout.folds) for g in GROUPS}
        self._last: dict[str, Standing] = {v: {g: Folds(Moments, self.layout.folds) for g in GROUPS} for v in ("raw", "normed")}
        self._seen = {v: self._new_seen() for v in ("raw", "normed")}
        self._apart = {v: Apart() for v in ("raw", "normed")}
        self._shuffled = Shuffled(self.layout.partner_of)
        self._open: str | None = None
        self._priorities: dict[int, dict[str, Tensor]] = {}
        self._heavy: dict[int, set[int]] = {}  # of each case: places with a massive activation in the state it is in

    def _new_seen(self) -> Seen:
        return Seen(self.plan.neighbour_rows, self.layout.folds)

    # ---- while the cases pass

    def visit(self, block: int, case: Passing, before: Tensor, after: Tensor) -> None:
        self._close_before(case)
        now = self._heavy.pop(id(case), None)
        now = self._massive(0 if block == 0 else None, case, before) if now is None else now
        then = self._heavy[id(case)] = self._massive(block + 1, case, after)
        fold = self._fold(case)
        for group, places in self._groups(case):
            x, y = before[places], after[places]
            self._pairs[group][fold].update(x, y)
            self._see("raw", case, group, places, x, now)
            self._apart["raw"].add(group, fold, x, y, [p in now for p in places], [p in now or p in then for p in places])
            if self._shuffling(before.shape[1]):
                self._shuffled.add(case.image, group, x, y)

    def finish(self, case: Passing, raw: Tensor, normed: Tensor) -> None:
        self._close_before(case)
        fold, known = self._fold(case), self._heavy.get(id(case))
        for variant, state in (("raw", raw), ("normed", normed)):
            heavy = known if variant == "raw" and known is not None else self._massive(None, case, state)
            for group, places in self._groups(case):
                x = state[places]
                self._last[variant][group][fold].update(x)
                self._see(variant, case, group, places, x, heavy)
                self._apart[variant].add(group, fold, x, x, [p in heavy for p in places], [False] * len(places))

    def _see(self, variant: str, case: Passing, group: str, places: list[int], x: Tensor, heavy: set[int]) -> None:
        labels = torch.tensor([[self.layout.number_of.get(case.image, 0), self._fold(case)]]).expand(len(places), 2)
        ordinary = torch.tensor([p not in heavy for p in places])
        self._seen[variant].update(group, x, case.image, self._order(case, group, places), labels, ordinary)

    def _massive(self, state: int | None, case: Passing, rows: Tensor) -> set[int]:
        """Places with a massive activation; of a state that is new they are listed too, as many as people read."""
        found = massive(rows, case.readings)
        if state is not None and self.group == "all" and self.protocol == "sound":
            for reading, place, column, value in found[: LISTED - sum(known.layer == state for known in self.findings.massive)]:
                self.findings.massive.append(Massive(state, *case.described(reading, place), column, value))
        return {place for _, place, _, _ in found}

    def _fold(self, case: Passing) -> int:
        return self.layout.fold_of.get(case.image, 0)

    def _shuffling(self, width: int) -> bool:
        return "pairs" in self.plan.nulls and self.thorough(width) and self.protocol == "sound"

    def thorough(self, width: int) -> bool:
        """Whether what costs more than the walk is computed as well."""
        return width <= WIDE if self.plan.thorough is None else self.plan.thorough

    def _close_before(self, case: Passing) -> None:
        """The image before this one is complete."""
        if self._open not in (None, case.image):
            self._close()
        self._open = case.image

    def _close(self) -> None:
        for seen in self._seen.values():
            seen.close()
        self._shuffled.close()
        self._open = None

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
        self._close()
        apart, raw, thorough = self._apart["raw"], {}, self.thorough(max(map(_width, self._pairs.values())))
        for group, total, of_groups in _with_all(self._pairs):

            def find(pairs: PairSums, k: int | None, group: str = group) -> dict[Any, Value]:
                variants = thorough or (k is None and apart.any(group))
                which = Which(spectrum=k is None, variants=variants)
                found = pair_values(pairs, apart.pairs(group, k), variants)
                return {**found, **moment_values(pairs.x, apart.states(group, k), which)}

            found = estimates(find(total, None), ((k, find(less, k)) for k, less in lessened(total, of_groups)))
            self._note_all(block, group, found)
            raw[group] = found
        for group, folds in self._pairs.items():
            self._note_all(block, group, held_out_values(folds, apart.by_fold(group), thorough))
        if self._shuffling(max(map(_width, self._pairs.values()))):
            self._note_shuffled(block, raw)
        self._note_seen(block, "raw")
        self._follow()

    def _follow(self) -> None:
        self._pairs = {g: folds.map(PairSums.follow, PairSums) for g, folds in self._pairs.items()}
        self._seen["raw"], self._apart["raw"] = self._new_seen(), Apart()
        self._shuffled = Shuffled(self.layout.partner_of)

    def conclude(self, layer: int) -> None:
        """All cases have left the last block, in this state."""
        self._close()
        for variant, moments in self._last.items():
            apart = self._apart[variant]
            for group, total, of_groups in _with_all(moments):

                def find(sums: Moments, k: int | None, group: str = group, apart: Apart = apart) -> dict[Any, Value]:
                    variants = self.thorough(sums.d) or (k is None and apart.any(group))
                    return moment_values(sums, apart.states(group, k), Which(spectrum=k is None, variants=variants))

                found = estimates(find(total, None), ((k, find(less, k)) for k, less in lessened(total, of_groups)))
                self._note_all(layer, group, found, variant)
            self._note_seen(layer, variant)

    def _note_seen(self, layer: int, variant: str) -> None:
        seen, apart = self._seen[variant], self._apart[variant]
        if variant == "raw" and self.protocol == "sound" and self.group == "all":
            for group in COMPARED:
                self.findings.states |= seen.kept(group, layer, KEPT)
        for group in WITH_ALL:
            found = seen.cosine_values(group, self.thorough(seen.width))
            found |= seen.sample_values(group, self.plan.keep, self.thorough(seen.width) or apart.any(group))
            self._note_all(layer, group, found, variant)

    def _note_shuffled(self, block: int, raw: Mapping[str, Mapping[tuple[str, str], Estimate]]) -> None:
        """The floors, what is above them, and the same as a null."""
        for group in SHUFFLED:
            for name, floor in self._shuffled.values(group).items():
                self._note(name, block, group, RAW, Estimate(floor), protocol="null: pairs")
                if name != "cka":
                    self._note(f"{name}_floor", block, group, RAW, Estimate(floor))
                    above = raw[group][name, RAW].map(lambda value, floor=floor: adjusted(value, floor))
                    self._note(f"{name}_adjusted", block, group, RAW, above)

    def _note_all(self, layer: int, tokens: str, found: Mapping[tuple[str, str], Estimate], state: str = "raw") -> None:
        for (measure, variant), estimate in found.items():
            called = variant if state == "raw" else "normed" if variant == RAW else f"normed, {variant}"
            self._note(measure, layer, tokens, called, estimate)

    def _note(self, measure: str, layer: int, tokens: str, variant: str, estimate: Estimate, protocol: str | None = None) -> None:
        value, (low, high, why) = estimate.value, (None, None, "")
        if estimate.without:
            low, high, why = jackknife(value, list(estimate.without.values()), self.confidence)
        if low is not None and estimate.conservative:
            why = "a conservative interval"
        note = "; ".join(filter(None, [value.note, "" if value != value else why]))
        row = Row(protocol or self.protocol, measure, layer, tokens, self.group, variant, float(value), low, high, value.n, note)
        self.findings.add(row, estimate.without if low is not None else None)

    # ---- across machines

    def hand_over(self) -> dict[str, Tensor]:
        """The sums of the block that all cases here have passed, as named tensors, for another's `take`; the next block follows."""
        self._close()
        found = {**nested("seen", self._seen["raw"].tensors()), **nested("apart", self._apart["raw"].tensors())}
        found |= nested("shuffled", self._shuffled.tensors()) | nested("listed", self._listed())
        for group, folds in self._pairs.items():
            found |= nested(f"pairs/{group}", folds.tensors())
        self._follow()
        return found

    def hand_over_last(self) -> dict[str, Tensor]:
        """The same of the last state."""
        self._close()
        found: dict[str, Tensor] = {}
        for variant, moments in self._last.items():
            found |= nested(f"seen/{variant}", self._seen[variant].tensors())
            found |= nested(f"apart/{variant}", self._apart[variant].tensors())
            for group, folds in moments.items():
                found |= nested(f"moments/{variant}/{group}", folds.tensors())
        return found

    def _listed(self) -> dict[str, Tensor]:
        """The massive activations so far, handed over as JSON: bytes in a tensor."""
        listed, self.findings.massive = json.dumps(self.findings.massive), []
        return {"json": torch.tensor(list(listed.encode()), dtype=torch.uint8)}

    def take(self, sums: Mapping[str, Tensor]) -> None:
        """Add what another has handed over, of a block or of the last state. Raises BadRun for anything else."""
        _, found = parts(sums)
        if "seen" in found:
            need("sums of a block", found, ["seen", "apart", "shuffled", "listed", *(f"pairs/{g}" for g in GROUPS)])
            for group, pairs in self._pairs.items():
                pairs.merge(_folds(found[f"pairs/{group}"], PairSums))
            self._seen["raw"].merge(Seen.from_tensors(found["seen"]))
            self._apart["raw"].merge(Apart.from_tensors(found["apart"]))
            self._shuffled.merge(Shuffled.from_tensors(found["shuffled"]))
            listed = json.loads(bytes(found["listed"]["json"].tolist()))
            self.findings.massive += [Massive(*one) for one in listed]
            return
        last = [n for v in self._last for n in (f"seen/{v}", f"apart/{v}", *(f"moments/{v}/{g}" for g in GROUPS))]
        need("sums of the last state", found, last)
        for variant, moments in self._last.items():
            for group, folds in moments.items():
                folds.merge(_folds(found[f"moments/{variant}/{group}"], Moments))
            self._seen[variant].merge(Seen.from_tensors(found[f"seen/{variant}"]))
            self._apart[variant].merge(Apart.from_tensors(found[f"apart/{variant}"]))


def _folds(tensors: Mapping[str, Tensor], kind: Any) -> Folds[Any]:
    return Folds.from_tensors(tensors, lambda _, own: kind.from_tensors(own), kind)


def _width(folds: Folds[PairSums]) -> int:
    return max(sums.x.d for sums in folds)


def _with_all(sums: Mapping[str, Folds[Any]]) -> Iterator[tuple[str, Any, list[Folds[Any]]]]:
    """Each group's total with its folds, and in the end that of all: no more than two totals at a time, as each has matrices of the
    full width."""
    merged: Any = None
    for group, folds in sums.items():
        total = folds.total()
        yield group, total, [folds]
        merged = total if merged is None else merged.merge(total)
    yield "all", merged, list(sums.values())


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


def states_bytes(counts: Mapping[str, int], width: int, depth: int) -> int:
    """What the rows that stay with the run take on the disk: while it is made, twice."""
    return 2 * sum(min(counts[group], KEPT) for group in COMPARED) * width * 4 * (depth + 1)
