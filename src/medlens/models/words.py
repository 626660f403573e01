"""Words of a model's vocabulary."""

from __future__ import annotations

import difflib

from medlens.errors import BadInput
from medlens.models.base import Model
from medlens.models.unembedding import Unembedding

SPACES = ("▁", "Ġ")  # how tokenizers write the space in front of a word


def word_id(model: Model, word: str) -> int:
    """The token that says a word, with the space in front of it where there is such a token. Raises BadInput, with the nearest
    words, where no one token does."""
    known = model.tokenizer.get_vocab()
    limit = Unembedding(model).words
    for written in (*(mark + word for mark in SPACES), word):
        if known.get(written, limit) < limit:
            return known[written]
    plain = sorted({text.lstrip("".join(SPACES)) for text in known if text not in model.control_tokens} - {""})
    near = difflib.get_close_matches(word, plain, 5, 0.5) or difflib.get_close_matches(word.lower(), plain, 5, 0.3)
    offer = f"; nearest words: {', '.join(near)}" if near else ""
    raise BadInput(f"no token of {model.name} says {word!r} alone{offer}")


def first_id(model: Model, word: str) -> int:
    """The token that says a word, as it is or in small letters; else the first one of those that say it together, in small letters,
    that is more than a space."""
    for written in (word, word.lower()):
        try:
            return word_id(model, written)
        except BadInput:
            continue
    ids = model.tokenizer(word.lower(), add_special_tokens=False)["input_ids"]
    texts = model.tokenizer.convert_ids_to_tokens(ids)
    return next((i for i, text in zip(ids, texts, strict=True) if text.strip("".join(SPACES))), ids[0])
