"""Where the image is read: what an answer loses when attention is blocked in a window of blocks that slides over the model.

Knockout in a sliding window: Geva et al. 2023, Dissecting Recall of Factual Associations; on image tokens: Basu et al. 2024,
Understanding Information Storage and Transfer in Multi-modal LLMs; Zhang et al. 2025, Cross-modal Information Flow in MLLMs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from medlens.errors import BadInput
from medlens.models.base import Model
from medlens.stats.grouped import mean_of
from medlens.walk.again import Again, Changed, unchanged
from medlens.walk.cases import Case, Prompt, cases
from medlens.walk.knockout import PATHS, Knockout, predicting
from medlens.walk.target import log_odds

CONFIDENCE = 0.95
IMAGES = 60  # so many make intervals narrow enough on the phantom
Tick = Callable[[], None]


class Said(NamedTuple):
    """Of each prompt's answer the log-probability, and log p - log(1 - p): float64, (2, n): on its own image, and on another."""

    log_p: Tensor
    log_odds: Tensor


def width_of(depth: int) -> int:
    """How many blocks a window has if nobody says: an eighth of the model, 2 at least, since a model may read in either of two."""
    return min(depth, max(2, depth // 8))


def windows(depth: int, width: int) -> list[range]:
    """Windows of `width` blocks, one block further each time, clipped at both ends, so that every block lies in `width` of them."""
    return [range(max(0, begin), min(depth, begin + width)) for begin in range(1 - width, depth)]


def one_of_each(prompts: Sequence[Prompt], images: int = IMAGES) -> list[Prompt]:
    """The first prompt of each of the first `images` images: another image tells more than another question on the same one."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        if "image" in prompt.tokens.groups:
            first.setdefault(prompt.image, prompt)
    return list(first.values())[:images]


def flow(
    model: Model, prompts: Sequence[Prompt], scratch: Path, *, width: int | None = None, paths: Iterable[str] = PATHS,
    seed: int = 0, tick: Tick = lambda: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of the table `flow`: for each path and window of blocks, how the answers' log-odds change, mean over the prompts.

    The answer is what a prompt ends with, whole and teacher-forced; of a prompt without one, the model's own next word before
    anything is blocked. `value` is the change. Blocking attention also disturbs a model that makes nothing of what it looks at, so
    the same is done on another image (another patient's), with the same question and answer: `own` is how much more the answer
    loses on its own image. (With the image blocked everywhere the two are alike, and `own` is minus what the image gave.) Each path
    also has a row with all blocks. Intervals leave out one image (patient) at a time; `own_most` is the upper end of the one for
    `own` with Bonferroni's correction for the windows of a path. Before anything is measured the blocked weights of one case are
    looked at, and must be exactly zero.

    Prompts without an image, or with no other image of as many tokens, are left out. scratch: a folder for states. `tick` is called
    once for a path and window. Raises BadInput for a width that is none, fewer than two images, and prompts without the tokens of
    a path.
    """
    width = width_of(model.depth) if width is None else width
    if not 1 <= width <= model.depth:
        raise BadInput(f"a window holds 1 to {model.depth} blocks of this model; got {width}")
    bench, found, sliding = _Bench(model, prompts, seed, scratch), [], windows(model.depth, width)
    for path in paths:
        Knockout(model, (path,), range(model.depth)).verify(bench.again, 0)
        for window in (*sliding, range(model.depth)):
            after = bench.read(window.start, Knockout(model, (path,), window))
            found.append(_row(path, window, bench.before, after, bench.units, len(sliding)))
            tick()
    return found


class _Bench:
    """Prompts, and the same ones on other images, walked once; `read` walks them again. before: with nothing blocked."""

    def __init__(self, model: Model, prompts: Sequence[Prompt], seed: int, scratch: Path) -> None:
        pairs = [(p, other) for p, other in zip(prompts, _others(prompts, seed), strict=True) if other is not None]
        if len({own.image for own, _ in pairs}) < 2:
            raise BadInput("an image's way is told by comparing it with another one of as many tokens: give two or more images")
        self.model, self.pairs = model, pairs
        self.units = [own.unit for own, _ in pairs]
        self.again = Again(model, cases(model, [p for pair in pairs for p in pair]), scratch)
        self.answers = [_given(own) for own, _ in pairs]
        logits = self._logits(model.depth, unchanged)
        self.answers = [given or [int(of[0].argmax())] for given, of in zip(self.answers, logits[::2], strict=True)]
        self.before = self._said(logits)

    def read(self, begin: int, knockout: Knockout) -> Said:
        """From block `begin` on, with attention blocked."""
        return self._said(self._logits(begin, knockout))

    def _said(self, logits: Sequence[Tensor]) -> Said:
        answers = [answer for answer in self.answers for _ in range(2)]
        log_p = torch.stack([log_probability(of, ids) for of, ids in zip(logits, answers, strict=True)]).reshape(-1, 2).T
        return Said(log_p, log_p - (-torch.expm1(log_p)).log())

    def _logits(self, begin: int, changed: Changed) -> list[Tensor]:
        """(places that predict, V) float64 of each prompt, own and other in turn."""
        rows: dict[int, Tensor] = {}

        def finish(case: Case, normed: Tensor) -> None:
            rows.update({id(p): normed[predicting(case, k)] for k, p in enumerate(case.prompts)})

        self.again.walk(finish, begin, changed=changed)
        with torch.no_grad(), self.model.here("head"):
            return [self.model.unembed(rows[id(p)]).double().cpu() for pair in self.pairs for p in pair]


def log_probability(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Of words, each behind a row of logits (at least as many, V) float64. By the log-odds, which have digits left for 1 - p where
    the model is so sure of a word that p is 1."""
    return logsigmoid(torch.stack([log_odds(row, word) for row, word in zip(logits, ids, strict=False)])).sum()


def _given(prompt: Prompt) -> list[int]:
    return [prompt.tokens.ids[p] for p in prompt.tokens.where("answer")]


def _others(prompts: Sequence[Prompt], seed: int) -> list[Prompt | None]:
    """Each prompt on another image, of another patient and with as many tokens; None where there is none.

    Images are dealt in a circle, patient after patient, and each gets the one as far on as the largest patient has images.
    """
    alike: dict[int, dict[str, Prompt]] = defaultdict(dict)
    for prompt in prompts:
        if (tokens := prompt.tokens.groups.count("image")) > 0:
            alike[tokens].setdefault(prompt.image, prompt)
    draw, given = np.random.default_rng(seed), {}
    for tokens, images in alike.items():
        of_unit: dict[str, list[Prompt]] = defaultdict(list)
        for prompt in images.values():
            of_unit[prompt.unit].append(prompt)
        circle = [p for name in draw.permutation(list(of_unit)) for p in of_unit[str(name)]]
        step = max(map(len, of_unit.values()))
        for prompt, other in zip(circle, [*circle[step:], *circle[:step]], strict=True):
            if other.unit != prompt.unit:
                given[tokens, prompt.image] = other
    found = [(p, given.get((p.tokens.groups.count("image"), p.image))) for p in prompts]
    return [None if other is None else replace(p, look=other.look, image=other.image) for p, other in found]


def _row(path: str, window: range, before: Said, after: Said, units: Sequence[str], tested: int) -> dict[str, Any]:
    change = after.log_odds - before.log_odds
    relative = (after.log_p[0] - before.log_p[0]).expm1()
    row: dict[str, Any] = {"path": path, "begin": window.start, "end": window.stop}
    for prefix, values in (("", change[0]), ("relative_", relative), ("own_", change[0] - change[1])):
        mean, interval = mean_of(values, units)
        row |= {f"{prefix}value": float(mean), f"{prefix}low": interval.low, f"{prefix}high": interval.high}
    _, corrected = mean_of(change[0] - change[1], units, 1 - (1 - CONFIDENCE) / tested)
    row |= {"own_most": corrected.high, "n": len(units), "images": len(set(units)), "note": interval.note}
    return row
