"""Effects: of changing units chosen for a word, beside those of changing as many units of the same layers drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from medlens._neurons.concepts import Concept
from medlens._neurons.find import Found
from medlens._neurons.prove import Bench, Odds
from medlens.stats.grouped import mean_of
from medlens.stats.intervals import Interval, jackknife
from medlens.types import Value
from medlens.walk.intervene import Unit

MAIN, DOSES = 0.01, (0.001, 0.003, 0.01, 0.03)  # of all units
FEW = 20  # draws that everything is compared with but ablation to zero at the main dose: enough for p < 0.05
NO_DONOR = "no other image gives as many tokens under the same question"


@dataclass(frozen=True)
class Change:
    """What is done to units, and to what kind of images; whether it should raise the word's log-odds (1) or lower them (-1)."""

    name: str
    true: bool
    sign: int
    run: Callable[[Sequence[Unit], Sequence[int]], Odds]


class Effects:
    """Of one word. rows: as the table `effects` says."""

    def __init__(self, bench: Bench, found: Found, concept: Concept, draws: int, seed: int) -> None:
        self.bench, self.found, self.concept, self.draws = bench, found, concept, draws
        self.column = [c.word for c in bench.concepts].index(concept.word)
        self.rows: list[dict[str, Any]] = []
        self._draw = np.random.default_rng(seed)
        swapped = lambda units, which: bench.swapped(units, which, concept.word)
        self.zero = Change("zero", True, -1, lambda units, which: bench.scaled(units, which, 0.0))
        self.mean = Change("mean", True, -1, lambda units, which: bench.fixed(units, which, found.mean))
        self.resample = Change("resample", True, -1, swapped)
        self.double = Change("double", True, 1, lambda units, which: bench.scaled(units, which, 2.0))
        self.put_in = Change("put in", False, 1, swapped)

    def of_the_top(self) -> None:
        """The main dose under every change, other doses of ablation, and the other words."""
        main = self.found.ranked[self.concept.word][: dose(self.found.total, MAIN)]
        self._note(main, self.zero, self.draws, "top")
        for change in (self.mean, self.resample, self.double, self.put_in):
            self._note(main, change, FEW, "top")
        for share in DOSES:
            if (count := dose(self.found.total, share)) != len(main):
                self._note(self.found.ranked[self.concept.word][:count], self.zero, FEW, "dose")
        self._others(main)

    def of_one(self, unit: Unit) -> tuple[dict[str, Any], dict[str, Any]]:
        """A unit alone: set to zero, and as it is on another image."""
        return tuple(self._note([unit], change, FEW, "unit") for change in (self.zero, self.resample))  # pyright: ignore

    def known(self) -> Interval:
        """How much larger the word's log-odds are where it is true than where it is false, before anything is changed: above 0, the
        model knows it from the image."""
        which = {true: self.bench.which(self.concept, true) for true in (True, False)}
        odds = {true: self.bench.before.value[k, self.column].tolist() for true, k in which.items()}
        groups = {true: [self.bench.units[k] for k in ks] for true, ks in which.items()}

        def less(left: str | None) -> Value:
            means = []
            for true in (True, False):
                kept = [v for v, g in zip(odds[true], groups[true], strict=True) if g != left]
                means.append(sum(kept) / len(kept))
            return Value(means[0] - means[1], sum(map(len, odds.values())))

        return jackknife(less(None), [less(g) for g in dict.fromkeys(groups[True] + groups[False])])

    def _note(self, units: Sequence[Unit], change: Change, draws: int, of: str) -> dict[str, Any]:
        which = self.bench.which(self.concept, change.true)
        if change.run in (self.resample.run, self.put_in.run):
            which = [k for k in which if (self.concept.word, k) in self.bench.donors]
        row = self._begun(of, units, change.name, self.concept.word, change.true)
        row["unit"] = "{}.{}".format(*units[0]) if of == "unit" else None
        if not change.true:  # as many as there are of the other kind: they are many
            which = which[: len(self.bench.which(self.concept, True))]
        if which:
            after = change.run(units, which)
            row |= self._measured(which, after, self.column)
            row |= self._against(which, units, change, after, draws)
        else:
            row["note"] = NO_DONOR
        self.rows.append(row)
        return row

    def _others(self, units: Sequence[Unit]) -> None:
        """Specificity: the same ablation on images of the other words, and these words' log-odds."""
        for column, other in enumerate(self.bench.concepts):
            if column != self.column:
                which = self.bench.which(other, True)
                row = self._begun("others", units, "zero", other.word, True)
                self.rows.append(row | self._measured(which, self.zero.run(units, which), column))

    def _begun(self, of: str, units: Sequence[Unit], change: str, word: str, true: bool) -> dict[str, Any]:
        about = {"concept": self.concept.word, "of": of, "units": len(units), "change": change}
        return about | {"word": word, "true": true, "note": ""}

    def _measured(self, which: Sequence[int], after: Odds, column: int) -> dict[str, Any]:
        before = self.bench.before
        change = after.value[:, column] - before.value[which, column]
        mean, interval = self._mean(change, which)
        said = (before.said[which, column], after.said[:, column])
        return {
            "before": float(before.value[which, column].mean()), "value": mean, "low": interval.low, "high": interval.high,
            "said_before": float(said[0].double().mean()), "said_after": float(said[1].double().mean()),
            "images": len({self.bench.units[k] for k in which}),
        }  # fmt: skip

    def _against(self, which: Sequence[int], units: Sequence[Unit], change: Change, after: Odds, draws: int) -> dict[str, Any]:
        """Beside random units: their mean, the one draw that does most, and how far beyond that the chosen ones are."""
        own = self._changes(after, which)
        others = [self._changes(change.run(self._matched(units), which), which) for _ in range(draws)]
        means = np.array([float(one.mean()) for one in others]) * change.sign
        beyond = (own - others[int(means.argmax())]) * change.sign
        mean, interval = self._mean(beyond, which)
        as_much = int((means >= float(own.mean()) * change.sign).sum())
        return {
            "random": float(means.mean()) * change.sign, "random_most": float(means.max()) * change.sign, "draws": draws,
            "p": (1 + as_much) / (1 + draws), "beyond": mean, "beyond_low": interval.low,
        }  # fmt: skip

    def _changes(self, after: Odds, which: Sequence[int]) -> Tensor:
        """The change of the word's log-odds of each sample."""
        return after.value[:, self.column] - self.bench.before.value[which, self.column]

    def _matched(self, units: Sequence[Unit]) -> list[Unit]:
        """As many units of the same blocks, drawn at random among the others."""
        found: list[Unit] = []
        for block in sorted({b for b, _ in units}):
            own = {u for b, u in units if b == block}
            rest = [u for u in range(self.found.units) if u not in own] or list(own)
            found += [(block, int(u)) for u in self._draw.choice(rest, min(len(own), len(rest)), replace=False)]
        return found

    def _mean(self, values: Tensor, which: Sequence[int]) -> tuple[float, Interval]:
        """With what leaving out one image (patient) at a time says of it."""
        return mean_of(values, [self.bench.units[k] for k in which])


def dose(total: int, share: float) -> int:
    """How many units a share of all of them is."""
    return max(1, round(share * total))
