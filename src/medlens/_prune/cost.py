"""What a model costs without some of its blocks: parameters, operations, bytes, seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

from medlens import hooks
from medlens.models.base import Model
from medlens.walk.cases import Prompt, arguments, cases
from medlens.walk.surgery import LinearMap, shortened

REPEATS = 15


@dataclass(frozen=True)
class Cost:
    """parameters: of the whole model (a map of width d has d * d + d). flops: of the decoder and its head for one prompt, a
    multiplication and an addition each. bytes: of the weights, in the type in which the model computes."""

    parameters: int
    flops: float
    bytes: int


def cost(model: Model, tokens: float, blocks: Sequence[int], maps: int = 0) -> Cost:
    """Without these blocks, with so many maps in their place. tokens: of a prompt, T.

    Operations, from shapes alone: of each block 2 T times the entries of its matrices, and 4 T^2 times the width of its heads
    together for attention (both products, every pair of tokens, masked or not); of a map 2 T d^2; of the head 2 d V for one next
    word. What leads to the blocks, the tower above all, stays what it was and is left out.
    """
    mapped, d = maps * model.width * (model.width + 1), model.width
    operations = sum(_operations(model, b, tokens) for b in range(model.depth) if b not in blocks)
    operations += 2 * tokens * d**2 * maps + 2 * model.head.weight.numel()  # pyright: ignore
    parameters = model.parameters - sum(_entries(model, b) for b in blocks) + mapped
    return Cost(parameters, operations, parameters * model.dtype.itemsize)


Cut = tuple[Sequence[int], Sequence[LinearMap] | None]  # blocks that go, and the maps in their place


def seconds(model: Model, prompt: Prompt, cuts: Sequence[Cut], repeats: int = REPEATS) -> list[float | None]:
    """Of each cut one forward of one prompt, image and tower included, with the blocks really gone: the median of so many. All take
    turns, so that whatever else the machine does meets them alike. None where the model is streamed, and waits for its disk."""
    if model.weights is not None:
        return [None] * len(cuts)
    called, taken = arguments(model, cases(model, [prompt])[0]), [list[float]() for _ in cuts]
    for _ in range(repeats):
        for (blocks, maps), of in zip(cuts, taken, strict=True):
            with shortened(model, blocks, maps) if blocks else nullcontext(), hooks.evaluation(model.module):
                began = time.perf_counter()
                said = model.module(**called, use_cache=False, logits_to_keep=1)
                float(said.logits[0, -1, 0])  # what a GPU is asked for is done when it is there
                of.append(time.perf_counter() - began)
    return [median(of) for of in taken]


def _entries(model: Model, block: int, matrices: bool = False) -> int:
    shapes = [parameter for parameter in model.blocks[block].parameters() if parameter.ndim > 1 or not matrices]
    return sum(parameter.numel() for parameter in shapes)


def _operations(model: Model, block: int, tokens: float) -> float:
    config = model.text_config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * tokens * _entries(model, block, matrices=True) + 4 * tokens**2 * config.num_attention_heads * width
