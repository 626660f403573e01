"""The published study's token occurrence: which words the strongest units of the image's tokens write, with nulls."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl
from torch import Tensor

from medlens import store
from medlens.errors import BadInput
from medlens.estimates.unit_words import Vocabulary, Words
from medlens.findings import Occurrence, UnitWord
from medlens.instruments.units import CONVENTIONS, Units
from medlens.measures.lens import likeliest
from medlens.models import Model, load
from medlens.models.prompt import read
from medlens.models.unembedding import Unembedding
from medlens.types import Sample
from medlens.walk.cases import Case, Prompt, cases
from medlens.walk.forward import prepare, steps
from medlens.walk.reverse import steps_back
from medlens.walk.room import Files
from medlens.walk.target import Aim, EveryLogit, Target, Word
from medlens.walk.units import Names, check_names

QUESTION, BEGUN = "What is on the image?", "The image is a"  # the study's; the template closes what was begun
EVERY = 5  # blocks 5, 10, ...
PROTOCOLS = tuple(CONVENTIONS)

Tick = Callable[[], None]


@dataclass(frozen=True, eq=False)
class UnitWords:
    """Frames with the columns of a run's tables (`store.TABLES`): `occurrence`, of each image every word and its count; `words`,
    the ten most frequent of each block over all images, with interval and nulls."""

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
    names: tuple[str, str] = Names(),
    scratch: str | Path | None = None,
) -> UnitWords:
    """Of each image token the ten units of the MLP with the largest gradient x value, and how often they write each word.

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
    """5, 10, ..., as far as there are, but not the last block: what is written there at an image token reaches no logit.

    The study's "layer l" is read as block l (`model.layers[l]`): units lie in blocks, and its maps of attention are named after
    blocks. (Inferred; its states are counted otherwise: state l is what block l - 1 returns.)"""
    return list(range(EVERY, model.depth - 1, EVERY))


def _checked(model: Model, layers: Sequence[int] | None) -> list[int]:
    """Blocks that the model has. Raises BadInput."""
    blocks = published_blocks(model) if layers is None else sorted(set(layers))
    if not blocks:
        raise BadInput(
            f"no layers: {model.name} has blocks 0 to {model.depth - 2} before its last, the study's begin at {EVERY}; name some"
        )
    if outside := [b for b in blocks if not 0 <= b < model.depth - 1]:
        raise BadInput(
            f"layers are blocks 0 to {model.depth - 2} of {model.name} (the last block's image tokens reach no logit); "
            f"got {outside[0]}"
        )
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
    texts = model.tokenizer.convert_ids_to_tokens(list(range(Unembedding(model).words)))
    vocabulary, images = Vocabulary(texts), [prompt.sample.image_id or prompt.image for prompt in prompts]
    found = Counted([], [])
    for protocol, tracer in tracers.items():
        for block in sorted(blocks):
            words = Words(vocabulary, [tracer.words[block, prompt.image] for prompt in prompts], tracer.all[block])
            found.occurrence.extend(Occurrence(protocol, block, *row) for row in words.of_images(images))
            found.occurrence.extend(Occurrence(f"null: all units, {protocol}", block, None, *row) for row in words.of_units())
            found.words.extend(UnitWord(protocol, block, *row) for row in words.frequent(_patients(prompts), seed))
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


def _patients(prompts: Sequence[Prompt]) -> list[str]:
    """What is left out together, of each image: its patient's images, where the data name them."""
    return [prompt.unit for prompt in prompts]
