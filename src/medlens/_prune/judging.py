"""What a model says without some of its blocks, held against what the whole model says: one walk for every choice of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medlens._gate import ids_of, of_answer, told
from medlens._swaps import Swap, swaps
from medlens.models.base import Model
from medlens.models.prompt import read
from medlens.scoring import right
from medlens.types import Answer
from medlens.walk.again import Again
from medlens.walk.cases import Case, Prompt, cases
from medlens.walk.forward import Tick
from medlens.walk.surgery import LinearMap, skipped

Kind = Literal["own", "truth", "other"]


class _Asked(NamedTuple):
    """One question (its number) as it walks: with the whole model's answer behind it on its own image or on another one, or with
    the true answer. ids: the answer's tokens."""

    number: int
    kind: Kind
    prompt: Prompt
    ids: tuple[int, ...]


class Said(NamedTuple):
    """Of every question, (n,) each. kept: the answer is the whole model's. right: it is right, as far as that can be told without
    writing it (see `Bench`). log_odds: of the whole model's answer; kl: from the whole model's next words to these, in nats, mean
    over the answer. follows: 1 where another image changes the answer, NaN where none could be shown."""

    kept: Tensor
    right: Tensor
    log_odds: Tensor
    kl: Tensor
    follows: Tensor


class Bench:
    """Questions with the whole model's answers, walked once with every state kept; then again from the first changed block on.

    Nothing is generated: an answer is kept when each of its words is the likeliest behind those before it, and that is what greedy
    generation would have said. An answer is right when it is kept and was right, or when each word of the true one is the
    likeliest; a free answer that is right in other words than either is counted as wrong. others: each question also waits on
    another image, of another patient (image) and with another answer: whether an answer changes with it is told by the first word
    at which one of the two parts from the whole model's answer.
    """

    def __init__(
        self, model: Model, prompts: Sequence[Prompt], said: Sequence[Answer], scratch: Path, seed: int, *, others: bool,
        tick: Tick = lambda: None,
    ) -> None:  # fmt: skip
        self.model, self.prompts, self.units = model, list(prompts), [prompt.unit for prompt in prompts]
        self.was_right = [
            p.sample.answer is not None and right(a, p.sample.answer) == 1 for p, a in zip(prompts, said, strict=True)
        ]
        asked = self._asked(said, seed, others)
        self.laid = cases(model, [one.prompt for one in asked])
        at = {id(one.prompt): one for one in asked}
        self._asked_of = [[at[id(prompt)] for prompt in case.prompts] for case in self.laid]
        self._places = [
            [row for k, one in enumerate(of) for row in case.pack.rows(k)[-len(one.ids) :]]
            for case, of in zip(self.laid, self._asked_of, strict=True)
        ]
        self.again = Again(model, self.laid, scratch, tick)
        self._before = self._states(model.depth)
        self.whole = self._said(self._before)

    def _asked(self, said: Sequence[Answer], seed: int, others: bool) -> list[_Asked]:
        model, found = self.model, list[_Asked]()
        swapped = swaps(model, self.prompts, said, seed) if others else [[] for _ in self.prompts]
        for k, (prompt, answer, donors) in enumerate(zip(self.prompts, said, swapped, strict=True)):
            ids, own = ids_of(model, prompt, answer), Swap("own", 0, prompt.image, prompt.look)
            found.append(_Asked(k, "own", told(model, prompt, own, ids), ids))
            if prompt.sample.answer is not None and not self.was_right[k]:
                tokens = read(model, prompt.sample, prompt.look, prompt.sample.answer)
                true = tuple(tokens.ids[i] for i in tokens.where("answer"))
                if true:
                    found.append(_Asked(k, "truth", told(model, prompt, own, true), true))
            if donor := next((swap for swap in donors if swap.kind == "other"), None):
                found.append(_Asked(k, "other", told(model, prompt, donor, ids), ids))
        return found

    def judge(self, blocks: Sequence[int], maps: Sequence[LinearMap] | None = None) -> Said:
        """Without these blocks; with maps, these stand in for them."""
        with skipped(self.model, blocks, maps):
            return self._said(self._states(min(blocks)))

    def _states(self, begin: int) -> list[Tensor]:
        """Of each case, the rows (n, d) behind the final norm that predict the answers."""
        numbers, kept = {id(case): k for k, case in enumerate(self.laid)}, dict[int, Tensor]()

        def finish(case: Case, normed: Tensor) -> None:
            kept[numbers[id(case)]] = normed[self._places[numbers[id(case)]]].cpu()

        self.again.walk(finish, begin)
        return [kept[k] for k in range(len(self.laid))]

    @torch.no_grad()
    def _said(self, states: Sequence[Tensor]) -> Said:
        reading = _Reading(self.was_right)
        with self.model.here("head"):
            for asked, before, after in zip(self._asked_of, self._before, states, strict=True):
                lengths = [len(one.ids) for one in asked]
                for one, was, now in zip(asked, before.split(lengths), after.split(lengths), strict=True):
                    reading.add(one, self._logits(was), self._logits(now))
        return reading.said()

    def _logits(self, states: Tensor) -> Tensor:
        return self.model.unembed(states.to(self.model.device)).double().cpu()


class _Reading:
    """Gathers what becomes of each question."""

    def __init__(self, was_right: Sequence[bool]) -> None:
        self.was_right, n = torch.tensor(was_right), len(was_right)
        self.kept, self.true = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
        self.log_odds, self.kl, self.follows = (torch.full((n,), math.nan, dtype=torch.float64) for _ in range(3))
        self._own: dict[int, list[int]] = {}
        self._other: dict[int, list[int]] = {}
        self._ids: dict[int, tuple[int, ...]] = {}

    def add(self, one: _Asked, before: Tensor, after: Tensor) -> None:
        """The logits (answer, V) of the whole model and of the one without some blocks."""
        k, likeliest = one.number, after.argmax(-1).tolist()
        if one.kind == "own":
            self.kept[k] = tuple(likeliest) == tuple(before.argmax(-1).tolist())
            self.log_odds[k] = of_answer(after, one.ids)
            p, q = before.log_softmax(-1), after.log_softmax(-1)
            self.kl[k] = (p.exp() * (p - q)).sum(-1).mean()
            self._own[k], self._ids[k] = likeliest, one.ids
        elif one.kind == "truth":
            self.true[k] = tuple(likeliest) == one.ids
        else:
            self._other[k] = likeliest

    def said(self) -> Said:
        for k, other in self._other.items():
            self.follows[k] = float(differ(self._own[k], other, self._ids[k]))
        return Said(self.kept, (self.kept & self.was_right) | self.true, self.log_odds, self.kl, self.follows)


def differ(one: Sequence[int], other: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether two answers, each by its likeliest words behind those of `ids`, are told apart by the first word at which either is
    not that of `ids`: beyond it, what is fed is not what would have been said."""
    first = next((k for k, i in enumerate(ids) if (one[k], other[k]) != (i, i)), None)
    return first is not None and one[first] != other[first]
