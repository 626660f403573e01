"""The logit lens (nostalgebraist 2020): what a hidden state would say if the model ended there, read a block of the vocabulary at
a time, so that neither tokens x vocabulary nor the whole head need be in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Logits = Callable[[Tensor], Iterator[tuple[int, Tensor]]]  # (T, d) to (first id, (T, words of the block)), block after block
ROWS = 512  # tokens at a time


class Words(NamedTuple):
    """Of T tokens. ids (T, k): the likeliest words, likeliest first; log_p (T, k): natural logarithms of their probabilities;
    entropy (T): of the whole distribution, in nats."""

    ids: Tensor
    log_p: Tensor
    entropy: Tensor


class Said(NamedTuple):
    """Of T tokens, float64, (T). kl: KL(final || lens) in nats, what is lost by stopping here (Belrose et al. 2023, Eliciting
    Latent Predictions); rank: of the word that was to be said, 1 = likeliest (ties count for it); log_p: of its probability;
    log_odds: log p - log(1 - p)."""

    kl: Tensor
    rank: Tensor
    log_p: Tensor
    log_odds: Tensor


def likeliest(normed: Tensor, logits: Logits, k: int = 5) -> Words:
    """The words of rows (T, d) behind the final norm. k: at most so many as there are words. Raises ValueError for no rows."""
    if not len(normed):
        raise ValueError("no rows to read")
    found = [_likeliest(rows, logits, k) for rows in normed.split(ROWS)]
    return Words(*(torch.cat(part) for part in zip(*found, strict=True)))


def _likeliest(normed: Tensor, logits: Logits, k: int) -> Words:
    top = ids = None
    total = _Total(len(normed), normed.device)
    for begin, block in logits(normed):
        total.add(block, block)
        new = torch.arange(begin, begin + block.shape[1], device=block.device).expand_as(block)
        top = block if top is None else torch.cat([top, block], 1)
        ids = new if ids is None else torch.cat([ids, new], 1)
        top, best = top.topk(min(k, top.shape[1]), dim=1)
        ids = ids.gather(1, best)
    assert top is not None
    assert ids is not None
    return Words(ids, top.double() - total.log_sum[:, None], total.log_sum - total.mean)


def said(normed: Tensor, final: Tensor, words: Tensor, logits: Logits, last: Logits | None = None) -> Said:
    """How far rows (T, d) are from what the model says in the end. final (T, d): the same tokens' last state. Both behind the
    final norm. words (T): the id of the word that each token was to say. last: the logits of `final` where they are not `logits`
    (a tuned lens reads the one, and the head the other).
    """
    found = [
        _said(*rows, logits, last or logits) for rows in zip(normed.split(ROWS), final.split(ROWS), words.split(ROWS), strict=True)
    ]
    return Said(*(torch.cat(part) for part in zip(*found, strict=True)))


def _said(normed: Tensor, final: Tensor, words: Tensor, logits: Logits, last: Logits) -> Said:
    # The word's own logit is needed before others can be compared with it: one more pass over its block alone would save little.
    own = _of_words(normed, words, logits)
    here, there, others = (_Total(len(normed), normed.device) for _ in range(3))
    above = torch.zeros(len(normed), dtype=torch.int64, device=normed.device)
    for (begin, block), (_, ended) in zip(logits(normed), last(final), strict=True):
        here.add(block, block)
        there.add(ended, ended.double() - block.double())
        above += (block > own[:, None]).sum(1)
        inside = (words >= begin) & (words < begin + block.shape[1])
        rest = block.double()
        rest[inside, words[inside] - begin] = -torch.inf
        others.add(rest, rest.nan_to_num(neginf=0.0))
    kl = there.mean - there.log_sum + here.log_sum
    return Said(kl.clamp(min=0), above + 1.0, own.double() - here.log_sum, own.double() - others.log_sum)


def _of_words(normed: Tensor, words: Tensor, logits: Logits) -> Tensor:
    own = torch.full((len(normed),), torch.nan, dtype=normed.dtype, device=normed.device)
    for begin, block in logits(normed):
        inside = (words >= begin) & (words < begin + block.shape[1])
        own[inside] = block[inside, words[inside] - begin]
    if own.isnan().any():
        raise ValueError(f"words {words[own.isnan()].tolist()[:3]} are not in the vocabulary")
    return own


class _Total:
    """Sums over blocks: log of the sum of exp(logits), and the mean of `of` under their softmax (T), in float64."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.most = torch.full((rows,), -torch.inf, dtype=torch.float64, device=device)
        self._sum, self._of = torch.zeros_like(self.most), torch.zeros_like(self.most)

    def add(self, logits: Tensor, of: Tensor) -> None:
        logits, of = logits.double(), of.double()
        most = torch.maximum(self.most, logits.amax(1))
        shrink = torch.exp(torch.where(self.most == most, 0.0, self.most - most))
        exps = torch.exp(logits - torch.where(most.isinf(), 0.0, most)[:, None])
        self._sum = self._sum * shrink + exps.sum(1)
        self._of = self._of * shrink + (exps * of).sum(1)
        self.most = most

    @property
    def log_sum(self) -> Tensor:
        return self._sum.log() + torch.where(self.most.isinf(), 0.0, self.most)

    @property
    def mean(self) -> Tensor:
        return self._of / self._sum
