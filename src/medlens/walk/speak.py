"""Packs that go on: each prompt is followed by token after token, all packs through block b before any enters block b + 1.

What attention has computed of earlier tokens, their keys and values, is kept, so that a new token costs a pass of the new tokens
alone. N tokens read the weights of a streamed model N times, however many prompts there are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from medlens import hooks
from medlens.errors import BadModel, NotFinite
from medlens.models.base import Model
from medlens.models.prompt import as_batch
from medlens.walk.cases import Case, Prompt, arguments
from medlens.walk.packing import Pack
from medlens.walk.replay import Step, enter, through
from medlens.walk.room import Files, Room, Spill

Say = Callable[[Prompt, Tensor], int | None]


class Price(NamedTuple):
    """passes: how often the weights of the blocks are read, at most. kept: bytes of the keys and values that wait, at most."""

    passes: int
    kept: int


def price(model: Model, laid: Sequence[Case], new_tokens: int) -> Price:
    """What it costs a streamed model to go on by up to `new_tokens` tokens (at least 1) behind every prompt of these packs."""
    config = model.text_config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    entered = sum(len(case.pack.ids) + len(case.prompts) * (new_tokens - 1) for case in laid)  # the last one is only said
    return Price(new_tokens, entered * 2 * heads * width * model.depth * model.dtype.itemsize)


def can_speak(model: Model) -> bool:
    """Whether keys and values, of every block its own, are all that is kept of earlier tokens, as transformers says of the decoder.
    They are not where it has recurrent blocks, or blocks that use the keys of others."""
    layers = DynamicCache(config=model.text_config).layers
    return len(layers) == model.depth and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def speak(model: Model, laid: Sequence[Case], say: Say, spill: Path | None = None) -> None:
    """Let every prompt go on: `say` is given it and the logits (V,) of what is next, and returns the next id, or None at the end.

    Of a streamed model one block is in memory at a time; keys, values and states wait in temporary files in the folder `spill`, or
    in memory without it. With a resident one nothing has to wait: pack after pack. Raises NotFinite, naming the sample; BadModel
    for a decoder of which `can_speak` is not true; OSError when the disk is full.
    """
    spill = spill if model.weights else None
    file = Spill(spill) if spill else None
    with hooks.evaluation(model.module):
        for together in [laid] if model.weights else [[case] for case in laid]:
            speakers = [_Speaker(case, _cache(model, file), list(range(len(case.prompts)))) for case in together]
            while speakers:
                _pass(model, speakers, say, spill)
                speakers = [speaker for speaker in speakers if speaker.going]


@dataclass
class _Speaker:
    """A pack that goes on.

    case: with all that is said so far. cache: keys and values of what has passed. going: the branches that have not ended, 0-based.
    positions: (..., 1, branches), where the last token of each of these is, as the decoder counts; known once it was asked.
    """

    case: Case
    cache: Cache
    going: list[int]
    positions: Tensor | None = None

    @property
    def waiting(self) -> int:
        """Tokens that have not passed yet: at first all, then the new ones at the end."""
        return len(self.case.pack.ids) - self.cache.get_seq_length()

    @property
    def ends(self) -> list[int]:
        """The place of the last token of each branch that goes on."""
        return [self.case.pack.rows(k)[-1] for k in self.going]

    def hear(self, logits: Tensor, say: Say) -> None:
        """Go on by what is said next, given the logits (branches, V)."""
        said = {}
        for n, (k, of_branch) in enumerate(zip(self.going, logits, strict=True)):
            prompt = self.case.prompts[k]
            if of_branch.isnan().any():
                raise NotFinite(f"NaN in the logits of sample {prompt.sample.id or '?'}; try --dtype float32")
            if (token := say(prompt, of_branch)) is not None:
                said[n] = token
        assert self.positions is not None
        self.positions = self.positions[..., list(said)] + 1
        self.going = [self.going[n] for n in said]
        self.case = _longer(self.case, self.going, list(said.values()))


def _longer(case: Case, branches: Sequence[int], tokens: Sequence[int]) -> Case:
    """The case with a token more behind each of these branches."""
    ids, segments, positions = case.pack.ids, case.pack.segments, case.pack.positions
    behind = [positions[case.pack.rows(k)[-1]] + 1 for k in branches]
    return replace(
        case,
        pack=Pack((*ids, *tokens), (*segments, *(k + 1 for k in branches)), (*positions, *behind)),
        groups=(*case.groups, *["answer"] * len(tokens)),
        counted=(*case.counted, *[True] * len(tokens)),
    )


def _pass(model: Model, speakers: Sequence[_Speaker], say: Say, spill: Path | None) -> None:
    """What waits of every pack passes all blocks, and the next tokens are said."""
    with _room(model, [speaker.waiting for speaker in speakers], spill) as room:
        _enter_all(model, speakers, room)
        for b in range(model.depth):
            with model.here(b):
                model.expect(b + 1 if b + 1 < model.depth else "head")
                for k, speaker in enumerate(speakers):
                    room.put(b + 1, k, through(model.blocks[b], room.fetch(("way", k))[b], room.get(b, k)))
                    if speaker.cache.get_seq_length(b) != len(speaker.case.pack.ids):
                        raise BadModel(f"{model.name}: block {b} does not keep one key for each token, so it cannot go on")
            room.forget(b)
        with model.here("norm", "head"):
            for k, speaker in enumerate(speakers):
                state = room.get(model.depth, k)
                before = len(speaker.case.pack.ids) - len(state)
                last = state[[end - before for end in speaker.ends]]
                speaker.hear(model.unembed(model.norm(last[None]))[0].float(), say)


def _enter_all(model: Model, speakers: Sequence[_Speaker], room: Room) -> None:
    """State 0 of every pack to the room, and what the blocks will be called with for it."""
    begun = speakers[0].positions is not None
    with _table(model) if begun else model.here("around", "norm", "head"):
        for k, speaker in enumerate(speakers):
            state, steps = _new_tokens(model, speaker) if begun else _prompts(model, speaker)
            room.put(0, k, state)
            room.keep(("way", k), steps)


def _prompts(model: Model, speaker: _Speaker) -> tuple[Tensor, list[Step]]:
    """The whole pack, through the model's own forward."""
    called = arguments(model, speaker.case)
    with hooks.calls_of(model.decoder) as told:
        entered = enter(model, lambda: model.module(**called, past_key_values=speaker.cache, use_cache=True, logits_to_keep=1))
    positions = told[-1].kwargs.get("position_ids")
    if positions is None:  # the decoder counts by itself
        positions = as_batch(range(speaker.waiting), model.device)
    speaker.positions = positions[..., speaker.ends]
    return entered


def _new_tokens(model: Model, speaker: _Speaker) -> tuple[Tensor, list[Step]]:
    """One token behind each branch, through the decoder's own forward: there is no image in them."""
    called = {
        "input_ids": as_batch(speaker.case.pack.ids[-speaker.waiting :], model.device),
        "position_ids": speaker.positions,
        "attention_mask": _rows(arguments(model, speaker.case).get("attention_mask"), speaker.waiting),
    }
    return enter(model, lambda: model.decoder(**called, past_key_values=speaker.cache, use_cache=True))


def _rows(mask: Any, new: int) -> Any:
    """What the last `new` places of a pack see; by kind of attention where there is more than one."""
    if isinstance(mask, dict):
        return {kind: _rows(of_kind, new) for kind, of_kind in mask.items()}
    return None if mask is None else mask[..., -new:, :]


@contextmanager
def _table(model: Model) -> Iterator[None]:
    """With what the decoder itself has around its blocks in memory, its input table above all, and without the vision tower."""
    if model.weights is None:
        yield
        return
    inside = {id(parameter) for parameter in model.decoder.parameters()}
    around = [*model.names_of["around"], *model.names_of["norm"]]
    brought = model.weights.bring([name for name in around if id(model.module.get_parameter(name)) in inside])
    try:
        yield
    finally:
        model.weights.take_away(brought)


@contextmanager
def _room(model: Model, lengths: Sequence[int], spill: Path | None) -> Iterator[Room]:
    """Where the states of one pass wait: in memory, or in files of a folder in `spill` that is gone afterwards."""
    if spill is None:
        yield Room()
        return
    with tempfile.TemporaryDirectory(dir=spill) as folder:
        yield Files(Path(folder), lengths, model.width, model.dtype, model.device)


def _cache(model: Model, file: Spill | None) -> Cache:
    """For the keys and values of a pack. All of them, also where a block looks at a window only: masks see to that, and the places
    of a pack are not in the order of their positions."""
    return DynamicCache() if file is None else Cache(layers=[_Filed(file) for _ in range(model.depth)])


class _Filed(DynamicLayer):
    """The keys and values of one block, in a file."""

    def __init__(self, file: Spill) -> None:
        super().__init__()
        self._file, self._kept, self._length = file, [], 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All keys and values, (1, heads, T, width) each: the earlier ones are read, these are written."""
        earlier = self._file.fetch(self._kept)
        self._kept.append(self._file.keep((key_states, value_states)))
        self._length += key_states.shape[-2]
        keys, values = zip(*earlier, (key_states, value_states), strict=True)
        return torch.cat(keys, dim=-2), torch.cat(values, dim=-2)

    def get_seq_length(self) -> int:
        return self._length
