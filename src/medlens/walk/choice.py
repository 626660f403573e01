"""What the published study measured: of which samples which tokens. Its own choices, so that its figures can be compared with."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medlens.types import Tokens
from medlens.walk.cases import Prompt

EVERY = 3  # samples of which one gives its image tokens
SEQUENCES = 64  # samples whose whole sequences are "all"
SEED = 42  # of the draw of these
TOKENS = ("image", "text", "all")


def positions(tokens: Tokens, group: str) -> list[int]:
    """Positions of the study's groups in a prompt. text: the user's words and, behind the last of them, what closes the template
    ("[/INST]"); an answer belongs to no group."""
    end = min(tokens.where("answer"), default=len(tokens))
    if group == "all":
        return list(range(end))
    if group == "image":
        return [p for p in tokens.where("image") if p < end]
    words = [p for p in tokens.where("text") if p < end]
    closing = range(words[-1] + 1, end) if words else ()
    return [*words, *(p for p in closing if tokens.groups[p] == "template")]


@dataclass(frozen=True)
class Choice:
    """first: of each group, of each sample in it, how many rows of the group come before its own. total: rows of each group.
    again: of each group, the samples whose image an earlier one of the group has shown. context_of: of the samples that ask the
    question asked of most images, one an image, their number."""

    first: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: {group: {} for group in TOKENS})
    total: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))
    again: Mapping[str, frozenset[str]] = field(default_factory=lambda: dict.fromkeys(TOKENS, frozenset()))
    context_of: Mapping[str, int] = field(default_factory=dict)


def choice_of(prompts: Sequence[Prompt]) -> Choice:
    """Of all prompts of a study, in the order of the study (not of a share of them)."""
    drawn = random.Random(SEED).sample(range(len(prompts)), min(SEQUENCES, len(prompts)))
    taken = {"image": prompts[::EVERY], "text": prompts, "all": [prompts[i] for i in drawn]}
    first: dict[str, dict[str, int]] = {}
    total: dict[str, int] = {}
    again: dict[str, frozenset[str]] = {}
    for group, chosen in taken.items():
        first[group], total[group] = {}, 0
        shown: set[str] = set()
        repeated: set[str] = set()
        for prompt in chosen:
            first[group][prompt.sample.id] = total[group]
            total[group] += len(positions(prompt.tokens, group))
            if prompt.image in shown:
                repeated.add(prompt.sample.id)
            shown.add(prompt.image)
        again[group] = frozenset(repeated)
    return Choice(first, total, again, _contexts(prompts))


def _contexts(prompts: Sequence[Prompt]) -> dict[str, int]:
    """Samples that ask the question that is asked of most images, the first of each image."""
    asked: dict[tuple[str, ...], dict[str, str]] = {}
    for prompt in prompts:
        asked.setdefault(prompt.sample.turns, {}).setdefault(prompt.image, prompt.sample.id)
    most = max(asked.values(), key=len, default={})
    return {sample: number for number, sample in enumerate(most.values())}
