"""Heads: which of them carry the image to the answer. Activation patching one by one, and the best together beside random ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medlens import hooks
from medlens._neurons.concepts import Concept
from medlens._neurons.effects import FEW, NO_DONOR
from medlens._neurons.find import predicting
from medlens._neurons.prove import Bench
from medlens.models.base import Model
from medlens.stats.grouped import mean_of, ratio_of, share_of
from medlens.walk.cases import Case, Prompt, cases
from medlens.walk.forward import walk
from medlens.walk.heads import Head, heads_of

TOP = 0.1  # of all heads: patched together
PAIRS = 32  # of samples at most, by which a head is patched
CHUNK = 64  # samples whose attention is read together
CHEAP = 256  # heads: up to so many are looked at where nobody says whether they should be

Tick = Callable[[], None]


def image_shares(model: Model, prompts: Sequence[Prompt], tick: Tick) -> Tensor:
    """Of each prompt, block and head, (n, blocks, heads, 2): how much of its attention goes to image tokens, from the token that
    predicts, and on average from the question's tokens behind the image (NaN where there are none)."""
    found = []
    for begin in range(0, len(prompts), CHUNK):
        laid = [cases(model, [prompt])[0] for prompt in prompts[begin : begin + CHUNK]]
        with hooks.attention(model.module, "eager"):
            found.append(_read(model, laid, tick))
    return torch.cat(found)


def _read(model: Model, laid: Sequence[Case], tick: Tick) -> Tensor:
    with ExitStack() as stack:
        noted = [stack.enter_context(hooks.attentions_of(block, _to_image(laid))) for block in model.blocks]
        walk(model, laid, [], tick)
    return torch.stack([torch.stack(list(of)) for of in noted], 1)


def _to_image(laid: Sequence[Case]) -> Callable[[Tensor], Tensor]:
    """Keeps (heads, 2) of a block's attention weights; a block is called with the cases in their order."""
    order = iter(laid)

    def keep(weights: Tensor) -> Tensor:
        case = next(order)
        image = [i for i, group in enumerate(case.groups) if group == "image"]
        text = [i for i, group in enumerate(case.groups) if group == "text" and i > image[-1]]
        share = weights[0][:, :, image].double().sum(-1)
        return torch.stack([share[:, predicting(case, 0)], share[:, text].mean(1)], 1).cpu()

    return keep


class Heads:
    """Of all words. A pair is a sample of which the word is true (clean), and a donor: an image of which it is false under the same
    question (corrupted). A head is patched either way: into the corrupted run from the clean one, which restores the log-odds, and
    into the clean run from the corrupted one, which takes them."""

    def __init__(self, model: Model, discovery: Bench, test: Bench, draws: int, seed: int, tick: Tick) -> None:
        self.model, self.discovery, self.test, self.draws = model, discovery, test, draws
        self.every = [(b, h) for b in range(model.depth) for h in range(heads_of(model, b))]
        self.shares = image_shares(model, test.prompts, tick)
        self._draw = np.random.default_rng(seed)

    def of(self, concept: Concept) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows as the tables `heads` and `effects` say: chosen on discovery images, judged on test images."""
        chosen_by, judged_by = (_Pairs(bench, concept) for bench in (self.discovery, self.test))
        true = self.test.which(concept, True)
        looked = [self._share(concept, head, true) for head in self.every]
        if not chosen_by.clean or not judged_by.clean:
            return [row | {"note": NO_DONOR} for row in looked], []
        first = {head: float(chosen_by.restored([head]).mean()) for head in self.every}
        ranked = sorted(self.every, key=lambda head: -first[head])
        top = self._top(ranked)
        rows = [
            row | {"rank": ranked.index(head) + 1, "top": head in top, "discovery": first[head]} | judged_by.row(head)
            for head, row in zip(self.every, looked, strict=True)
        ]
        return rows, self._together(top, judged_by)

    def cost(self, concept: Concept) -> int:
        """How often `of` ticks, at most."""
        return 3 * len(self.every) + self.draws + FEW + 2

    def _share(self, concept: Concept, head: Head, true: Sequence[int]) -> dict[str, Any]:
        block, number = head
        groups, row = [self.test.units[k] for k in true], {"concept": concept.word, "layer": block, "head": number, "note": ""}
        for k, name in enumerate(("share", "text_share")):
            mean, interval = share_of(self.shares[list(true), block, number, k], groups)
            row |= {name: mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return row

    def _top(self, ranked: Sequence[Head]) -> list[Head]:
        """The best, but never more than half of a block's, so that as many others of the block are left to compare with."""
        found: list[Head] = []
        for block, head in ranked:
            if len(found) == max(1, round(TOP * len(ranked))):
                break
            if 2 * (1 + sum(b == block for b, _ in found)) <= heads_of(self.model, block):
                found.append((block, head))
        return found

    def _together(self, top: Sequence[Head], pairs: _Pairs) -> list[dict[str, Any]]:
        if not top:
            return []
        return [
            self._beside(top, pairs, "put in", pairs.restored, 1, self.draws),
            self._beside(top, pairs, "resample", pairs.taken, -1, FEW),
        ]

    def _beside(
        self, top: Sequence[Head], pairs: _Pairs, change: str, run: Callable[[Sequence[Head]], Tensor], sign: int, draws: int
    ) -> dict[str, Any]:  # fmt: skip
        """The best together, and as many other heads of the same blocks: every choice of them, or so many drawn."""
        own = run(top)
        others = [run(other) for other in self._others(top, draws)]
        means = [float(one.mean()) * sign for one in others]
        most = int(np.argmax(means))
        value, interval = mean_of(own, pairs.groups)
        beyond, at_least = mean_of((own - others[most]) * sign, pairs.groups)
        as_much = sum(m >= value * sign for m in means)
        before = pairs.corrupted if sign > 0 else pairs.intact
        return {
            "concept": pairs.concept.word, "of": "heads", "units": len(top), "change": change, "word": pairs.concept.word,
            "true": sign < 0, "before": float(before.mean()), "value": value, "low": interval.low, "high": interval.high,
            "images": len(set(pairs.groups)), "random": float(np.mean(means)) * sign, "random_most": means[most] * sign,
            "draws": len(others), "p": (1 + as_much) / (1 + len(others)), "beyond": beyond, "beyond_low": at_least.low, "note": "",
        }  # fmt: skip

    def _others(self, top: Sequence[Head], draws: int) -> Iterator[list[Head]]:
        rest, own = {}, {b: sum(block == b for block, _ in top) for b in sorted({b for b, _ in top})}
        for block in own:
            rest[block] = [head for head in self.every if head[0] == block and head not in top]
        if math.prod(math.comb(len(rest[b]), n) for b, n in own.items()) <= draws:
            for parts in itertools.product(*(itertools.combinations(rest[b], n) for b, n in own.items())):
                yield [head for part in parts for head in part]
            return
        for _ in range(draws):
            drawn = {b: self._draw.choice(len(rest[b]), n, replace=False) for b, n in own.items()}
            yield [rest[b][int(k)] for b, ks in drawn.items() for k in ks]


class _Pairs:
    """A word's samples with their donors, of one half: log-odds of clean and corrupted runs, (n) each, and what patching does."""

    def __init__(self, bench: Bench, concept: Concept) -> None:
        self.bench, self.concept = bench, concept
        self._column = [c.word for c in bench.concepts].index(concept.word)
        self.clean = [k for k in bench.which(concept, True) if (concept.word, k) in bench.donors][:PAIRS]
        self.donors = [bench.donors[concept.word, k] for k in self.clean]
        self.groups = [bench.units[k] for k in self.clean]
        if self.clean:
            self.intact = bench.before.value[self.clean, self._column]
            self.corrupted = bench.unchanged(self.donors).value[:, self._column]

    def restored(self, heads: Sequence[Head]) -> Tensor:
        """By how much the log-odds rise in the corrupted runs, with these heads from the clean ones."""
        return self.bench.patched(heads, self.donors, self.clean).value[:, self._column] - self.corrupted

    def taken(self, heads: Sequence[Head]) -> Tensor:
        """How the log-odds of the clean runs change, with these heads from the corrupted ones."""
        return self.bench.patched(heads, self.clean, self.donors).value[:, self._column] - self.intact

    def row(self, head: Head) -> dict[str, Any]:
        gap = self.intact - self.corrupted
        known = (mean_of(gap, self.groups)[1].low or 0) > 0
        row: dict[str, Any] = {"gap": float(gap.mean()), "images": len(set(self.groups))}
        for name, change in (("patch_in", self.restored([head])), ("patch_out", self.taken([head]))):
            value, interval = mean_of(change, self.groups)
            row |= {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            row[f"{name}_share"] = ratio_of(change, gap, self.groups)[0] if known else None
        return row
