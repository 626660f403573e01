"""How much every block does to its rows, by several rules, image and text apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from medlens.measures.linear import linearity_of_update_from_sums
from medlens.measures.turns import angular_distance_from_sums, block_influence_from_sums
from medlens.stats import Folds, PairSums
from medlens.stats.intervals import jackknife
from medlens.stats.turns import TurnSums
from medlens.types import Value
from medlens.walk.cases import Case
from medlens.walk.layout import Layout

TOKENS = ("image", "text", "all")
KINDS: dict[str, Callable[[], Any]] = {"pairs": lambda: PairSums(moments_of_y=False), "turns": TurnSums}
RULES: dict[str, tuple[str, Callable[[Any], Value]]] = {  # the kind of sums that a rule stands on, and what it makes of them
    "nonlinearity": ("pairs", lambda sums: _complement(linearity_of_update_from_sums(sums))),
    "block_influence": ("turns", block_influence_from_sums),
    "angular_distance": ("turns", angular_distance_from_sums),
}


class Importance:
    """Visits a walk and keeps rows of the table `importance`: rule, layer, tokens, value, low, high, n, note.

    Of every rule a larger value says that the block does more: 1 - linearity of the update, block influence, angular distance.
    tokens: "image", "text" (the question), or "all" of the prompt. layout: the fold of each image; intervals leave out a fold.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout, self.rows = layout, list[dict[str, Any]]()
        self._sums = self._new()

    def _new(self) -> dict[tuple[str, str], Folds[Any]]:
        return {(kind, tokens): Folds(new, self.layout.folds) for kind, new in KINDS.items() for tokens in TOKENS}

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        fold = self.layout.fold_of.get(case.image, 0)
        for (_, tokens), folds in self._sums.items():
            if places := case.where(tokens):
                folds[fold].update(before[places], after[places])

    def leave(self, block: int) -> None:
        for rule, (kind, measured) in RULES.items():
            for tokens in TOKENS:
                self.rows.append(_row(rule, block, tokens, self._sums[kind, tokens], measured))
        self._sums = self._new()

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        pass


def _row(rule: str, block: int, tokens: str, folds: Folds[Any], measured: Callable[[Any], Value]) -> dict[str, Any]:
    value, filled = measured(folds.total()), folds.filled
    low, high, why = jackknife(value, [measured(folds.without(k)) for k in filled] if len(filled) > 1 else [])
    note = "; ".join(filter(None, (value.note, "" if value != value else why)))
    found = {"rule": rule, "layer": block, "tokens": tokens, "value": float(value), "low": low, "high": high}
    return found | {"n": value.n, "note": note}


def _complement(value: Value) -> Value:
    return Value(1 - value, value.n, value.note)
