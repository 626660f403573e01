"""The instruments a plan asks for, read together: what a study, a share of it, and a merge of shares have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from medlens.findings import Findings
from medlens.instruments.contextualization import Contextualization
from medlens.instruments.geometry import Geometry
from medlens.plan import Plan
from medlens.stats.flat import need, nested, parts
from medlens.walk.cases import Case
from medlens.walk.layout import Layout


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


def instruments_for(plan: Plan, layout: Layout) -> Instruments:
    """Those of the plan. layout: empty where only sums are taken."""
    findings = Findings()
    makers = {"geometry": Geometry, "contextualization": Contextualization}
    return Instruments({name: makers[name](plan, layout, findings) for name in plan.instruments}, findings)
