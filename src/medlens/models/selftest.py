"""What every model must pass when it is loaded: that we read it where transformers does, and that it looks at the image at all."""

from __future__ import annotations

from dataclasses import dataclass

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

    head(norm(raw last state)) = logits; blocks' outputs = transformers' hidden states; what enters a block is what left the one
    before it, and what is added there whatever that was (the walk relies on it); attention rows sum to 1. A model whose
    logits are the same for two different images is not refused: `image_effect` 0 says that it is image-blind.
    """
    size = 64
    dark, light = (Image.fromarray(_gradient(size, flip).numpy()).convert("RGB") for flip in (False, True))
    seen, other = _run(model, dark), _run(model, light).logits
    with torch.no_grad(), model.here("norm", "head"):
        ours = model.unembed(model.norm(seen.entered[-1]))
    expected = [left if added is None else left + added for left, added in zip(seen.left, seen.added, strict=True)]
    found = {
        "logits": _relative(ours, seen.logits),
        "hidden_states": max((_relative(a, b) for a, b in zip(seen.left[:-1], seen.states[1:-1], strict=True)), default=0.0),
        "between_blocks": max(_relative(a, b) for a, b in zip(expected, seen.entered[1:], strict=True)),
        "attention_rows": max((float((a.sum(-1) - 1).abs().max()) for a in seen.attentions), default=float("nan")),
        "image_effect": float((other - seen.logits).abs().max()) if other.shape == seen.logits.shape else float("inf"),
    }
    allowed = TOLERANCE.get(model.dtype, TOLERANCE[torch.float32])
    for name in ("logits", "hidden_states", "between_blocks", "attention_rows"):
        if not found[name] <= allowed:
            raise BadModel(f"{model.name} failed its self-test: {name} differ by {found[name]:.1e} (allowed {allowed:.0e})")
    return found


@dataclass(frozen=True)
class _Seen:
    """One forward: what transformers returns, what entered each block and the norm, what left each block, and what is added in
    between when the blocks themselves return zeros."""

    states: list[Tensor]
    logits: Tensor
    attentions: list[Tensor]
    entered: list[Tensor]
    left: list[Tensor]
    added: list[Tensor | None]


def _run(model: Model, image: Image.Image) -> _Seen:
    sample = Sample(image=image, question="is there a pathology on the image ?", id="self-test")
    seen = look(model, [image])
    tokens = read(model, sample, seen)
    ids = as_batch(tokens.ids, model.device)
    types = {name: as_batch(of_each, model.device) for name, of_each in token_types(model.family, tokens.groups).items()}
    called = {"input_ids": ids, **types, **seen.inputs, "use_cache": False}
    parts = [*model.blocks, model.norm]
    with model.whole(), hooks.evaluation(model.module), hooks.attention(model.module, "eager"):
        with hooks.inputs_of_each(parts) as entered, hooks.outputs_of_each(model.blocks) as left:
            out = model.module(**called, output_hidden_states=True, output_attentions=True)
        with hooks.stand_ins(model.decoder) as standing, hooks.inputs_of(model.norm) as into_norm:
            model.module(**called)
    added = [*(s.entered for s in standing[1:]), into_norm[-1]]
    return _Seen(list(out.hidden_states), out.logits, list(out.attentions or ()), entered, left, added)


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1))


def _gradient(size: int, flip: bool) -> Tensor:
    ramp = torch.linspace(0, 255, size).to(torch.uint8).expand(size, size)
    return ramp.flip(1).contiguous() if flip else ramp.contiguous()
