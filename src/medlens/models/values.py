"""What a token hands on to those that attend to it: its value, through the output projection of the attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from medlens.errors import BadModel
from medlens.models.base import Model


def handed_on(model: Model, block: int, state: Tensor) -> Tensor:
    """What block `block` adds, (T, d), at a place whose heads all attend to one token alone, for each row of `state` (T, d), the
    state in front of it: the OV circuit of all heads together (Elhage et al. 2021, A Mathematical Framework for Transformer
    Circuits). The block's weights must be in memory. Raises BadModel for a block whose attention is put together otherwise."""
    layer: Any = model.blocks[block]
    attention: Any = getattr(layer, "self_attn", None)
    parts: list[Any] = [
        getattr(attention, "v_proj", None),
        getattr(attention, "o_proj", None),
        getattr(layer, "input_layernorm", None),
    ]
    if any(part is None for part in parts):
        raise BadModel(
            f"{model.name}: block {block} has no self_attn.v_proj, o_proj and input_layernorm: its values cannot be read"
        )
    v_proj, o_proj, norm = parts
    values = v_proj(norm(state))
    size = attention.head_dim
    groups = o_proj.in_features // values.shape[-1]  # heads that share a value
    written = o_proj(values.unflatten(-1, (-1, size)).repeat_interleave(groups, 1).flatten(1))
    return (
        layer.post_attention_layernorm(written) if hasattr(layer, "pre_feedforward_layernorm") else written
    )  # Gemma norms it again
