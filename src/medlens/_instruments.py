"""The instruments a plan asks for, read together: what a study, a share of it, and a merge of shares have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from torch import Tensor

from medlens.findings import Findings
from medlens.instruments.contextualization import Contextualization
from medlens.instruments.geometry import Geometry
from medlens.instruments.lens import Lens, Reader
from medlens.instruments.own import OwnMeasures
from medlens.instruments.published import Published
from medlens.plan import Plan
from medlens.stats.flat import need, nested, parts
from medlens.types import Row, Value
from medlens.walk.cases import Case, Prompt
from medlens.walk.choice import choice_of
from medlens.walk.layout import Layout
from medlens.walk.subgroups import Restricted, Subgroup


class Instrument(Protocol):
    """Reads the walk (see `walk.forward.Visitor`) and adds to the findings.

    When all cases have passed a block: `leave`; when all have left the last one: `conclude`. Sums that were gathered elsewhere are
    handed over (`hand_over`, `hand_over_last`) in place of either, and taken (`take`) before it.
    """

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None: ...
    def leave(self, block: int) -> None: ...
    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None: ...
    def conclude(self, layer: int) -> None: ...
    def hand_over(self) -> dict[str, Tensor]: ...
    def hand_over_last(self) -> dict[str, Tensor]: ...
    def take(self, sums: Mapping[str, Tensor]) -> None: ...


class Instruments:
    """Several, as one; and what they have found."""

    def __init__(self, named: Mapping[str, Instrument], findings: Findings) -> None:
        self.named, self.findings = named, findings

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        for instrument in self.named.values():
            instrument.visit(block, case, before, after)

    def leave(self, block: int) -> None:
        for instrument in self.named.values():
            instrument.leave(block)

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        for instrument in self.named.values():
            instrument.finish(case, raw, normed)

    def conclude(self, layer: int) -> None:
        for instrument in self.named.values():
            instrument.conclude(layer)

    def hand_over(self) -> dict[str, Tensor]:
        return _nested({name: instrument.hand_over() for name, instrument in self.named.items()})

    def hand_over_last(self) -> dict[str, Tensor]:
        return _nested({name: instrument.hand_over_last() for name, instrument in self.named.items()})

    def take(self, sums: Mapping[str, Tensor]) -> None:
        _, found = parts(sums)
        need("sums of the instruments", found, list(self.named))
        for name, instrument in self.named.items():
            instrument.take(found[name])


def _nested(found: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor for own, tensors in found.items() for name, tensor in nested(own, tensors).items()}


class _Said(Findings):
    """Hands rows on, with what is to be said of their intervals."""

    def __init__(self, to: Findings, words: str) -> None:
        super().__init__()
        self._to, self._words = to, words

    def add(self, row: Row, without: Mapping[int, Value] | None = None) -> None:
        note = "; ".join(filter(None, (row.note, self._words)))
        self._to.add(row if row.low is None else row._replace(note=note), without)


def instruments_for(
    plan: Plan,
    layout: Layout,
    prompts: Sequence[Prompt] = (),
    subgroups: Mapping[str, Subgroup] | None = None,
    reader: Reader | None = None,
) -> Instruments:
    """Those of the plan. layout, prompts (all of the study, in its order) and reader: empty where only sums are taken. subgroups:
    each is read as well, with intervals corrected for how many there are (Bonferroni)."""
    findings = Findings()
    if plan.protocol == "published":
        return Instruments({"published": Published(plan, choice_of(prompts), findings)}, findings)
    named = _named(plan, layout, findings)
    if "contextualization" in plan.instruments:
        named["contextualization"] = Contextualization(plan, layout, findings)
    if "lens" in plan.instruments:
        named["lens"] = Lens(plan, layout, findings, prompts, reader)
    confidence = 1 - 0.05 / max(1, len(subgroups or {}))
    for group, subgroup in (subgroups or {}).items():
        said = _Said(findings, f"interval at {100 * confidence:.4g} %: {len(subgroups or {})} subgroups looked at")
        own = _named(plan, subgroup.layout, said, group=group, confidence=confidence)
        named |= {f"{name} {group}": cast(Instrument, Restricted(one, subgroup)) for name, one in own.items()}
    return Instruments(named, findings)


def _named(plan: Plan, layout: Layout, findings: Findings, **how: Any) -> dict[str, Instrument]:
    found: dict[str, Instrument] = {}
    if "geometry" in plan.instruments:
        found["geometry"] = Geometry(plan, layout, findings, **how)
    if plan.measures:
        found["own"] = OwnMeasures(plan, layout, findings, **how)
    return found


def null_instruments(plan: Plan, layout: Layout, null: str, prompts: Sequence[Prompt], reader: Reader) -> Instruments:
    """Geometry and the lens (where the plan has it), their rows called a null's."""
    findings, protocol = Findings(), f"null: {null}"
    named: dict[str, Instrument] = {"geometry": Geometry(replace(plan, nulls=()), layout, findings, protocol=protocol)}
    if "lens" in plan.instruments:
        named["lens"] = Lens(plan, layout, findings, prompts, reader, protocol=protocol)
    return Instruments(named, findings)
