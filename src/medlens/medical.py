"""Medical words, and which pieces of a tokenizer are such.

The rule, in full: a piece that begins a word counts as medical where, without its mark for a space and in small letters, it is a
word of one of the lists (`wordlists/*.txt`; singular or plural), or begins with one of their stems; what a list writes in capitals
counts in capitals only. A piece that only goes on with a word ("ion" of "les", "ion") is never one, nor is a beginning that
other words share ("les"): what is not sure is not counted. So a share of medical words is too low rather than too high; its null,
the share in the vocabulary, is counted by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

KINDS = {  # and their files
    "anatomy": "anatomy",
    "finding": "findings",
    "modality": "modalities",
    "laterality": "laterality",
    "clinical": "clinical",
}
COUNTED = ("medical", *KINDS)  # of any kind, and of each
MEASURES = (*(f"{kind}_words" for kind in COUNTED), "medical_weight")
MARKS = ("▁", "Ġ")  # what tokenizers write for a space before a word
PLURALS = (("ies", "y"), ("es", ""), ("s", ""))


def kind_of(word: str) -> frozenset[str]:
    """The kinds (see `KINDS`) of a word, or of a piece that begins one; none for all others.

    A word may be of several ("lateral" is a view and a side), and some have an everyday meaning too ("left", "mass").
    """
    return _kinds(word[1:] if word.startswith(MARKS) else word)


class Vocabulary(NamedTuple):
    """A tokenizer's. words: how many it has; marked: some begin with a mark for a space, so that one without it only goes on with
    a word; shares: of medical words among them, of any kind ("medical") and of each."""

    words: int
    marked: bool
    shares: dict[str, float]

    def kinds(self, word: str) -> frozenset[str]:
        """Those of one of its words, as the tokenizer writes it."""
        return kind_of(word) if not self.marked or word.startswith(MARKS) else frozenset()

    def scores(self, words: Sequence[str], p: Sequence[float]) -> dict[str, float]:
        """Of one token, by measure: whether its likeliest word is medical, and of each kind; "medical_weight": the share that
        medical words have of the probability of all `words`. p: the words' probabilities, likeliest first."""
        first = self.kinds(words[0])
        weight = sum(share for word, share in zip(words, p, strict=True) if self.kinds(word))
        found = {f"{kind}_words": float(kind in first) for kind in KINDS}
        return {"medical_words": float(bool(first)), **found, "medical_weight": weight / sum(p)}


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Of a tokenizer as transformers has them."""
    words = [str(word) for word in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    marked = any(word.startswith(MARKS) for word in words)
    kinds = [Vocabulary(0, marked, {}).kinds(word) for word in words]
    shares = {"medical": sum(map(bool, kinds)), **{kind: sum(kind in found for found in kinds) for kind in KINDS}}
    return Vocabulary(len(words), marked, {kind: count / len(words) for kind, count in shares.items()})


@cache
def _kinds(word: str) -> frozenset[str]:
    small = word.casefold()
    singular = {small[: -len(end)] + rest for end, rest in PLURALS if small.endswith(end) and len(small) > len(end) + 2}
    return frozenset(kind for kind in KINDS if {word, small, *singular} & _words(kind) or small.startswith(_stems(kind)))


@cache
def _words(kind: str) -> frozenset[str]:
    return frozenset(line for line in _lines(kind) if not line.endswith("-"))


@cache
def _stems(kind: str) -> tuple[str, ...]:
    return tuple(line.removesuffix("-") for line in _lines(kind) if line.endswith("-"))


@cache
def _lines(kind: str) -> list[str]:
    text = (files("medlens") / "wordlists" / f"{KINDS[kind]}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
