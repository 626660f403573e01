"""What differs from family to family and cannot be read off the model itself. A family that is not named here is an ordinary one:
causal, one mask, logits straight from the head; it walks one question at a time, and the self-test at load has the last word."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

from medlens.errors import BadModel
from medlens.types import Group

# An image's rows do not depend on the question behind it, so questions on the same image can share them (see `walk.packing`).
SHARE_IMAGES = frozenset(
    ("llava", "llava_next", "llava_onevision", "gemma3", "idefics3", "smolvlm", "aya_vision", "internvl", "mistral3")
)

# Decoders whose masks can be made for such a pack, and which of their layers have a sliding window, where the configuration has
# one. ("none" matters: a Llama's configuration may carry a window that its code never looks at.) With any other decoder every
# question walks alone.
Window = Literal["none", "all layers", "by layer"]
WINDOWS: dict[str, Window] = {
    "llama": "none", "gemma": "none", "cohere": "none", "mistral": "all layers", "qwen2": "by layer", "qwen3": "by layer",
    "gemma2": "by layer", "gemma3_text": "by layer", "cohere2": "by layer",
}  # fmt: skip

# The tokens of one image see each other both ways.
SEE_WHOLE_IMAGE = frozenset({"gemma3"})

# The model is told what each token is: 1 for an image's (paligemma: 0 for all that sees both ways, which is what is asked; 1 for
# what is answered).
TOKEN_TYPES = {"gemma3": "token_type_ids", "paligemma": "token_type_ids"} | dict.fromkeys(
    ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "mm_token_type_ids"
)
TYPE_NAMES = ("token_type_ids", "mm_token_type_ids")

# Logits go through c tanh(x / c) after the head, where the text configuration has such a c.
CAPPED = frozenset({"paligemma"})

# Families without a chat template of their own: what their processor makes of a question (and, of an answer, in training).
TEMPLATES = {
    "paligemma": (
        "{% for m in messages %}{% if m['role'] == 'user' %}"
        "{% set left = namespace(images=m['content'] | selectattr('type', 'equalto', 'image') | list | length) %}"
        "{% if not left.images %}{{ bos_token }}{% endif %}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% set left.images = left.images - 1 %}"
        "{% if not left.images %}{{ bos_token }}{% endif %}{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ '\n' }}"
        "{% else %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
    )
}


def token_types(family: str, groups: Sequence[Group]) -> dict[str, list[int]]:
    """What the family's processor says of each token, by the name of the argument; nothing for most families."""
    if family not in TOKEN_TYPES:
        return {}
    if family == "paligemma":
        answered = next((i for i, g in enumerate(groups) if g == "answer"), len(groups))
        return {"token_type_ids": [int(i >= answered) for i in range(len(groups))]}
    return {TOKEN_TYPES[family]: [int(g == "image") for g in groups]}


def check_family(name: str, module: Any) -> None:
    """Raise BadModel for a family that is to be told the tokens' types in a way that is not known here: it would be read wrongly,
    and nothing would show it."""
    family, taken = module.config.model_type, inspect.signature(module.forward).parameters
    if family not in TOKEN_TYPES and (asked := [t for t in TYPE_NAMES if t in taken]):
        raise BadModel(f"{name}: {family} reads {asked[0]}, whose meaning there is not known here; this family cannot be read yet")
