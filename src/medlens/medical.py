"""Medical words, and which pieces of a tokenizer are such.

The rule, in full: a piece that begins a word counts as medical where, without its mark for a space, in small letters, it is a word
of one of the lists (`wordlists/*.txt`, singular or plural), or begins with one of their stems; what a list writes in capitals counts
in capitals only. A piece that only goes on with a word ("ion" of "les", "ion") is never one, nor is a beginning that other words share
("les"): what is not sure is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

KINDS = {"anatomy": "anatomy", "finding": "findings", "modality": "modalities", "laterality": "laterality"}  # and their files
MARKS = "▁Ġ"  # what tokenizers write for a space before a word
PLURALS = (("ies", "y"), ("es", ""), ("s", ""))


def kind_of(word: str) -> frozenset[str]:
    """The kinds ("anatomy", "finding", "modality", "laterality") of a word or of a piece that begins one; empty for all others.

    A word may be of several ("lateral" is a view and a side), and many have an everyday meaning too ("left", "mass").
    """
    return _kinds(word.lstrip(MARKS))


class Medical:
    """The same of a tokenizer's pieces. pieces: its vocabulary: where some of it carry a mark for a space, a piece without one only
    goes on with a word."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.marked = any(piece.startswith(tuple(MARKS)) for piece in pieces)
        self.words = len(pieces)
        kinds = [self.kinds(piece) for piece in pieces]
        self.shares = {kind: sum(kind in found for found in kinds) / max(1, len(kinds)) for kind in KINDS}
        self.share = sum(map(bool, kinds)) / max(1, len(kinds))

    def kinds(self, piece: str) -> frozenset[str]:
        return kind_of(piece) if not self.marked or piece.startswith(tuple(MARKS)) else frozenset()


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
