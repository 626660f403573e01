"""Saliency: which of an image's tokens speak for what is said. One method a file; each gives a number for every image token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medlens.errors import BadInput, BadModel
from medlens.models.base import Model
from medlens.saliency.asked import Asked
from medlens.saliency.attention import Choices as Choices
from medlens.saliency.attention import attention_maps
from medlens.saliency.baselines import baseline
from medlens.saliency.integrated import integrated_gradients
from medlens.saliency.occlusion import occlusion
from medlens.saliency.pixels import pixel_occlusion


class Method(NamedTuple):
    """by_block: it gives a map for each block. words: what it is, for a reader."""

    by_block: bool
    words: str


METHODS: dict[str, Method] = {
    "gradcam_attention": Method(True, "attention x its gradient, where positive, mean over heads, at one block"),
    "raw_attention": Method(True, "attention alone, mean over heads, at one block"),
    "relevance": Method(False, "attention x its gradient, where positive, rolled out through all blocks (Chefer 2021)"),
    "integrated_gradients": Method(False, "gradients of the image's embeddings, on the way from a blank image (Sundararajan 2017)"),
    "occlusion": Method(False, "what is lost when a token becomes a blank image's"),
    "pixel_occlusion": Method(False, "what is lost when a token's pixels are covered, on the picture, in front of the tower"),
    "centre": Method(False, "baseline: the nearer to the centre, the more"),
    "edges": Method(False, "baseline: the nearer to an edge, the more"),
    "random": Method(False, "baseline: drawn at random"),
    "uniform": Method(False, "baseline: everywhere alike"),
}
BASELINES = ("centre", "edges", "random", "uniform")
COMPLETE = 0.01  # by how much integrated gradients may miss what they must sum to

Tick = Callable[[], None]


class Said(NamedTuple):
    """What there is to be said of a map. sinks: of raw attention, for each of the layers, the image tokens that draw it whoever
    looks (see `medlens.measures.sinks`)."""

    note: str = ""
    sinks: tuple[tuple[int, ...], ...] = ()


Notes = dict[tuple[str, int], Said]


def maps(
    model: Model, asked: Sequence[Asked], methods: Sequence[str], *, layers: Sequence[int] | None = None,
    choices: Choices = Choices(), boxes: Sequence[np.ndarray] = (), nodes: int = 64, seed: int = 0, scratch: Path | None = None,  # noqa: B008
    notes: Notes | None = None, tick: Tick = lambda: None,
) -> dict[str, list[np.ndarray]]:  # fmt: skip
    """Of each method, in the order asked for, and of each asked: (tokens,), a number for each of the image's tokens; of methods by
    block (layers, tokens), a row for each of `layers`. All that attention and its gradients give comes from one way there and back
    for all of them.

    layers: blocks (default: all). boxes: of each asked where its tokens lie, (tokens, 4), which BASELINES and pixel_occlusion need.
    nodes: of integrated gradients. notes: filled with what there is to be said of a method's map, by method and number of the
    asked. `tick` is called for each asked and method, and for each case and block of the way there and back.
    Raises BadInput for a method or a block that is none; BadModel for a model without image tokens; NotFinite.
    """
    layers, found, notes = _checked(model, asked, methods, layers), dict[str, Any](), {} if notes is None else notes
    if {"gradcam_attention", "raw_attention", "relevance"} & set(methods):
        down_to = 0 if "relevance" in methods else min(layers)
        found |= attention_maps(model, asked, layers, choices, down_to, scratch, tick)
        notes |= {("raw_attention", k): Said(sinks=drawn) for k, drawn in enumerate(found.pop("sinks"))}
    for name in methods:
        if name in BASELINES:
            found[name] = [baseline(name, _box(name, boxes, k), seed + k) for k in range(len(asked))]
        elif name == "integrated_gradients":
            found[name] = [_integrated(model, one, nodes, notes, k, tick) for k, one in enumerate(asked)]
        elif name == "pixel_occlusion":
            found[name] = [
                _ticked(pixel_occlusion(model, one, _box(name, boxes, k)), tick) for k, one in enumerate(asked)
            ]  # fmt: skip
        elif name == "occlusion":
            found[name] = [_ticked(occlusion(model, one), tick) for one in asked]
    return {name: found[name] for name in methods}


def _box(name: str, boxes: Sequence[np.ndarray], k: int) -> np.ndarray:
    if not len(boxes):
        raise BadInput(f"{name} is a map of places: give the boxes of the tokens")
    return boxes[k]


def _integrated(model: Model, asked: Asked, nodes: int, notes: Notes, k: int, tick: Tick) -> np.ndarray:
    values, difference, error = integrated_gradients(model, asked, nodes)
    said = f"sums to within {100 * error:.2g} % of the difference between image and blank, {difference:.3g}, at {nodes} nodes"
    notes["integrated_gradients", k] = Said(said if error <= COMPLETE else f"not complete: {said}")
    return _ticked(values, tick)


def _ticked(values: np.ndarray, tick: Tick) -> np.ndarray:
    tick()
    return values


def _checked(model: Model, asked: Sequence[Asked], methods: Sequence[str], layers: Sequence[int] | None) -> list[int]:
    if unknown := [name for name in methods if name not in METHODS]:
        raise BadInput(f"methods are {', '.join(METHODS)}; got {unknown[0]}")
    chosen = list(range(model.depth)) if layers is None else list(layers)
    if wrong := [b for b in chosen if not 0 <= b < model.depth]:
        raise BadInput(f"{model.name} has blocks 0 to {model.depth - 1}; got layer {wrong[0]}")
    for one in asked:
        if not one.image:
            raise BadModel(f"{model.name}: sample {one.case.prompts[0].sample.id or '?'} has no image tokens to lay a map on")
    return chosen
