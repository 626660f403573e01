"""Blocks in eight bits: the linear layers of a decoder's blocks as int8 with one scale an output channel, all else float32.

Round to nearest, symmetric, no calibration data (W8A16 of Dettmers et al. 2022 without its outlier columns; here activations are
float32). Products are made with the dequantised weights, so that gradients reach the activations as ever. A quarter of the memory
of float32, and no faster: what it is for is a model that would not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medlens.budget import give_back
from medlens.errors import BadModel
from medlens.models.base import Model

LARGEST = 127  # -128 is not used, so that the grid is symmetric
SAID = "int8, one scale an output channel (linear layers of the decoder's blocks); all else float32"


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 (out, in) and float32 scales (out, 1) of a weight (out, in): `int8 * scale` is within scale / 2 of each entry, and
    scale is a row's largest absolute entry over 127."""
    rows = weight.detach().float()
    scale = (rows.abs().amax(1, keepdim=True) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)  # a row of zeros stays one
    return (rows / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def rounded(weight: Tensor) -> Tensor:
    """The float32 weight (out, in) that its int8 stands for."""
    small, scale = quantise(weight)
    return small.float().mul_(scale)


class QuantisedLinear(nn.Linear):
    """A linear layer that keeps its weight in int8; `weight` is made anew, in float32, whenever it is asked for."""

    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would make a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        small, scale = quantise(linear.weight)
        self.small = nn.Parameter(small, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(out, in), float32."""
        return self.small.float().mul_(self.scale)  # in place: it takes no more memory than one weight


def in_int8(model: Model, memory: int) -> Model:
    """The model with its blocks in eight bits. One that is streamed is brought into memory a block at a time, each quantised before
    the next is read, if it needs no more than `memory` bytes so; else it stays streamed, and its weights are rounded to their int8
    as they are read. The results are the same. Raises BadModel where the blocks have no linear layers."""
    names = {b: [name for name, _ in _linears(block)] for b, block in enumerate(model.blocks)}
    if not all(names.values()):
        raise BadModel(f"{model.name}: a {type(model.blocks[0]).__name__} has no linear layers that could be int8")
    said = {**model.origin, "weights": SAID}
    weights = model.weights
    if weights is None:
        for block in model.blocks:
            quantise_block(block)
        return replace(model, origin=said)
    if _bytes(model) > memory:
        at = {module: name for name, module in model.module.named_modules()}
        for b, block in enumerate(model.blocks):
            for name in names[b]:
                whole = f"{at[block]}.{name}.weight"
                weights.edits[whole] = partial(_rounded_after, weights.edits.get(whole))
        return replace(model, origin=said)
    for b, block in enumerate(model.blocks):
        weights.bring(model.names_of[b])
        quantise_block(block)
        give_back()  # of its float32, before the next one is read
    for part in ("around", "norm", "head"):
        weights.bring(model.names_of[part])
    model.module.tie_weights()  # they were read one by one
    return replace(model, origin=said, weights=None)


def quantise_block(block: nn.Module) -> None:
    """Put quantised layers in the place of a block's linear ones."""
    for name, linear in _linears(block):
        block.set_submodule(name, QuantisedLinear(linear))


def named_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a module as its state has them, of quantised layers the weight that their int8 stands for: the same
    whether a model is streamed or not. One at a time."""
    layers = {f"{name}.": layer for name, layer in module.named_modules() if isinstance(layer, QuantisedLinear)}
    for name, tensor in module.state_dict().items():
        path, _, leaf = name.rpartition(".")
        layer = layers.get(f"{path}.")
        if layer is None or leaf == "bias":
            yield name, tensor
        elif leaf == "small":
            yield f"{path}.weight", layer.weight


def as_floats(module: Any) -> None:
    """Put plain linear layers, their weights on the meta device, in the place of quantised ones: for weights of another kind."""
    for path, layer in [(path, layer) for path, layer in module.named_modules() if isinstance(layer, QuantisedLinear)]:
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta").requires_grad_(False)
        plain.bias = layer.bias
        module.set_submodule(path, plain)


def _linears(block: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in block.named_modules() if isinstance(part, nn.Linear)]


def _bytes(model: Model) -> int:
    """Of the whole model in memory, its blocks in eight bits."""
    whole = sum(p.numel() for p in model.module.parameters()) * 4
    linears = [linear for block in model.blocks for _, linear in _linears(block)]
    return whole - sum(3 * linear.weight.numel() - 4 * linear.out_features for linear in linears)


def _rounded_after(edit: Any, weight: Tensor) -> Tensor:
    return rounded(weight if edit is None else edit(weight))
