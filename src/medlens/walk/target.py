"""Targets: of what a gradient is taken. The log-probability of words, teacher-forced, or the difference of two such.

A log-probability and not a bare logit: a logit also rises with what lifts all words alike, and explains that as well. (`EveryLogit`
is nothing else than that: it is here because it was published.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.models.base import Model
from medlens.walk.cases import Case


class Word(NamedTuple):
    """Token `id` as what comes behind position `after` of a prompt: row `after` of the logits predicts it."""

    after: int
    id: int


@dataclass(frozen=True)
class Target:
    """y = sum of log p(word) over `said`, minus the same over `against`; natural logarithm.

    branch: which prompt of its case, from 0 on. Positions are the prompt's own, wherever its pack puts them; each word is predicted
    from what the prompt says up to it, whether it is the word that follows there or not.
    """

    said: tuple[Word, ...]
    against: tuple[Word, ...] = ()
    branch: int = 0

    @property
    def words(self) -> tuple[Word, ...]:
        return (*self.said, *self.against)

    @property
    def behind(self) -> list[int]:
        """The positions whose logits it is made of."""
        return [word.after for word in self.words]

    def of(self, logits: Tensor) -> Tensor:
        """Its value, from the logits (words, V) behind these positions. log_softmax is in float64: of a word the model is sure of,
        1 - p is what the gradient is made of, and float32 has no digits left for it (they are few rows)."""
        log_p = logits.double().log_softmax(-1)[range(len(self.words)), [word.id for word in self.words]]
        signs = [1.0] * len(self.said) + [-1.0] * len(self.against)
        return (log_p * torch.tensor(signs, device=log_p.device, dtype=log_p.dtype)).sum()


@dataclass(frozen=True)
class EveryLogit:
    """y = the sum of all logits behind position `after` of a prompt: what the published study took the gradient of.

    It is no target: no word is meant by it, and it rises with what lifts all words alike, which changes no answer.
    """

    after: int
    branch: int = 0

    @property
    def words(self) -> tuple[Word, ...]:
        return ()

    @property
    def behind(self) -> list[int]:
        return [self.after]

    def of(self, logits: Tensor) -> Tensor:
        return logits.sum()


@dataclass(frozen=True)
class LogOdds:
    """y = log p - log(1 - p) of one word: its logit less the log-sum-exp of all others.

    Unlike a log-probability its gradient does not fade where the model is sure of the word, so that images weigh alike.
    """

    word: Word
    branch: int = 0

    @property
    def words(self) -> tuple[Word, ...]:
        return (self.word,)

    @property
    def behind(self) -> list[int]:
        return [self.word.after]

    def of(self, logits: Tensor) -> Tensor:
        """From the logits (1, V) behind its position, in float64."""
        return log_odds(logits[0].double(), self.word.id)


def log_odds(logits: Tensor, word: int) -> Tensor:
    """log p - log(1 - p) of a word, from logits (..., V): (...)."""
    others = torch.cat([logits[..., :word], logits[..., word + 1 :]], -1)
    return logits[..., word] - others.logsumexp(-1)


Aim = Target | EveryLogit | LogOdds


def next_word(case: Case, token: int, against: int | None = None, branch: int = 0) -> Target:
    """The log-probability of a token as the first of the answer to a question (minus that of another one)."""
    tokens = case.prompts[branch].tokens
    last = min(tokens.where("answer"), default=len(tokens)) - 1
    return Target((Word(last, token),), () if against is None else (Word(last, against),), branch)


def whole_answer(case: Case, branch: int = 0) -> Target:
    """The log-probability of the answer that a prompt ends with: the sum over its tokens. Raises BadInput if there is none."""
    prompt = case.prompts[branch]
    said = tuple(Word(p - 1, prompt.tokens.ids[p]) for p in prompt.tokens.where("answer"))
    if not said:
        raise BadInput(f"sample {prompt.sample.id or '?'} has no answer whose probability could be explained")
    return Target(said, (), branch)


def check_targets(model: Model, walkers: Sequence[Case], targets: Sequence[Sequence[Aim]]) -> None:
    """Raise BadInput, naming the sample, for a target that is none: no words, or a branch, position or token that is not there."""
    if len(targets) != len(walkers):
        raise BadInput(f"{len(walkers)} cases, but {len(targets)} lists of targets: one list a case, an empty one for none")
    vocabulary = len(model.head.weight)  # pyright: ignore[reportArgumentType]
    for case, aims in zip(walkers, targets, strict=True):
        for target in aims:
            if not 0 <= target.branch < len(case.prompts):
                raise BadInput(f"a target in branch {target.branch} of a case with {len(case.prompts)}")
            prompt = case.prompts[target.branch]
            _check_words(target, prompt.sample.id or "?", len(prompt.tokens), vocabulary)


def _check_words(target: Aim, sample: str, tokens: int, vocabulary: int) -> None:
    if isinstance(target, Target) and not target.said:
        raise BadInput(f"sample {sample}: a target without words")
    for after in target.behind:
        if not 0 <= after < tokens:
            raise BadInput(f"sample {sample}: a target behind position {after} of {tokens}")
    for word in target.words:
        if not 0 <= word.id < vocabulary:
            raise BadInput(f"sample {sample}: a target of token {word.id}; the head predicts 0 to {vocabulary - 1}")


def cotangent(model: Model, case: Case, target: Aim, raw: Tensor) -> tuple[float, Tensor]:
    """A target's value, and its gradient with respect to state L, raw, (T, d): through the final norm and the head, at the rows
    that it is made of and no others."""
    at = case.pack.rows(target.branch)
    places = [at[position] for position in target.behind]
    rows = raw[places].requires_grad_()
    with torch.enable_grad():
        value = target.of(model.unembed(model.norm(rows[None])[0]))
    (gradient,) = torch.autograd.grad(value, rows)
    return float(value), torch.zeros_like(raw).index_add_(0, torch.tensor(places, device=raw.device), gradient)
