"""States of words in their sentences: the library in which image tokens look for their neighbours (LatentLens: Krojer et al. 2026).

A word is stored at its last token, which has read the whole of it, as the model reads its sentence alone, without an image: with
one, what an image token is near to could be what the word has taken from that image.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
from torch import Tensor

from medlens._tensors import write_tensors
from medlens.errors import BadData, BadInput, BadModel, CannotWrite
from medlens.stats.rows import priority
from medlens.types import Sample
from medlens.walk.cases import Prompt

WORDS = ("text", "answer")  # the groups that are written by people, not by the template
FORMAT = "medlens text states 1"


class Sentence(NamedTuple):
    """What is read: a question, and its answer where there is one; where it came from, for a message."""

    question: str
    answer: str | None
    source: str

    @property
    def text(self) -> str:
        return " ".join(filter(None, [self.question, self.answer]))


class Word(NamedTuple):
    """One row of the library: a word, the sentence that it stands in, and the place of its last token in the prompt."""

    word: str
    sentence: str
    prompt: int
    place: int


@dataclass(frozen=True)
class TextStates:
    """The library. states (layers, N, d) float32, the same N words at every layer; words and sentences (N); layers: which states;
    fingerprint: of the weights that they belong to."""

    states: Tensor
    words: tuple[str, ...]
    sentences: tuple[str, ...]
    layers: tuple[int, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.words)

    def save(self, path: str | Path) -> None:
        """Write it as safetensors, names and fingerprint in the header. Raises CannotWrite."""
        told = {"words": self.words, "sentences": self.sentences, "layers": self.layers, "fingerprint": self.fingerprint}
        part = Path(f"{path}.part")
        try:
            write_tensors(part, {"states": self.states}, {"format": FORMAT, "told": json.dumps(told)})
            part.replace(path)
        except OSError as e:
            part.unlink(missing_ok=True)
            raise CannotWrite(f"{path} cannot be written: {e.strerror or e}") from e


def load_texts(path: str | Path, fingerprint: str) -> TextStates:
    """A library that was saved. Raises BadData for another file, BadModel where it belongs to other weights."""
    try:
        with safetensors.safe_open(path, "pt") as opened:
            metadata: dict[str, Any] = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise BadData(f"{path} holds no text states; write some with `neighbours(...).texts.save(path)`")
            told, states = json.loads(metadata["told"]), opened.get_tensor("states")
    except (safetensors.SafetensorError, OSError) as e:
        raise BadData(f"{path}: text states cannot be read ({e})") from e
    if told["fingerprint"] != fingerprint:
        raise BadModel(f"{path} holds text states of weights {told['fingerprint']}, this model's are {fingerprint}: write its own")
    return TextStates(states, tuple(told["words"]), tuple(told["sentences"]), tuple(told["layers"]), fingerprint)


# ---- sentences


def sentences_of(samples: Sequence[Sample]) -> list[Sentence]:
    """The questions of samples with their true answers, each once."""
    found = {(s.question.replace("<image>", "").strip(), s.answer): s for s in samples}
    return [Sentence(asked, answer or None, f"sample {s.id or '?'}") for (asked, answer), s in found.items() if asked]


def sentences_in(path: Path) -> list[Sentence]:
    """A text file, one sentence a line, each once. Raises BadData."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise BadData(f"{path} cannot be read as text ({e.__class__.__name__}); expected one sentence a line, in UTF-8") from e
    numbered = {line.strip(): number for number, line in reversed(list(enumerate(lines, 1))) if line.strip()}
    return [Sentence(line, None, f"{path.name}, line {n}") for line, n in sorted(numbered.items(), key=lambda item: item[1])]


# ---- words


def choose(prompts: Sequence[Prompt], sentences: Sequence[Sentence], tokenizer: Any, cap: int, seed: int) -> list[Word]:
    """At most `cap` words of the prompts, in their order. First one of every word, then a second of each, and so on, so that no
    frequent word fills the library; which, is drawn by `seed`. A word behind the same beginning as before is the same state, and is
    not taken again. Raises BadInput for a cap below 1, BadData where there is no word."""
    if cap < 1:
        raise BadInput(f"a library holds at least one row a layer; got cap={cap}")
    found: dict[str, dict[tuple[int, ...], Word]] = defaultdict(dict)
    for number, prompt in enumerate(prompts):
        for word, place in _words(prompt, tokenizer):
            begun = prompt.tokens.ids[: place + 1]
            found[word.casefold()].setdefault(begun, Word(word, sentences[number].text, number, place))
    if not found:
        raise BadData(f"{len(sentences)} sentences without a word in them: a library needs text; name a file of sentences")
    drawn = {word: sorted(rows.values(), key=lambda row: priority(seed, *row)) for word, rows in found.items()}
    order = sorted((k, priority(seed, word), row) for word, rows in drawn.items() for k, row in enumerate(rows))
    return sorted((row for _, _, row in order[:cap]), key=lambda row: (row.prompt, row.place))


def _words(prompt: Prompt, tokenizer: Any) -> Iterator[tuple[str, int]]:
    """Each word with the place of its last token. Marks between words are none."""
    ids, groups = prompt.tokens.ids, prompt.tokens.groups
    for run in _runs([group if group in WORDS else None for group in groups]):
        texts = [tokenizer.decode(list(ids[run.start : place + 1]), clean_up_tokenization_spaces=False) for place in run]
        own = [text[len(before) :] for before, text in zip(["", *texts], texts, strict=False)]
        word = ""
        for k, (place, piece) in enumerate(zip(run, own, strict=True)):
            word += piece
            following = own[k + 1] if k + 1 < len(own) else " "
            if following[:1].isspace() or _is_word(following) != _is_word(piece):
                if _is_word(word):
                    yield word.strip(), place
                word = ""


def _is_word(piece: str) -> bool:
    return any(letter.isalnum() for letter in piece)


def _runs(groups: Sequence[str | None]) -> Iterator[range]:
    """Unbroken stretches of one group."""
    begin = 0
    for k in range(1, len(groups) + 1):
        if k == len(groups) or groups[k] != groups[begin]:
            if groups[begin] is not None:
                yield range(begin, k)
            begin = k
