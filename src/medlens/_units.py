"""The published study's token occurrence: which words the strongest units of the image's tokens write, with nulls."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor

from medlens import store
from medlens.errors import BadInput
from medlens.findings import Occurrence, UnitWord
from medlens.instruments.units import CONVENTIONS, Names, Units, check_names
from medlens.measures.lens import likeliest
from medlens.measures.units import varies
from medlens.models import Model, load
from medlens.models.prompt import read
from medlens.models.unembedding import Unembedding
from medlens.stats.intervals import jackknife
from medlens.types import Sample, Value
from medlens.walk.cases import Case, Prompt, cases
from medlens.walk.forward import prepare, steps
from medlens.walk.reverse import steps_back
from medlens.walk.room import Files
from medlens.walk.target import Aim, EveryLogit, Target, Word

QUESTION, BEGUN = "What is on the image?", "The image is a"  # the study's; the template closes what was begun
EVERY = 5  # blocks 5, 10, ...
PROTOCOLS = tuple(CONVENTIONS)
LISTED = 10  # words
MARKS = ("▁", "Ġ")  # how tokenizers write the space in front of a word

Tick = Callable[[], None]


@dataclass(frozen=True, eq=False)
class UnitWords:
    """Frames with the columns of a run's tables (`store.TABLES`): `occurrence`, of each image every word and its count; `words`, the
    ten most frequent of each block over all images, with interval and nulls."""

    occurrence: pl.DataFrame
    words: pl.DataFrame


def occurrence_of_units(
    model: Model | str | Path,
    samples: Sequence[Sample],
    layers: Sequence[int] | None = None,
    protocol: str = "published",
    *,
    images: int | None = None,
    seed: int = 0,
    names: tuple[str, str] = Names(),  # noqa: B008
    scratch: str | Path | None = None,
) -> UnitWords:
    """Of each image token the ten units of the MLP with the largest gradient x value, and how often each word is the one they write.

    protocol "published": of the gate's pre-activation, for the sum of all logits behind "What is on the image?" and a begun answer;
    words by the bare head. "sound": of the unit's own activation, for the log-probability of the word the model says first to the
    sample's own question; words by the head behind the final norm's weight. Only words with a space mark are counted, where the
    tokenizer has one.

    samples: the first of each image is taken; images: at most so many. layers: blocks, by default 5, 10, ... (the study's). names:
    of gate and down projection in a block. scratch: a folder for states that wait.
    Raises BadInput for a layer, protocol or samples that are none; BadModel for a block without such parts; NotFinite.
    """
    loaded = model if isinstance(model, Model) else load(model)
    if protocol not in PROTOCOLS:
        raise BadInput(f"protocol is {protocol!r}; expected {' or '.join(map(repr, PROTOCOLS))}")
    blocks = _checked(loaded, layers)
    prompts = shown([prepare(loaded, sample) for sample in samples], images)
    if not prompts:
        raise BadInput(f"units are read at image tokens; none of {len(samples)} samples has an image")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        found = count(loaded, prompts, blocks, (protocol,), Path(folder), seed, Names(*names))
    return UnitWords(_frame("occurrence", found.occurrence), _frame("unit_words", found.words))


def _frame(name: str, records: Sequence[NamedTuple]) -> pl.DataFrame:
    return pl.DataFrame([record._asdict() for record in records], schema=store.TABLES[name])


def published_blocks(model: Model) -> list[int]:
    """5, 10, ..., as far as there are. The study's "layer l" is read as block l (`model.layers[l]`), where its hooks were set; its
    states are counted otherwise (state l is what block l - 1 returns)."""
    return list(range(EVERY, model.depth, EVERY))


def _checked(model: Model, layers: Sequence[int] | None) -> list[int]:
    """Blocks that the model has. Raises BadInput."""
    blocks = published_blocks(model) if layers is None else sorted(set(layers))
    if not blocks:
        raise BadInput(f"no layers: {model.name} has blocks 0 to {model.depth - 1}, the study's begin at {EVERY}; name some")
    if outside := [b for b in blocks if not 0 <= b < model.depth]:
        raise BadInput(f"layers are blocks 0 to {model.depth - 1} of {model.name}; got {outside[0]}")
    return blocks


def shown(prompts: Sequence[Prompt], images: int | None) -> list[Prompt]:
    """The first prompt of each image, of at most so many images."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        if "image" in prompt.tokens.groups:
            first.setdefault(prompt.image, prompt)
    return list(first.values())[:images]


def ticks(model: Model, blocks: Sequence[int], prompts: Sequence[Prompt], protocols: int = len(PROTOCOLS)) -> int:
    """How often `count` will tick: there, and back to the first of the blocks."""
    return protocols * len(prompts) * (2 * model.depth - min(blocks))


class Counted(NamedTuple):
    occurrence: list[Occurrence]
    words: list[UnitWord]


def count(
    model: Model, prompts: Sequence[Prompt], blocks: Sequence[int], protocols: Sequence[str], scratch: Path, seed: int,
    names: Names = Names(), tick: Tick = lambda: None,  # noqa: B008
) -> Counted:  # fmt: skip
    """Of prompts of different images, all protocols on one way there and back."""
    check_names(model, names)
    tracers = {protocol: Units(model, blocks, CONVENTIONS[protocol], names) for protocol in protocols}
    laid = {protocol: cases(model, [_asked(model, prompt, protocol) for prompt in prompts]) for protocol in protocols}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        _there_and_back(model, laid, min(blocks), list(tracers.values()), Path(folder), tick)
    vocabulary = _Vocabulary(model)
    found = Counted([], [])
    for protocol, tracer in tracers.items():
        for block in sorted(blocks):
            of_images = {prompt.image: tracer.words[block, prompt.image] for prompt in prompts}
            _add(found, protocol, block, of_images, tracer.all[block], vocabulary, _patients(prompts), seed)
    return found


def _asked(model: Model, prompt: Prompt, protocol: str) -> Prompt:
    """The study's prompt on the sample's images; or the sample's own, without an answer."""
    sample, begun = prompt.sample, None
    if protocol == "published":
        sample, begun = Sample(images=sample.images, question=QUESTION, id=sample.id), BEGUN
    return Prompt(sample, prompt.look, read(model, sample, prompt.look, begun), prompt.image)


def _there_and_back(
    model: Model, laid: Mapping[str, Sequence[Case]], down_to: int, tracers: Sequence[Units], folder: Path, tick: Tick
) -> None:
    walkers = [case for of_protocol in laid.values() for case in of_protocol]
    lengths = [len(case.pack.ids) for case in walkers]
    room = Files(folder, lengths, model.width, model.dtype, model.device, kept_from=down_to)
    said = _Said(model)
    for _ in steps(model, walkers, [said], tick, room):
        pass
    aims: list[list[Aim]] = []
    for protocol, of_protocol in laid.items():
        for case in of_protocol:
            last = len(case.prompts[0].tokens) - 1
            aims.append([EveryLogit(last) if protocol == "published" else Target((Word(last, said.next[id(case)]),))])
    for _ in steps_back(model, walkers, aims, tracers, tick, room):
        pass


class _Said:
    """Notes, of each case of one prompt, the likeliest word behind it."""

    def __init__(self, model: Model) -> None:
        self.logits = Unembedding(model).logits
        self.next: dict[int, int] = {}

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None: ...
    def leave(self, block: int) -> None: ...

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        self.next[id(case)] = int(likeliest(normed[-1:], self.logits, 1).ids)


# ---- what was found, as tables


class _Vocabulary:
    """The words of ids; of those only the ones that carry the space mark are counted, where the tokenizer has such a mark."""

    def __init__(self, model: Model) -> None:
        self.texts: list[str] = model.tokenizer.convert_ids_to_tokens(list(range(Unembedding(model).words)))
        marked = {mark: sum(mark in text for text in self.texts) for mark in MARKS}
        mark = max(MARKS, key=marked.__getitem__)
        self.counted = [text for text in set(self.texts) if mark in text or not marked[mark]]
        self._counts = set(self.counted)

    def counts(self, ids: Tensor) -> Counter[str]:
        found = Counter(self.texts[i] for i in ids.flatten().tolist())
        return Counter({word: n for word, n in found.items() if word in self._counts})

    def ids(self, word: str) -> Tensor:
        """All ids that are written so."""
        return torch.tensor([i for i, text in enumerate(self.texts) if text == word])


def _patients(prompts: Sequence[Prompt]) -> list[str]:
    """What is left out together, of each image: its patient's images, where the data name them."""
    return [prompt.image if (p := prompt.sample.patient_id) is None else f"patient {p}" for prompt in prompts]


def _add(
    found: Counted, protocol: str, block: int, of_images: Mapping[str, Tensor], of_all: Tensor, vocabulary: _Vocabulary,
    patients: Sequence[str], seed: int,
) -> None:  # fmt: skip
    """One block's words. of_images: (T, k) ids of each image; of_all: the word of every unit."""
    counts = {image: vocabulary.counts(ids) for image, ids in of_images.items()}
    everywhere = vocabulary.counts(of_all)
    for image, counted in counts.items():
        found.occurrence.extend(Occurrence(protocol, block, image, word, n) for word, n in _ordered(counted))
    found.occurrence.extend(Occurrence(f"null: all units, {protocol}", block, None, word, n) for word, n in _ordered(everywhere))
    words = [word for word, _ in _ordered(sum(counts.values(), Counter()))[:LISTED]]
    chosen = sum(ids.numel() for ids in of_images.values()) / len(of_images)  # of an image, on average
    shuffled = varies(_by_place(list(of_images.values()), [vocabulary.ids(word) for word in words]), seed)
    for word, varied in zip(words, shuffled, strict=True):
        of_each = [float(counted[word]) for counted in counts.values()]
        interval = jackknife(Value(_mean(of_each), len(of_each)), _left_out(of_each, patients))
        expected = everywhere[word] / len(of_all) * chosen
        note = "; ".join(dict.fromkeys(filter(None, (interval.note, varied.ratio.note))))
        found.words.append(
            UnitWord(protocol, block, word, _mean(of_each), interval.low, interval.high, expected, float(varied.ratio),
                     float(varied.p), len(of_each), note)
        )  # fmt: skip


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    """Most frequent first; ties by the word, so that the order is always the same."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _by_place(of_images: Sequence[Tensor], words: Sequence[Tensor]) -> Tensor:
    """How often each word stands at each place of each image: (words, images, places), of the places that all images have."""
    places = min(len(ids) for ids in of_images)
    together = torch.stack([ids[:places].cpu() for ids in of_images])
    return torch.stack([torch.isin(together, ids).sum(2) for ids in words]) if words else torch.zeros(0, len(of_images), places)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _left_out(values: Sequence[float], groups: Sequence[str]) -> list[Value]:
    """The mean without each group."""
    rest = [[v for v, g in zip(values, groups, strict=True) if g != left] for left in dict.fromkeys(groups)]
    return [Value(_mean(kept), len(kept)) for kept in rest if kept]
