"""Answers when image tokens or MLP units go, by a rule and in random order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from medlens.errors import BadInput
from medlens.models.base import Model
from medlens.scoring import normalised
from medlens.stats.intervals import clustered, jackknife
from medlens.stats.rows import priority
from medlens.types import Value
from medlens.walk.cases import Prompt, cases, folds_of
from medlens.walk.generate import answer_together
from medlens.walk.intervene import Unit, units_scaled
from medlens.walk.silent import quietest, written_at_most
from medlens.walk.thinning import image_tokens_dropped, image_tokens_merged

WHAT = {"dropped": "attention", "merged": "attention", "units": "written"}  # and the rule by which it goes

Going = Callable[[float, str, int], AbstractContextManager[Any]]  # a share, a rule and a seed to a model without it


def going_without(
    model: Model, prompts: Sequence[Prompt], what: Sequence[str], shares: Sequence[float], after: int, draws: int,
    max_new_tokens: int, seed: int, tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of the table `thinned`; see `medlens.thin`. `tick` is called `steps` times: once for each set of answers."""
    discovery, test = _halves(model, prompts)
    judge = _Judge(model, test, max_new_tokens, tick)
    going: dict[str, Going] = {
        "dropped": lambda share, by, draw: image_tokens_dropped(model, after, share, by, draw),  # pyright: ignore[reportArgumentType]
        "merged": lambda share, by, draw: image_tokens_merged(model, after, share, by, draw),  # pyright: ignore[reportArgumentType]
    }
    if "units" in what:
        going["units"] = _units(model, discovery)
    rows = []
    for one in what:
        for share in shares:
            random = judge.judged(going[one], share, "random", [seed + k for k in range(draws)])
            ruled = judge.judged(going[one], share, WHAT[one], [seed])
            placed = {"what": one, "after": None if one == "units" else after, "share": float(share)}
            rows += [{**placed, **judge.row(WHAT[one], ruled, random)}, {**placed, **judge.row("random", random, None)}]
    return rows


def steps(what: Sequence[str], shares: Sequence[float], draws: int) -> int:
    """How many sets of answers are written."""
    return 1 + len(what) * len(shares) * (1 + draws)


def _halves(model: Model, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    fold = folds_of(cases(model, prompts), 2)
    discovery, test = ([p for p in prompts if fold[p.image] == half] for half in (0, 1))
    units = [len({p.unit for p in half}) for half in (discovery, test)]
    if min(units) < 2:
        raise BadInput(f"answers are judged on other images than units, so at least four images are needed; got {sum(units)}")
    return discovery, test


def _units(model: Model, discovery: Sequence[Prompt]) -> Going:
    """Units by what they write on discovery images, or at random, as many of each block as the rule takes."""
    order = quietest(written_at_most(model, cases(model, discovery)))

    def zeroed(share: float, by: str, seed: int) -> AbstractContextManager[None]:
        chosen = order[: round(share * len(order))]
        return units_scaled(model, chosen if by != "random" else _alike(order, chosen, seed), 0)

    return zeroed


def _alike(units: Sequence[Unit], chosen: Sequence[Unit], seed: int) -> list[Unit]:
    """Of each block as many units as are chosen of it, at random."""
    shuffled = sorted(units, key=lambda unit: priority(seed, f"{unit[0]}.{unit[1]}"))
    blocks = [block for block, _ in chosen]
    return [unit for b in set(blocks) for unit in [u for u in shuffled if u[0] == b][: blocks.count(b)]]


class _Judge:
    """The test questions, what the whole model answers, and what a thinned one does."""

    def __init__(self, model: Model, prompts: Sequence[Prompt], max_new_tokens: int, tick: Callable[[], None]) -> None:
        self.model, self.prompts, self.most, self.tick = model, prompts, max_new_tokens, tick
        self.images = [prompt.unit for prompt in prompts]
        self.truths = [None if p.sample.answer is None else normalised(p.sample.answer) for p in prompts]
        self.before = self._answers()

    def _answers(self) -> list[list[str]]:
        said = [normalised(answer) for answer in answer_together(self.model, self.prompts, self.most)]
        self.tick()
        return said

    def judged(self, going: Going, share: float, by: str, seeds: Sequence[int]) -> list[list[list[str]]]:
        """The answers, for each seed."""
        found = []
        for seed in seeds:
            with going(share, by, seed):
                found.append(self._answers())
        return found

    def row(self, by: str, said: list[list[list[str]]], random: list[list[list[str]]] | None) -> dict[str, Any]:
        kept, low, high = clustered(self._same(said, self.before), self.images)
        each = [sum(self._same([draw], self.before)) / len(self.prompts) for draw in said]
        known = [k for k, truth in enumerate(self.truths) if truth is not None]
        right = self._same(said, self.truths)
        correct = clustered([right[k] for k in known], [self.images[k] for k in known]) if known else (None, None, None)
        over = (None, None, None, "")
        if random is not None:
            over = self._difference(self._same(said, self.before), self._same(random, self.before))
        return {
            "by": by, "kept": kept, "low": low, "high": high, "worst": min(each), "best": max(each),
            **dict(zip(("over_random", "over_low", "over_high", "note"), over, strict=True)),
            **dict(zip(("correct", "correct_low", "correct_high"), correct, strict=True)),
            "n": len(self.prompts), "images": len(set(self.images)), "draws": len(said),
        }  # fmt: skip

    def _same(self, said: list[list[list[str]]], as_these: Sequence[list[str] | None]) -> list[float]:
        """Of each question the share of draws in which its answer is this one."""
        return [sum(draw[k] == one for draw in said) / len(said) for k, one in enumerate(as_these)]

    def _difference(self, ours: list[float], theirs: list[float]) -> tuple[float, float | None, float | None, str]:
        """The mean difference, with its interval by leaving out one image at a time."""
        of = [a - b for a, b in zip(ours, theirs, strict=True)]
        without = [[x for x, i in zip(of, self.images, strict=True) if i != image] for image in sorted(set(self.images))]
        mean = sum(of) / len(of)
        if not any(of):
            return mean, None, None, "no interval: the same answers stay as in random order"
        low, high, note = jackknife(Value(mean), [Value(sum(rest) / len(rest)) for rest in without])
        return mean, low, high, note
