"""Maps from attention and its gradients: all of them, at every block, from one way back.

`gradcam_attention`: mean over heads of relu(gradient x attention), at one block. `relevance`: R = I, then block by block
R += mean over heads of relu(gradient x attention) @ R (Chefer, Gur and Wolf 2021, Generic Attention-model Explainability, eq. 5 and
6). `raw_attention`: the mean over heads of the attention alone. Of each, one row (who looks) at the image's places (what at).
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medlens import hooks
from medlens.measures.sinks import sinks
from medlens.models.base import Model
from medlens.saliency.asked import Asked
from medlens.walk.cases import Case
from medlens.walk.reverse import Traced, reverse
from medlens.walk.room import Files
from medlens.walk.target import Aim

Tick = Callable[[], None]


@dataclass(frozen=True)
class Choices:
    """What the published study chose otherwise, each to be switched on alone. closed: the answer that was begun is closed by the
    template, and the logits are read behind its end. every_logit: the target is the sum of all logits. maximum: over heads, of
    attention and of gradient, before their product (instead of the mean after it). signed: no relu. stretched: the map is laid on
    the image as if nothing had been padded or cropped. (`closed` and `every_logit` make the target, `stretched` the picture.)"""

    closed: bool = False
    every_logit: bool = False
    maximum: bool = False
    signed: bool = False
    stretched: bool = False

    @classmethod
    def published(cls) -> Choices:
        """All of them."""
        return cls(True, True, True, True, True)

    @property
    def named(self) -> list[str]:
        """Those that are switched on."""
        return [name for name, on in vars(self).items() if on]


def weighted(attention: Tensor, gradient: Tensor, choices: Choices = Choices()) -> Tensor:
    """(T, T) from attention weights and their gradients, (heads, T, T) each."""
    if choices.maximum:
        product = attention.max(0).values * gradient.max(0).values
        return product if choices.signed else product.clamp(min=0)
    product = attention * gradient
    return (product if choices.signed else product.clamp(min=0)).mean(0)


class Maps:
    """A tracer that makes the three maps of many askeds on one way back. relevance is carried as one row, from the last block to
    the first: row of R = e (I + A of the last block) ... (I + A of the first)."""

    def __init__(self, asked: Sequence[Asked], layers: Sequence[int], choices: Choices) -> None:
        self.layers, self.choices = set(layers), choices
        self.of: dict[tuple[int, Aim], list[int]] = defaultdict(list)
        for k, one in enumerate(asked):
            self.of[id(one.case), one.target].append(k)
        self.asked = asked
        self.gradcam: dict[tuple[int, int], np.ndarray] = {}  # by number and block
        self.raw: dict[tuple[int, int], np.ndarray] = {}
        self.sinks: dict[tuple[int, int], tuple[int, ...]] = {}
        self.rows: dict[int, Tensor] = {}

    def begin(self, case: Case, target: Aim, value: float, state: Tensor, gradient: Tensor) -> None:
        for k in self.of[id(case), target]:
            self.rows[k] = torch.zeros(len(state), dtype=torch.float64, device=state.device)
            self.rows[k][self.asked[k].reading] = 1.0

    def inside(self, block: int, module: nn.Module) -> AbstractContextManager[list[Tensor]]:
        return hooks.attentions_of(module)

    def visit(self, block: int, case: Case, target: Aim, state: Tensor, gradient: Tensor, traced: list[Traced]) -> None:
        attention, slope = (part[0].double() for part in traced[0])
        relevant = weighted(attention, slope)
        chosen = relevant if self.choices == Choices() else weighted(attention, slope, self.choices)
        for k in self.of[id(case), target]:
            one, row = self.asked[k], self.rows[k]
            self.rows[k] = row + row @ relevant
            if block in self.layers:
                self.gradcam[k, block] = _plain(chosen[one.reading, one.image])
                looks = attention.mean(0)[:, one.image]
                self.raw[k, block] = _plain(looks[one.reading])
                self.sinks[k, block] = tuple(sinks(looks[max(one.image) + 1 :]).nonzero()[:, 0].tolist())

    def leave(self, block: int) -> None: ...


def attention_maps(
    model: Model, asked: Sequence[Asked], layers: Sequence[int], choices: Choices, down_to: int, scratch: Path | None, tick: Tick
) -> dict[str, list[Any]]:
    """The three maps of each asked: gradcam_attention and raw_attention (layers, tokens), relevance (tokens); and of each layer the
    tokens that are sinks. down_to: the block that the way back ends at; relevance is whole at 0 only. Raises what `walk.reverse`
    raises."""
    walkers = list({id(one.case): one.case for one in asked}.values())
    aims = [list(dict.fromkeys(one.target for one in asked if one.case is case)) for case in walkers]
    tracer = Maps(asked, layers, choices)
    with hooks.attention(model.module, "eager"), tempfile.TemporaryDirectory(dir=scratch) as folder:
        lengths = [len(case.pack.ids) for case in walkers]
        room = Files(Path(folder), lengths, model.width, model.dtype, model.device, kept_from=down_to)
        reverse(model, walkers, aims, [tracer], room, tick)
    each = range(len(asked))
    return {
        "gradcam_attention": [np.stack([tracer.gradcam[k, b] for b in layers]) for k in each],
        "raw_attention": [np.stack([tracer.raw[k, b] for b in layers]) for k in each],
        "relevance": [_plain(tracer.rows[k][asked[k].image]) for k in each],
        "sinks": [tuple(tracer.sinks[k, b] for b in layers) for k in each],
    }


def _plain(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
