"""From a sample to what the model reads, with every token's group: found from the chat template and the ids, never from constants.

The chat template is rendered with marks in place of the user's words, which shows exactly which characters are the template's. The
processor says where it put the image tokens; the tokenizer says which characters each token covers. The rest is bookkeeping.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from medlens.errors import BadData, BadModel
from medlens.models.base import Model
from medlens.models.families import TEMPLATES, TYPE_NAMES
from medlens.types import Group, Sample, Tokens

BY_TOKEN = ("input_ids", "attention_mask", "labels", *TYPE_NAMES)  # what a processor says of the tokens, not of the images
PLACE = "<image>"  # in a question: here stands the next image (the way LLaVA's own data say it)
MARK = "\ue000{}\ue001"  # private-use characters: no template and no tokenizer gives them a meaning


@dataclass(frozen=True)
class Look:
    """Images, as the model takes them: `make` gives the processor's tensors, whenever they are needed (they are large, and few are
    needed at a time); and the text that stands for each image in the prompt."""

    make: Callable[[], dict[str, Tensor]]
    placeholders: tuple[str, ...]

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.make()


def look(model: Model, images: Sequence[Image.Image]) -> Look:
    """Process images once, for all the questions that will be asked of them. Grey ones (mode L) become RGB here, but for a
    processor that says that it `takes_grey`."""
    if not images:
        return Look(dict, ())
    token, grey = model.processor.image_token, getattr(model.processor.image_processor, "takes_grey", False)
    made = model.processor(
        text=[token * len(images)], images=[i if grey else i.convert("RGB") for i in images], add_special_tokens=False,
        return_text_replacement_offsets=True,
    )  # fmt: skip
    replaced = made.pop("text_replacement_offsets")[0]
    made = made.convert_to_tensors("pt")  # not by the processor: some trip over the replacements, which are no tensors
    inputs = {k: _placed(v, model) for k, v in made.items() if k not in BY_TOKEN}
    return Look(lambda: inputs, tuple(r["replacement"] for r in replaced))


def _placed(value: Any, model: Model) -> Any:
    if isinstance(value, Tensor):
        return value.to(model.device, model.dtype if value.is_floating_point() else None)
    return value


def read(model: Model, sample: Sample, seen: Look, answer: str | None = None) -> Tokens:
    """The tokens of a sample's prompt, or of prompt and answer, with their groups."""
    text, spans = _render(model, sample, answer)
    text, spans = _expand(model, text, spans, seen.placeholders)
    begins = bool(model.tokenizer.bos_token) and model.tokenizer.bos_token in text
    made = model.tokenizer(text, add_special_tokens=not begins, return_offsets_mapping=True)
    same: dict[int, int] = {}
    ids = tuple(same.setdefault(i, i) for i in made["input_ids"])  # most are the image token: one number in memory, not hundreds
    groups: tuple[Group, ...] = tuple(
        "image" if i == model.image_token_id else _group(text, span, spans)
        for i, span in zip(ids, made["offset_mapping"], strict=True)
    )
    if seen.placeholders and "image" not in groups:
        raise BadModel(
            f"{model.name}: the prompt of sample {sample.id or '?'} holds no image token: the chat template drops images"
        )
    limit = getattr(model.text_config, "max_position_embeddings", None)
    if limit is not None and len(ids) > limit:
        raise BadData(f"sample {sample.id or '?'}: its prompt has {len(ids)} tokens, {model.name} reads at most {limit}")
    return Tokens(ids, groups, tuple(sys.intern(text) for text in model.tokenizer.convert_ids_to_tokens(list(ids))))


Span = tuple[int, int, Group]


def _group(text: str, token: tuple[int, int], spans: Sequence[Span]) -> Group:
    """The group of the span that a visible character of the token lies in, or the whole token where it shows none (a space between
    words is its writer's, one beside them the template's); between spans: the template's."""
    start, end = token
    visible = [i for i in range(start, end) if not text[i].isspace()]
    for low, high, group in spans:
        within = any(low <= i < high for i in visible) if visible else low <= start < end <= high
        if within:
            return group
    return "template"


Piece = tuple[str, Group] | None  # some words and their group, or an image's place


def _render(model: Model, sample: Sample, answer: str | None) -> tuple[str, list[Span]]:
    """The prompt as text, and the spans of it that are not the template's."""
    turns = _pieces(model, sample)
    if answer is not None:
        turns.append([(answer, "answer")])
    words = [piece for turn in turns for piece in turn if piece is not None]
    marks = iter(range(len(words)))
    marked = _apply(model, [[p and MARK.format(next(marks)) for p in turn] for turn in turns], answer is None)
    plain = _apply(model, [[p and p[0] for p in turn] for turn in turns], answer is None)
    return plain, _locate(model, marked, plain, words)


def _pieces(model: Model, sample: Sample) -> list[list[Piece]]:
    """Each turn's words and the places of the images: where the user wrote PLACE, or else all before the first words."""
    turns: list[list[Piece]] = []
    for k, turn in enumerate(sample.turns):
        if not turn.strip():
            raise BadData(f"sample {sample.id or '?'}: an empty question")
        chunks = turn.split(PLACE) if k % 2 == 0 else [turn]
        group: Group = "text" if k % 2 == 0 else "template"
        pieces: list[Piece] = [None] * (len(chunks) * 2 - 1)
        pieces[::2] = [(chunk.removeprefix("\n") if i else chunk, group) for i, chunk in enumerate(chunks)]
        turns.append([p for p in pieces if p is None or p[0]])
        for chunk in chunks:
            _refuse_control(model, chunk, sample)
    placed = sum(p is None for turn in turns for p in turn)
    if placed not in (0, len(sample.images)):
        raise BadData(f"sample {sample.id or '?'}: {len(sample.images)} images, but {placed} times {PLACE} in its question")
    if not placed:
        turns[0][:0] = [None] * len(sample.images)
    return turns


def _apply(model: Model, turns: Sequence[Sequence[str | None]], prompt_only: bool) -> str:
    template = getattr(model.processor, "chat_template", None) or TEMPLATES.get(model.family)
    if not template:
        raise BadModel(f"{model.name} has no chat template; add chat_template.jinja to its folder")
    said = []
    for k, turn in enumerate(turns):
        content = [{"type": "image"} if piece is None else {"type": "text", "text": piece} for piece in turn]
        said.append({"role": "user" if k % 2 == 0 else "assistant", "content": content})
    return model.processor.apply_chat_template(said, chat_template=template, tokenize=False, add_generation_prompt=prompt_only)


def _locate(model: Model, marked: str, plain: str, contents: list[tuple[str, Group]]) -> list[Span]:
    """Where each content stands in the plain prompt: literal pieces of the template must stand between them, and do."""
    pieces = re.split("\ue000\\d+\ue001", marked)
    spans: list[Span] = []
    at = len(pieces[0])
    matches = plain.startswith(pieces[0])
    for piece, (content, group) in zip(pieces[1:], contents, strict=False):
        said = next((c for c in (content, content.strip()) if plain.startswith(c + piece, at)), None)
        if said is None:
            matches = False
            break
        spans.append((at, at + len(said), group))
        at += len(said) + len(piece)
    if not matches or at != len(plain) or len(pieces) != len(contents) + 1:
        raise BadModel(f"{model.name}: its chat template rewrites the user's words, so their tokens cannot be told apart")
    return spans


def _expand(model: Model, text: str, spans: list[Span], placeholders: Sequence[str]) -> tuple[str, list[Span]]:
    """Put in the image tokens, as the processor would, and move the spans along."""
    token, parts = model.processor.image_token, text.split(model.processor.image_token)
    if len(parts) != len(placeholders) + 1:
        raise BadModel(f"{model.name}: {len(placeholders)} images given but the chat template makes room for {len(parts) - 1}")
    at, grown = 0, 0  # where each image token ends in the text, and by how much the text before it has grown
    ends: list[tuple[int, int]] = []
    for part, placeholder in zip(parts, placeholders, strict=False):
        at += len(part) + len(token)
        grown += len(placeholder) - len(token)
        ends.append((at, grown))
    pieces = [piece for pair in zip(parts, [*placeholders, ""], strict=True) for piece in pair]
    return "".join(pieces), [(a + _shift(ends, a), b + _shift(ends, a), group) for a, b, group in spans]


def _shift(ends: list[tuple[int, int]], at: int) -> int:
    return next((grown for end, grown in reversed(ends) if end <= at), 0)


def _refuse_control(model: Model, words: str, sample: Sample) -> None:
    """A control token among the words, which would be read as the template's."""
    for token in model.control_tokens:
        if token in words:
            raise BadData(f"sample {sample.id or '?'}: the question contains the control token {token!r}; take it out")


def as_batch(ids: Sequence[int], device: torch.device) -> Tensor:
    """Ids (T,) as the batch of one that a model takes, (1, T)."""
    return torch.tensor(ids, device=device).unsqueeze(0)
