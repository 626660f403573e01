"""Read: what a unit writes, and on which patches of images it is active; its masks beside true ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from medlens import hooks
from medlens.measures.overlap import best_iou, iou
from medlens.models.base import Model
from medlens.models.frame import covered
from medlens.stats.intervals import Interval, jackknife
from medlens.types import Value
from medlens.walk.cases import Prompt, cases
from medlens.walk.forward import walk
from medlens.walk.intervene import Unit, by_block, units_noted
from medlens.walk.units import Names, part_of, words_written

WRITTEN = 10  # words that a unit raises most, and lowers most
QUANTILES = (0.9, 0.95, 0.98, 0.99, 0.995)  # of a unit's activations at patches: from which on a patch is in its mask


class Seen(NamedTuple):
    """Of a unit, of each image: its activations at the image's tokens, (tokens), signed so that larger is more like the word; and
    whether its gate is open there."""

    values: list[np.ndarray]
    open: list[np.ndarray]


def written(model: Model, unit: Unit, names: Names) -> dict[str, list[str]]:
    """The words that a unit raises most when it is on, and lowers most, with the final norm's weight folded in."""
    block, number = unit
    [(most, least)] = words_written(model, block, [number], WRITTEN, names)
    return {"raises": most, "lowers": least}


def seen(
    model: Model, prompts: Sequence[Prompt], units: Sequence[Unit], signs: Mapping[Unit, float], names: Names,
    tick: Callable[[], None],
) -> dict[Unit, Seen]:  # fmt: skip
    """One walk of these prompts, one of each image."""
    laid = [cases(model, [prompt])[0] for prompt in prompts]
    image = [[i for i, g in enumerate(case.groups) if g == "image"] for case in laid]
    own = by_block(model, units, names.down)
    with ExitStack() as stack:
        noted = stack.enter_context(units_noted(model, units, names.down))
        gates = {b: stack.enter_context(_gate(model, b, of, names)) for b, of in own.items()}
        walk(model, laid, [], tick)
    found = {}
    for block, of in own.items():
        for k, unit in enumerate(of):
            values = [signs[block, unit] * _plain(a[i, k]) for a, i in zip(noted[block], image, strict=True)]
            found[block, unit] = Seen(values, [_plain(a[i, k]) > 0 for a, i in zip(gates[block], image, strict=True)])
    return found


def _gate(model: Model, block: int, units: list[int], names: Names):
    return hooks.outputs_of_each([part_of(model, model.blocks[block], names.gate)], lambda a: a[0][:, units].clone())


def _plain(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


@dataclass(frozen=True)
class Overlap:
    """Of a unit's masks with true ones, on test images: mean IoU over the mean of the best that cells can reach. quantile: of its
    activations on discovery images, above which a patch is in its mask: the one with the best overlap there."""

    iou: float
    best: float
    ratio: float
    interval: Interval
    quantile: float
    threshold: float
    images: int


def threshold(seen: Sequence[np.ndarray], quantile: float) -> float:
    return float(np.quantile(np.concatenate(seen), quantile))


def overlap(
    discovery: Seen, test: Seen, true: Mapping[str, Mapping[int, np.ndarray]], groups: Sequence[str]
) -> Overlap:  # fmt: skip
    """true: of each half the shares of cells that the word's region covers, by number of the image. groups: of each test image,
    with which others it is left out when the interval is made."""
    tried = {q: threshold(discovery.values, q) for q in QUANTILES}
    scored = {q: np.mean([iou(discovery.values[k] > t, of) for k, of in true["discovery"].items()]) for q, t in tried.items()}
    quantile = max(scored, key=lambda q: scored[q])
    pairs = [(groups[k], iou(test.values[k] > tried[quantile], of), best_iou(of)) for k, of in true["test"].items()]

    def ratio(left: str | None) -> Value:
        kept = [(own, best) for group, own, best in pairs if group != left]
        return Value(sum(own for own, _ in kept) / sum(best for _, best in kept), len(kept))

    names = list(dict.fromkeys(group for group, *_ in pairs))
    interval = jackknife(ratio(None), [ratio(name) for name in names] if len(names) > 1 else [])
    own, best = (float(np.mean(of)) for of in ([own for _, own, _ in pairs], [best for *_, best in pairs]))
    return Overlap(own, best, own / best, interval, quantile, tried[quantile], len(pairs))


def true_cells(model: Model, prompts: Sequence[Prompt], word: str) -> dict[int, np.ndarray]:
    """By number of the image, how much of each cell the regions of this name cover; of images that have one large enough to be
    seen. Raises BadModel where image tokens are no grid."""
    found = {}
    for k, prompt in enumerate(prompts):
        masks = [region.array() for region in prompt.sample.regions if region.name.casefold() == word.casefold()]
        if masks and (shares := covered(model, np.any(masks, axis=0), prompt.tokens.groups.count("image"))).any():
            found[k] = shares
    return found
