"""Saliency: which of an image's tokens speak for what is said. One method a file; each gives a number for every image token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medlens.errors import BadInput, BadModel
from medlens.models.base import Model
from medlens.saliency.asked import Asked
from medlens.saliency.attention import Choices, attention_maps
from medlens.saliency.baselines import baseline
from medlens.saliency.integrated import integrated_gradients
from medlens.saliency.occlusion import occlusion

BY_BLOCK = ("gradcam_attention", "raw_attention")
METHODS = (*BY_BLOCK, "relevance", "integrated_gradients", "occlusion")
BASELINES = ("centre", "edges", "random", "uniform")
COMPLETE = 0.01  # by how much integrated gradients may miss what they must sum to

Tick = Callable[[], None]


class Maps(NamedTuple):
    """Of one method and one asked. values: (tokens,), or of methods BY_BLOCK (layers, tokens), a row for each of the layers asked
    for. note: what there is to be said of it; empty for nothing."""

    values: np.ndarray
    note: str = ""


def maps(
    model: Model, asked: Sequence[Asked], methods: Sequence[str], *, layers: Sequence[int] | None = None,
    choices: Choices = Choices(), boxes: Sequence[np.ndarray] = (), nodes: int = 64, seed: int = 0, scratch: Path | None = None,  # noqa: B008
    tick: Tick = lambda: None,
) -> dict[str, list[Maps]]:  # fmt: skip
    """Of each method, in the order asked for, the maps of each asked. All that attention and its gradients give comes from one way
    there and back for all of them.

    layers: blocks (default: all). boxes: of each asked where its tokens lie (BASELINES need it). nodes: of integrated gradients.
    `tick` is called for each asked and method, and for each case and block of the way there and back.
    Raises BadInput for a method or a block that is none; BadModel for a model without image tokens; NotFinite.
    """
    layers = _checked(model, asked, methods, layers)
    found: dict[str, list[Maps]] = {}
    if {*BY_BLOCK, "relevance"} & set(methods):
        down_to = 0 if "relevance" in methods else min(layers)
        made = attention_maps(model, asked, layers, choices, down_to, scratch, tick)
        found |= {name: [Maps(values) for values in of] for name, of in made.items()}
    for name in methods:
        if name not in found:
            found[name] = [_one(model, name, one, boxes[k] if boxes else None, nodes, seed + k, tick) for k, one in enumerate(asked)]
    return {name: found[name] for name in methods}


def _one(model: Model, name: str, asked: Asked, boxes: np.ndarray | None, nodes: int, seed: int, tick: Tick) -> Maps:
    if name in BASELINES:
        if boxes is None:
            raise BadInput(f"{name} is a map of places: give the boxes of the tokens")
        return Maps(baseline(name, boxes, seed))
    if name == "occlusion":
        made = Maps(occlusion(model, asked))
    else:
        values, difference, error = integrated_gradients(model, asked, nodes)
        said = f"sums to within {100 * error:.2g} % of the difference between image and blank ({difference:.3g})"
        made = Maps(values, said if error <= COMPLETE else f"NOT COMPLETE at {nodes} nodes: {said}")
    tick()
    return made


def _checked(model: Model, asked: Sequence[Asked], methods: Sequence[str], layers: Sequence[int] | None) -> list[int]:
    if unknown := [name for name in methods if name not in (*METHODS, *BASELINES)]:
        raise BadInput(f"methods are {', '.join((*METHODS, *BASELINES))}; got {unknown[0]}")
    chosen = list(range(model.depth)) if layers is None else list(layers)
    if wrong := [b for b in chosen if not 0 <= b < model.depth]:
        raise BadInput(f"{model.name} has blocks 0 to {model.depth - 1}; got layer {wrong[0]}")
    for one in asked:
        if not one.image:
            raise BadModel(f"{model.name}: sample {one.case.prompts[0].sample.id or '?'} has no image tokens to lay a map on")
    return chosen
