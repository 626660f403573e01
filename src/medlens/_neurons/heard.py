"""Text: whether a unit answers to a word that is read, and not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

import numpy as np

from medlens.errors import BadInput, MedlensError
from medlens.models.base import Model
from medlens.models.unembedding import Unembedding
from medlens.models.words import SPACES, word_id
from medlens.types import Sample
from medlens.walk.cases import Prompt, cases
from medlens.walk.forward import prepare, walk
from medlens.walk.intervene import Unit, units_noted
from medlens.walk.units import Names

CARRIERS, OTHERS = 4, 60  # texts behind which a word is put, and other words of the vocabulary


class Heard(NamedTuple):
    """A unit's mean activation at a word, over carriers, signed as in images; the mean over other words, and the share of these
    (the word counted in) at which it is as large."""

    own: float
    others: float
    p: float
    words: int


class Texts:
    """Prompts without any image, that end with a word: the same few questions in front of each."""

    def __init__(self, model: Model, concepts: Sequence[str], questions: Sequence[str], names: Names, seed: int) -> None:
        self.model, self.names = model, names
        draw = Random(seed)
        carriers = draw.sample(sorted(set(questions)), min(CARRIERS, len(set(questions))))
        self.words: list[str] = []
        self._prompts: list[Prompt] = []
        for word in [*concepts, *_others(model, concepts, draw)]:
            made = [prompt for carrier in carriers if (prompt := _ending(model, carrier, word)) is not None]
            if len(made) == len(carriers):
                self.words.append(word)
                self._prompts += made
        self._each = len(carriers)

    def heard(self, units: Sequence[Unit], signs: Mapping[tuple[str, Unit], float]) -> dict[tuple[str, Unit], Heard]:
        """signs: of each word and unit that is asked for. A word that is no last token of a text is left out."""
        laid = [cases(self.model, [prompt])[0] for prompt in self._prompts]
        places = [prompt.tokens.where("text")[-1] for prompt in self._prompts]
        with units_noted(self.model, units, self.names.down) as noted:
            walk(self.model, laid, [])
        found = {}
        for block, calls in noted.items():
            rows = np.stack([a[place].float().cpu().numpy() for a, place in zip(calls, places, strict=True)])
            means = rows.reshape(len(self.words), self._each, -1).mean(1)
            of_units = {unit: k for k, unit in enumerate(sorted(u for b, u in set(units) if b == block))}
            for (word, unit), sign in signs.items():
                if unit[0] == block and word in self.words:
                    found[word, unit] = _against(sign * means[:, of_units[unit[1]]], self.words.index(word))
        return found


def _against(means: np.ndarray, at: int) -> Heard:
    others = np.delete(means, at)
    p = (1 + int((others >= means[at]).sum())) / (1 + len(others))
    return Heard(float(means[at]), float(others.mean()), p, len(others))


def _others(model: Model, concepts: Sequence[str], draw: Random) -> list[str]:
    """Words of letters that the tokenizer writes as one token, with a space in front where it marks that."""
    limit, known = Unembedding(model).words, model.tokenizer.get_vocab()
    marked = [t for t, i in known.items() if i < limit and t.startswith(SPACES)]
    plain = {t.lstrip("".join(SPACES)) for t in (marked or [t for t, i in known.items() if i < limit])}
    words = sorted(w for w in plain - set(concepts) if w.isalpha() and len(w) > 1 and w not in model.control_tokens)
    return draw.sample(words, min(OTHERS, len(words)))


def _ending(model: Model, carrier: str, word: str) -> Prompt | None:
    """A text that ends with the word as one token; None where the tokenizer writes it otherwise."""
    try:
        prompt = prepare(model, Sample(question=f"{carrier} {word}", id=word))
        last = prompt.tokens.where("text")[-1]
        return prompt if prompt.tokens.ids[last] == _token(model, word) else None
    except MedlensError:
        return None


def _token(model: Model, word: str) -> int | None:
    try:
        return word_id(model, word)
    except BadInput:
        return None
