"""From samples to cases: what walks through the model together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from medlens.models.base import Model
from medlens.models.families import SEE_WHOLE_IMAGE, SHARE_IMAGES, WINDOWS, token_types
from medlens.models.prompt import Look, as_batch
from medlens.types import Group, Sample, Tokens
from medlens.walk.packing import Pack, additive, pack, visible

BRANCH_TOKENS = 1024  # own tokens of the branches of one pack: more would cost more in attention than the prefix saves


@dataclass(frozen=True)
class Prompt:
    """One sample as the model reads it."""

    sample: Sample
    look: Look
    tokens: Tokens
    image: str  # which image(s): prompts of the same image share a pack

    @property
    def unit(self) -> str:
        """What is independent of everything else: a patient's images, where the data name the patient, else the image."""
        patient = self.sample.patient_id
        return self.image if patient is None else f"patient {patient}"

    @property
    def prefix(self) -> tuple[int, ...]:
        """The ids up to the last image token: what all questions on the image have in common."""
        end = max((i for i, g in enumerate(self.tokens.groups) if g == "image"), default=-1)
        return self.tokens.ids[: end + 1]


@dataclass(frozen=True)
class Case:
    """One pack on its walk, with the name of everything in it.

    groups: of each place. counted: places whose rows are measured (a prefix that another pack holds too is counted there).
    """

    pack: Pack
    look: Look
    image: str
    prompts: tuple[Prompt, ...]
    groups: tuple[Group, ...]
    counted: tuple[bool, ...]

    def where(self, group: str) -> list[int]:
        """Counted places of a group ("all": of every group)."""
        return [i for i, (g, c) in enumerate(zip(self.groups, self.counted, strict=True)) if c and group in (g, "all")]

    def identity(self, place: int) -> tuple[str, int]:
        """What a place is, whatever it was packed with: its position in its sample, or in its image's prefix."""
        branch = self.pack.segments[place]
        return self.image if branch == 0 else self.prompts[branch - 1].sample.id, self.pack.positions[place]

    @property
    def readings(self) -> list[list[int]]:
        """The places that each prompt's own reading is made of: the prefix, and its branch."""
        return [self.pack.rows(k) for k in range(len(self.prompts))]

    def described(self, reading: int, place: int) -> tuple[str, int, str, str]:
        """Of a place, as a prompt reads it: the sample, and the token's position, text and group."""
        prompt, position = self.prompts[reading], self.pack.positions[place]
        return prompt.sample.id, position, prompt.tokens.texts[position], self.groups[place]

    def who(self, place: int) -> str:
        """Sample, token and position at a place, for a reader."""
        branch = max(self.pack.segments[place], 1) - 1
        prompt, position = self.prompts[branch], self.pack.positions[place]
        return f"sample {prompt.sample.id or '?'}, token {position} ({prompt.tokens.texts[position]!r})"


def cases(model: Model, prompts: Sequence[Prompt]) -> list[Case]:
    """Lay prompts out in packs, questions on the same image together, in the order in which the images come. Where they cannot be
    packed, cases of the same image still follow each other."""
    sharing: dict[object, list[Prompt]] = {}
    order = {image: k for k, image in reversed(list(enumerate(prompt.image for prompt in prompts)))}
    prompts = sorted(prompts, key=lambda prompt: order[prompt.image])
    packed = model.family in SHARE_IMAGES and model.text_config.model_type in WINDOWS
    for k, prompt in enumerate(prompts):
        sharing.setdefault((prompt.image, prompt.prefix) if packed and prompt.prefix else k, []).append(prompt)
    return [_case(chunk, first=k == 0) for same in sharing.values() for k, chunk in enumerate(_chunks(same))]


def _chunks(prompts: list[Prompt]) -> list[list[Prompt]]:
    chunks: list[list[Prompt]] = [[]]
    used = 0
    for prompt in prompts:
        own = len(prompt.tokens) - len(prompt.prefix)
        if chunks[-1] and used + own > BRANCH_TOKENS:
            chunks.append([])
            used = 0
        chunks[-1].append(prompt)
        used += own
    return chunks


def _case(prompts: list[Prompt], first: bool) -> Case:
    packed = pack([p.tokens.ids for p in prompts], len(prompts[0].prefix))
    own = [prompts[max(s, 1) - 1] for s in packed.segments]
    groups: tuple[Group, ...] = tuple(p.tokens.groups[at] for p, at in zip(own, packed.positions, strict=True))
    counted = tuple(first or s > 0 for s in packed.segments)
    return Case(packed, prompts[0].look, prompts[0].image, tuple(prompts), groups, counted)


def folds_of(laid: Sequence[Case], count: int) -> dict[str, int]:
    """The fold of each image: whole patients where the data name them (else whole images) are dealt out in the order they come."""
    units: dict[str, int] = {}
    found = {}
    for case in laid:
        found[case.image] = units.setdefault(case.prompts[0].unit, len(units)) % count
    return found


def arguments(model: Model, case: Case) -> dict[str, Any]:
    """What the model's own forward is called with. A case of one prompt needs neither mask nor positions."""
    called = {"input_ids": as_batch(case.pack.ids, model.device), **case.look.inputs}
    if len(case.prompts) == 1:
        types = token_types(model.family, case.groups)
        return called | {name: as_batch(of_each, model.device) for name, of_each in types.items()}
    positions = as_batch(case.pack.positions, model.device)
    masks = masks_of(model, as_batch(case.pack.segments, model.device), positions, case.groups)
    return {**called, "position_ids": positions, "attention_mask": masks}


def masks_of(model: Model, segments: torch.Tensor, positions: torch.Tensor, groups: Sequence[Group]) -> Any:
    """One mask; or, where the decoder mixes kinds of attention, one of each kind by the names transformers gives them. segments and
    positions: (1, T)."""
    together = as_batch(_images(groups), model.device) if model.family in SEE_WHOLE_IMAGE else None
    window, where = getattr(model.text_config, "sliding_window", None), WINDOWS[model.text_config.model_type]
    full = additive(visible(segments, positions, None, together), model.dtype)
    if window is None or where == "none":
        return full
    sliding = additive(visible(segments, positions, window, together), model.dtype)
    return sliding if where == "all layers" else {"full_attention": full, "sliding_attention": sliding}


def _images(groups: Sequence[Group]) -> list[int]:
    """Of each place: in which unbroken stretch of image tokens it lies, from 0 on; -1 elsewhere."""
    shown = [g == "image" for g in groups]
    begun = list(accumulate(now and not before for before, now in zip([False, *shown], shown, strict=False)))
    return [stretch - 1 if now else -1 for now, stretch in zip(shown, begun, strict=True)]
