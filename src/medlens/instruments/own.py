"""Measures of the user's own: functions of rows, computed on the bounded sample of rows of every state or block."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from medlens.errors import BadInput, MedlensError
from medlens.findings import Findings
from medlens.measures import MEASURES
from medlens.plan import Plan
from medlens.stats import RowSample
from medlens.stats.flat import need, nested, parts
from medlens.stats.intervals import jackknife
from medlens.stats.rows import priority
from medlens.types import GROUPS, Row, Value
from medlens.walk.layout import Layout

STATES = ("before", "after", "raw", "normed")  # of a block: what enters and leaves it; of the last state: its two variants


class Own(NamedTuple):
    """A measure: a function of x (n, d), or of x and y where it takes two."""

    name: str
    function: Callable[..., Any]
    pair: bool


class Passing(Protocol):
    @property
    def image(self) -> str: ...
    def where(self, group: str) -> list[int]: ...
    def identity(self, place: int) -> tuple[str, int]: ...


def own_measures(named: Sequence[str]) -> list[Own]:
    """The functions of these names ("module:function"). Raises BadInput where one cannot be imported, or takes other arguments."""
    found = [_own(name) for name in dict.fromkeys(named)]
    taken = set(MEASURES)
    for own in found:
        if own.name in taken:
            raise BadInput(f"measure {own.name}: there is one of this name already; rename the function")
        taken.add(own.name)
    return found


def sources(named: Sequence[str]) -> list[str]:
    """The functions' text, by which a study knows that one was changed; empty of one that has none."""
    found = []
    for own in own_measures(named):
        try:
            found.append(inspect.getsource(own.function))
        except (OSError, TypeError):
            found.append("")
    return found


def _own(named: str) -> Own:
    module, _, name = named.partition(":")
    if not module or not name.isidentifier():
        raise BadInput(f"measure {named!r}: expected module:function, such as my_measures:my_function")
    try:
        function = getattr(import_module(module), name, None)
    except Exception as e:  # whatever the user's own module raises while it is imported
        raise BadInput(
            f"measure {named}: {module} cannot be imported ({type(e).__name__}: {e}); run where it lies, or install it"
        ) from e
    if not callable(function):
        raise BadInput(f"measure {named}: {module} has no function {name}")
    return Own(name, function, _arguments(named, function) == 2)


def _arguments(named: str, function: Callable[..., Any]) -> int:
    """How many it must be given: 1 or 2, by position. Raises BadInput."""
    try:
        taken = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as e:
        raise BadInput(f"measure {named}: its arguments cannot be found out; wrap it in a function of x, or of x and y") from e
    needed = [p for p in taken if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) not in (1, 2) or any(p.kind is p.KEYWORD_ONLY for p in needed):
        said = ", ".join(p.name for p in needed)
        raise BadInput(f"measure {named} takes ({said}); expected x, the rows (n, d), or x and y, those before and behind a block")
    return len(needed)


class OwnMeasures:
    """Reads a walk for them. plan, layout, findings, protocol, group, confidence: as of `Geometry`."""

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        findings: Findings,
        *,
        protocol: str = "sound",
        group: str = "all",
        confidence: float = 0.95,
    ) -> None:
        self.plan, self.layout, self.findings = plan, layout, findings
        self.protocol, self.group, self.confidence = protocol, group, confidence
        self.measures = own_measures(plan.measures)
        self._states: dict[str, dict[str, RowSample]] = {state: self._empty() for state in STATES}
        self._priorities: dict[tuple[int, str], Tensor] = {}

    def _empty(self) -> dict[str, RowSample]:
        return {group: RowSample(self.plan.neighbour_rows) for group in GROUPS}

    # ---- while the cases pass

    def visit(self, block: int, case: Passing, before: Tensor, after: Tensor) -> None:
        self._see("before", case, before)
        if any(measure.pair for measure in self.measures):
            self._see("after", case, after)

    def finish(self, case: Passing, raw: Tensor, normed: Tensor) -> None:
        self._see("raw", case, raw)
        self._see("normed", case, normed)

    def _see(self, state: str, case: Passing, rows: Tensor) -> None:
        label = [self.layout.number_of.get(case.image, 0), self.layout.fold_of.get(case.image, 0)]
        for group in GROUPS:
            if places := case.where(group):
                key = (id(case), group)
                if key not in self._priorities:
                    order = [priority(self.plan.seed, *case.identity(place)) for place in places]
                    self._priorities[key] = torch.tensor(order, device=rows.device)
                labels = torch.tensor([label] * len(places), device=rows.device)
                self._states[state][group].update(rows[places], self._priorities[key], labels)

    # ---- when they have passed

    def leave(self, block: int) -> None:
        self._note_all(block, "raw", "before", [m for m in self.measures if not m.pair])
        self._note_all(block, "raw", "before", [m for m in self.measures if m.pair])
        self._follow()

    def conclude(self, layer: int) -> None:
        for variant in ("raw", "normed"):
            self._note_all(layer, variant, variant, [m for m in self.measures if not m.pair])

    def _follow(self) -> None:
        self._states |= {"before": self._empty(), "after": self._empty()}

    def _note_all(self, layer: int, variant: str, state: str, measures: Sequence[Own]) -> None:
        for tokens, sample in _with_all(self._states[state]):
            for measure in measures:
                other = dict(_with_all(self._states["after"]))[tokens] if measure.pair else None
                self._note(measure, layer, tokens, variant, sample, other)

    def _note(self, measure: Own, layer: int, tokens: str, variant: str, sample: RowSample, other: RowSample | None) -> None:
        where = f"{'block' if measure.pair else 'state'} {layer}, {tokens} tokens, group {self.group}"
        states = [_rows(s) for s in (sample, other) if s is not None]
        value = self._value(measure, states, where)
        without: dict[int, Value] = {}
        if sample.labels is not None:
            fold_of = sample.labels[:, 1].cpu()
            folds = sorted(set(fold_of.tolist()))
            if len(folds) > 1:
                without = {k: self._value(measure, [x[fold_of != k] for x in states], where) for k in folds}
        low, high, why = jackknife(value, list(without.values()), self.confidence)
        partly = f"{len(states[0])} of {sample.seen} rows" if sample.seen > sample.cap else ""
        note = "; ".join(filter(None, (value.note, partly, "" if value.note else why)))
        found = Row(self.protocol, measure.name, layer, tokens, self.group, variant, float(value), low, high, value.n, note)
        self.findings.add(found, without)

    def _value(self, measure: Own, states: Sequence[Tensor], where: str) -> Value:
        """What the function says of these rows. Raises BadInput for an error in it, or for what is no number."""
        n = len(states[0])
        if n == 0:
            return Value.undefined(0, "0 rows")
        try:
            said = measure.function(*(x.clone() for x in states))
            value = said if isinstance(said, Value) else Value(float(said), n)
        except MedlensError:
            raise
        except Exception as e:  # whatever the user's own function raises
            raise BadInput(f"measure {measure.name} failed at {where}: {type(e).__name__}: {e}") from e
        if isinstance(said, Value) or torch.isfinite(torch.tensor(float(value))):
            return value
        return Value.undefined(n, f"{measure.name} returned {float(value)}")

    # ---- across machines

    def hand_over(self) -> dict[str, Tensor]:
        found = self._tensors(("before", "after"))
        self._follow()
        return found

    def hand_over_last(self) -> dict[str, Tensor]:
        return self._tensors(("raw", "normed"))

    def _tensors(self, states: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for state in states:
            for group, sample in self._states[state].items():
                found |= nested(f"{state}/{group}", sample.tensors())
        return found

    def take(self, sums: Mapping[str, Tensor]) -> None:
        """Raises BadRun for what is none of it."""
        _, found = parts(sums)
        states = ("before", "after") if "before/image" in found else ("raw", "normed")
        need("samples of rows", found, [f"{state}/{group}" for state in states for group in GROUPS])
        for state in states:
            for group, sample in self._states[state].items():
                sample.merge(RowSample.from_tensors(found[f"{state}/{group}"]))


def own_bytes(counts: Mapping[str, int], width: int, plan: Plan, itemsize: int) -> int:
    """Bytes of their samples of rows, and of one in float64 with its copy."""
    if not plan.measures:
        return 0
    kept = [min(counts[group], plan.neighbour_rows) for group in (*GROUPS, "all")]
    return 2 * sum(kept) * width * itemsize + 4 * kept[-1] * width * 8


def _rows(sample: RowSample) -> Tensor:
    return torch.zeros(0, 0, dtype=torch.float64) if sample.rows is None else sample.rows.detach().cpu().double()


def _with_all(samples: Mapping[str, RowSample]) -> Iterator[tuple[str, RowSample]]:
    merged = RowSample(next(iter(samples.values())).cap)
    for group, sample in samples.items():
        yield group, sample
        merged.merge(sample)
    yield "all", merged
