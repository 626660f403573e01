"""The words that units write, counted: by image and over images, with an interval and two nulls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from medlens.measures.units import NONE, varies
from medlens.stats.intervals import jackknife
from medlens.types import Value

LISTED = 10  # words
MARKS = ("▁", "Ġ")  # how tokenizers write the space in front of a word


class Vocabulary:
    """The texts of ids. Those that carry the space mark are counted, and no others; where a tokenizer has no such mark, all are."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        marked = {mark: {text for text in texts if mark in text} for mark in MARKS}
        self.counted: set[str] = max(marked.values(), key=len) or set(texts)

    def counts(self, ids: Tensor) -> Counter[str]:
        words = (self.texts[i] for i in ids.flatten().tolist() if i != NONE)
        return Counter([word for word in words if word in self.counted])

    def ids(self, word: str) -> Tensor:
        """All ids that are written so."""
        return torch.tensor([i for i, text in enumerate(self.texts) if text == word])


class Words:
    """One block's. chosen: of each image the words of the strongest units of its tokens, (T, k) ids, NONE for no word; of_all: the
    word of every unit of the block, (units,)."""

    def __init__(self, vocabulary: Vocabulary, chosen: Sequence[Tensor], of_all: Tensor) -> None:
        self.vocabulary, self.chosen, self.units = vocabulary, chosen, len(of_all)
        self.counts = [vocabulary.counts(ids) for ids in chosen]
        self.all = vocabulary.counts(of_all)

    def of_images(self, names: Sequence[str]) -> Iterator[tuple[str, str, int]]:
        """Image, word, count."""
        for name, counts in zip(names, self.counts, strict=True):
            yield from ((name, word, n) for word, n in _ordered(counts))

    def of_units(self) -> list[tuple[str, int]]:
        """Word, and how many of all units write it."""
        return _ordered(self.all)

    def frequent(self, groups: Sequence[str], seed: int) -> Iterator[tuple[Any, ...]]:
        """The most frequent words over all images: the columns of `UnitWord` from `word` on. groups: of each image, with which
        others it is left out when the interval is made."""
        picks = _mean([float((ids != NONE).sum()) for ids in self.chosen])
        words = [word for word, _ in _ordered(sum(self.counts, Counter()))[:LISTED]]
        shuffled = varies(_by_place(self.chosen, [self.vocabulary.ids(word) for word in words]), seed) if words else []
        for word, varied in zip(words, shuffled, strict=True):
            of_each = [float(counts[word]) for counts in self.counts]
            mean = Value(_mean(of_each), len(of_each))
            interval = jackknife(mean, _left_out(of_each, groups))
            expected = self.all[word] / self.units * picks
            note = "; ".join(dict.fromkeys(filter(None, (interval.note, varied.ratio.note))))
            yield word, float(mean), interval.low, interval.high, expected, float(varied.ratio), float(varied.p), mean.n, note


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    """Most frequent first; ties by the word, so that the order is always the same."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _by_place(of_images: Sequence[Tensor], words: Sequence[Tensor]) -> Tensor:
    """How often each word stands at each place of each image: (words, images, places), of the places that all images have."""
    places = min(len(ids) for ids in of_images)
    together = torch.stack([ids[:places].cpu() for ids in of_images])
    return torch.stack([torch.isin(together, ids).sum(2) for ids in words])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _left_out(values: Sequence[float], groups: Sequence[str]) -> list[Value]:
    """The mean without each group."""
    rest = [[v for v, g in zip(values, groups, strict=True) if g != left] for left in dict.fromkeys(groups)]
    return [Value(_mean(kept), len(kept)) for kept in rest if kept]
