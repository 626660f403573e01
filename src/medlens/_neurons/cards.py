"""Cards: what is found out about single units of a word, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from medlens._neurons.concepts import HALVES, Concept
from medlens._neurons.find import Found
from medlens._neurons.heard import Heard
from medlens._neurons.look import Overlap, Seen, overlap, seen, threshold, true_cells, written
from medlens.errors import BadModel
from medlens.measures.units import domain_entropy
from medlens.models.base import Model
from medlens.walk.cases import Prompt
from medlens.walk.intervene import Unit
from medlens.walk.units import Names

SHOWN = 5  # images
PLAIN = 0.95  # quantile of a mask where there are no true ones
RANDOM = 20  # units of the same layer, whose masks are looked at too
LEVEL = 0.05
CHUNK = 64  # images that are read together

Tick = Callable[[], None]
Columns = dict[Unit, dict[str, Any]]


class Shown(NamedTuple):
    """An image, a unit's activations at its tokens, and from which on they are in its mask."""

    prompt: Prompt
    values: np.ndarray
    limit: float


@dataclass(frozen=True, eq=False)
class Reader:
    """All that cards are made from: a prompt of each image by half, and the domain of each."""

    model: Model
    found: Found
    names: Names
    prompts: Mapping[str, Sequence[Prompt]]
    domains: Mapping[str, str]  # of images
    draw: np.random.Generator

    def sign(self, word: str, unit: Unit) -> float:
        """1, where a unit is more active on images of which the word is true; else -1. From discovery images alone."""
        return 1.0 if float(self.found.active[word][unit]) >= 0 else -1.0

    def looked_at(self, concept: Concept, units: Sequence[Unit], tick: Tick) -> tuple[Columns, dict[Unit, list[Shown]]]:
        """Of each unit the columns of `cards` that the images give, and the images where it is most active."""
        drawn = {unit: self._random(unit, units) for unit in units}
        every = sorted({*units, *(other for of in drawn.values() for other in of)})
        signs = {unit: self.sign(concept.word, unit) for unit in every}
        of_half = {half: self._seen(half, every, signs, tick) for half in HALVES}
        true, why = self._true(concept)
        groups = [prompt.unit for prompt in self.prompts["test"]]
        rows: Columns = {}
        shown: dict[Unit, list[Shown]] = {}
        for unit in units:
            own: Overlap | None = None
            ratios: list[float] = []
            if true is not None:
                own = overlap(of_half["discovery"][unit], of_half["test"][unit], true, groups)
                ratios = [overlap(of_half["discovery"][o], of_half["test"][o], true, groups).ratio for o in drawn[unit]]
            limit = threshold(of_half["discovery"][unit].values, PLAIN) if own is None else own.threshold
            top = _top(of_half["test"][unit])
            rows[unit] = _columns(own, ratios, why) | self._domains(of_half["test"][unit]) | {
                "images": [_name(self.prompts["test"][k]) for k, _ in top], "patches": [at for _, at in top],
            }  # fmt: skip
            shown[unit] = [Shown(self.prompts["test"][k], of_half["test"][unit].values[k], limit) for k, _ in top]
        return rows, shown

    def _seen(self, half: str, units: Sequence[Unit], signs: Mapping[Unit, float], tick: Tick) -> dict[Unit, Seen]:
        """Some images at a time."""
        found = {unit: Seen([], []) for unit in units}
        for begin in range(0, len(self.prompts[half]), CHUNK):
            chunk = seen(self.model, self.prompts[half][begin : begin + CHUNK], units, signs, self.names, tick)
            for unit, more in chunk.items():
                found[unit].values.extend(more.values)
                found[unit].open.extend(more.open)
        return found

    def _true(self, concept: Concept) -> tuple[dict[str, dict[int, np.ndarray]] | None, str]:
        """The cells of the word's regions, by half; or why there are none."""
        try:
            found = {half: true_cells(self.model, self.prompts[half], concept.word) for half in HALVES}
        except BadModel as e:
            return None, str(e)
        if all(found.values()):
            return found, ""
        return None, f"no region of the images is named {concept.word!r}: masks are not judged"

    def _random(self, unit: Unit, units: Sequence[Unit]) -> list[Unit]:
        rest = [u for u in range(self.found.units) if (unit[0], u) not in units]
        return [(unit[0], int(u)) for u in self.draw.choice(rest, min(RANDOM, len(rest)), replace=False)]

    def _domains(self, test: Seen) -> dict[str, Any]:
        of_domain: dict[str, list[float]] = {}
        for prompt, gate in zip(self.prompts["test"], test.open, strict=True):
            if prompt.image in self.domains:
                of_domain.setdefault(self.domains[prompt.image], []).append(float(gate.mean()))
        names = sorted(of_domain)
        active = [float(np.mean(of_domain[name])) for name in names]
        entropy = float(domain_entropy(torch.tensor(active)[:, None])[0]) if len(names) > 1 else None
        return {"domains": names, "active": active, "entropy": entropy}


def card(
    reader: Reader, concept: Concept, unit: Unit, columns: Mapping[str, Any], heard: Heard | None, known: bool,
    zero: Mapping[str, Any], resample: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """A row of the table `cards`."""
    text = {} if heard is None else {"text": heard.own, "text_others": heard.others, "text_p": heard.p}
    row = {"concept": concept.word, "layer": unit[0], "unit": unit[1], **columns, **text}
    row |= written(reader.model, unit, reader.names)
    return row | {"verdict": verdict(known and does(zero), does(resample), heard is not None and heard.p <= LEVEL)}


def does(effect: Mapping[str, Any]) -> bool:
    """Whether a change lowers the log-odds: the interval lies below 0, and the units do more than random ones, at LEVEL."""
    high, p = effect.get("high"), effect.get("p")
    return high is not None and high < 0 and p is not None and p <= LEVEL


def verdict(causal: bool, image: bool, text: bool) -> str:
    """causal: ablating it lowers the log-odds of a word that the model knows from images. image: so does the activation that it has
    on another image. text: it is more active at the word, read, than at others."""
    if not causal:
        return "not causal"
    return {(True, True): "multimodal", (True, False): "visual only", (False, True): "textual only"}.get(
        (image, text), "neither image nor text"
    )


def _top(test: Seen) -> list[tuple[int, int]]:
    """The images with the largest activations, and the patch of each."""
    order = sorted(range(len(test.values)), key=lambda k: -float(test.values[k].max()))
    return [(k, int(test.values[k].argmax())) for k in order[:SHOWN]]


def _name(prompt: Prompt) -> str:
    return prompt.sample.image_id or prompt.image


def _columns(own: Overlap | None, ratios: Sequence[float], why: str) -> dict[str, Any]:
    if own is None:
        return {"quantile": PLAIN, "note": why}
    return {
        "iou": own.iou, "iou_best": own.best, "iou_ratio": own.ratio, "iou_low": own.interval.low, "iou_high": own.interval.high,
        "iou_random": float(np.mean(ratios)) if ratios else None, "quantile": own.quantile, "note": own.interval.note,
    }  # fmt: skip
