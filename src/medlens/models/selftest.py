"""What every model must pass when it is loaded: that we read it where transformers does, and that it looks at the image at all."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from medlens import hooks
from medlens.errors import BadModel
from medlens.models.base import Model
from medlens.models.families import token_types
from medlens.models.prompt import as_batch, look, read
from medlens.types import Sample

TOLERANCE = {
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}  # of the largest entry: what rounding leaves, with room


def check_weights(model: Model) -> None:
    """Raise BadModel for a NaN or infinity in any weight, naming the tensor."""
    for name, weight in model.module.state_dict().items():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise BadModel(f"{model.name}: weight {name} holds a NaN or infinity; the file is damaged")


def self_test(model: Model) -> dict[str, float]:
    """Run two different images once and compare. Returns what was found (relative differences; `image_effect` is absolute).

    head(norm(raw last state)) = logits; blocks' outputs = transformers' hidden states; attention rows sum to 1. A model whose
    logits are the same for two different images is not refused: `image_effect` 0 says that it is image-blind.
    """
    size = 64
    dark, light = (Image.fromarray(_gradient(size, flip).numpy()).convert("RGB") for flip in (False, True))
    states, raw, logits, attentions, seen_by_hooks = _run(model, dark)
    other = _run(model, light)[2]
    with torch.no_grad():
        ours = model.unembed(model.norm(raw))
    found = {
        "logits": _relative(ours, logits),
        "hidden_states": max(_relative(a, b) for a, b in zip(seen_by_hooks[:-1], states[1:-1], strict=True)),
        "attention_rows": max((float((a.sum(-1) - 1).abs().max()) for a in attentions), default=float("nan")),
        "image_effect": float((other - logits).abs().max()) if other.shape == logits.shape else float("inf"),
    }
    allowed = TOLERANCE.get(model.dtype, TOLERANCE[torch.float32])
    for name in ("logits", "hidden_states", "attention_rows"):
        if not found[name] <= allowed:
            raise BadModel(f"{model.name} failed its self-test: {name} differ by {found[name]:.1e} (allowed {allowed:.0e})")
    return found


def _run(model: Model, image: Image.Image) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor], list[Tensor]]:
    sample = Sample(image=image, question="is there a pathology on the image ?", id="self-test")
    seen = look(model, [image])
    tokens = read(model, sample, seen)
    ids = as_batch(tokens.ids, model.device)
    types = {name: as_batch(of_each, model.device) for name, of_each in token_types(model.family, tokens.groups).items()}
    with (
        hooks.evaluation(model.module),
        hooks.attention(model.module, "eager"),
        hooks.inputs_of(model.norm) as into_norm,
        hooks.outputs_of_each(model.blocks) as after_blocks,
    ):
        out = model.module(
            input_ids=ids, **types, **seen.inputs, output_hidden_states=True, output_attentions=True, use_cache=False
        )
    return list(out.hidden_states), into_norm[-1], out.logits, list(out.attentions or ()), after_blocks


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1))


def _gradient(size: int, flip: bool) -> Tensor:
    ramp = torch.linspace(0, 255, size).to(torch.uint8).expand(size, size)
    return ramp.flip(1).contiguous() if flip else ramp.contiguous()
