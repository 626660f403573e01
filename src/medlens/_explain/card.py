"""The report card of maps: what speaks for trusting each of them, and what against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from medlens import saliency
from medlens._gate import Gate
from medlens.measures.faithfulness import area, rank_correlation, schedule
from medlens.measures.localization import covered_shares, energy, iou_ratio, pointing
from medlens.models.base import Model
from medlens.models.null import reinitialised
from medlens.models.prompt import look
from medlens.saliency.asked import Asked
from medlens.saliency.baselines import baseline
from medlens.saliency.pixels import covered, mean_colour, pixels_of, values_on
from medlens.types import Heatmap, Region
from medlens.walk.cases import Prompt, cases
from medlens.walk.target import Aim

INFILLS = ("blur", "mean", "noise")
STEPS, ORDERS = 8, 5  # of deletion and insertion; random orders beside each map
BETTER = 4  # of the six curves, that must beat every random order
ALIKE = 0.5  # rank correlation: below it two maps are different, from it on the same
NOISE, NOISY = 5.0, 2  # levels of 255 that are added to the image, and how often
NODES = 16  # of integrated gradients, wherever a map is made once more
SHARE = 0.1  # of the tokens, whose IoU is taken

Tick = Callable[[], None]


class Check(NamedTuple):
    """One line of a card, as the table `checks` says. passed: None where it is no part of the verdict."""

    method: str
    check: str
    of: str
    value: float
    reference: float | None
    passed: bool | None


class Card(NamedTuple):
    """Of one map. verdict: "trust", or "do not trust" with the reasons in `why`. said: what regions say, where there are any."""

    method: str
    verdict: str
    why: tuple[str, ...]
    said: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, eq=False)
class Subject:
    """What the maps are of."""

    model: Model
    prompt: Prompt
    aim: Aim
    image: Image.Image
    regions: Sequence[Region]
    layer: int
    choices: saliency.Choices
    seed: int
    scratch: Path | None = None


def cards(subject: Subject, maps: Sequence[Heatmap], gate: Gate, tick: Tick = lambda: None) -> list[Card]:
    """A card for each map. The rule of the verdict: a map is trusted where the answer rests on the image (`gate`); taking away
    what it marks first, or putting it back first, changes the target faster than every one of ORDERS random orders in at least
    BETTER of six curves (deletion and insertion, each under three infills); it is another map when the model's weights are drawn
    anew; and it stays the same under slight noise. Regions of the sample are shown beside it and have no say: a map may be true to
    a model that looks at the wrong place.

    Sources: Petsiuk et al. 2018, RISE (deletion, insertion); Adebayo et al. 2018, Sanity Checks for Saliency Maps.
    """
    curves = _curves(subject, maps, tick)
    drawn = _again(replace_model(subject), subject.image, maps)
    tick()
    noisy = []
    for k in range(NOISY):
        noisy.append(_again(subject, _noised(subject.image, subject.seed + k), maps))
        tick()
    found = []
    for heatmap in maps:
        others = [rank_correlation(heatmap.values, m.values) for m in maps if m.method != heatmap.method]
        same = rank_correlation(heatmap.values, drawn[heatmap.method])
        kept = float(np.mean([rank_correlation(heatmap.values, of[heatmap.method]) for of in noisy]))
        checks = [
            *curves[heatmap.method],
            Check(heatmap.method, "weights drawn anew", "rank correlation", same, ALIKE, same < ALIKE),
            Check(heatmap.method, "slight noise", "rank correlation", kept, ALIKE, kept >= ALIKE),
            *([Check(heatmap.method, "other methods", "rank correlation", float(np.mean(others)), None, None)] if others else []),
            *_against_regions(heatmap, subject),
        ]
        found.append(_judged(heatmap.method, checks, gate))
    return found


def cost(maps: int) -> int:
    """How many ticks."""
    return len(INFILLS) * (maps + ORDERS) + 1 + NOISY


def _judged(method: str, checks: Sequence[Check], gate: Gate) -> Card:
    why = [] if gate.rests else [gate.words]
    curves = [c for c in checks if c.check in ("deletion", "insertion")]
    better = sum(bool(c.passed) for c in curves)
    if better < BETTER:
        why.append(f"taking away what it marks matters no more than random order ({better} of {len(curves)} curves)")
    for check, fault in (("weights drawn anew", "it stays the same when the weights are drawn anew"),
                         ("slight noise", "slight noise changes it")):  # fmt: skip
        why += [f"{fault} (rank correlation {c.value:.2f})" for c in checks if c.check == check and not c.passed]
    energies = sorted(((c.value, c.of) for c in checks if c.check == "energy"), reverse=True)
    said = ", ".join(f"{name} {100 * value:.0f} %" for value, name in energies if np.isfinite(value))
    said = f"its energy lies on: {said}" if said else ""
    return Card(method, "do not trust" if why else "trust", tuple(why), said, tuple(checks))


def replace_model(subject: Subject) -> Subject:
    """The same with weights drawn anew."""
    return replace(subject, model=reinitialised(subject.model, subject.seed))


# ---- deletion and insertion


def _curves(subject: Subject, maps: Sequence[Heatmap], tick: Tick) -> dict[str, list[Check]]:
    """Of each map six checks: the areas, beside the best that a random order reaches."""
    count, draw = len(maps[0].values), np.random.default_rng(subject.seed)
    orders = {m.method: np.argsort(-m.values, kind="stable") for m in maps}
    orders |= {f"random {k}": draw.permutation(count) for k in range(ORDERS)}
    inside = pixels_of(maps[0].boxes, maps[0].size)
    found: dict[str, list[Check]] = {m.method: [] for m in maps}
    for infill in INFILLS:
        blank = _infill(subject.image, infill, draw)
        areas = {}
        for name, order in orders.items():
            sets = [order[:n] for n in schedule(count, STEPS)] + [order[n:] for n in schedule(count, STEPS)]
            pictures = [covered(subject.image, blank, inside, gone) for gone in sets]
            values = values_on(subject.model, subject.prompt, subject.aim, pictures)
            areas[name] = area(values[: STEPS + 1]), area(values[STEPS + 1 :])
            tick()
        least, most = (pick(areas[f"random {k}"][i] for k in range(ORDERS)) for i, pick in ((0, min), (1, max)))
        for method in found:
            deletion, insertion = areas[method]
            found[method].append(Check(method, "deletion", infill, deletion, least, deletion < least))
            found[method].append(Check(method, "insertion", infill, insertion, most, insertion > most))
    return found


def _infill(image: Image.Image, name: str, draw: np.random.Generator) -> np.ndarray:
    if name == "blur":
        return np.asarray(image.filter(ImageFilter.GaussianBlur(min(image.size) / 8)))
    return mean_colour(image) if name == "mean" else draw.integers(0, 256, np.asarray(image).shape, dtype=np.uint8)


# ---- maps once more


def _again(subject: Subject, image: Image.Image, maps: Sequence[Heatmap]) -> Mapping[str, np.ndarray]:
    """The same methods' maps of another picture, or another model."""
    prompt = replace(subject.prompt, look=look(subject.model, [image]))
    asked = Asked(cases(subject.model, [prompt])[0], subject.aim)
    found = saliency.maps(
        subject.model, [asked], [m.method for m in maps], layers=[subject.layer], choices=subject.choices, boxes=[maps[0].boxes],
        nodes=NODES, seed=subject.seed, scratch=subject.scratch,
    )  # fmt: skip
    return {name: np.asarray(of[0]).reshape(-1) for name, of in found.items()}


def _noised(image: Image.Image, seed: int) -> Image.Image:
    pixels = np.asarray(image).astype(float)
    pixels += np.random.default_rng(seed).normal(0, NOISE, pixels.shape)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8), image.mode)


# ---- regions


def _against_regions(heatmap: Heatmap, subject: Subject) -> list[Check]:
    """Of each region by name: energy; and pointing and IoU beside the same of a map that marks the centre, or the edges."""
    named: dict[str, np.ndarray] = {}
    for region in subject.regions:
        named[region.name] = named.get(region.name, np.zeros(heatmap.size, bool)) | region.array()
    found, boxes = [], heatmap.boxes
    half = float(np.nanmedian(boxes[:, 2:] - boxes[:, :2]) / 2)
    ready = {name: baseline(name, boxes, 0) for name in ("centre", "edges")}
    for name, mask in named.items():
        shares = covered_shares(boxes, mask)
        if not shares.any():
            continue
        point = lambda values, mask=mask: pointing(values, boxes, mask, half)
        overlap = lambda values, shares=shares: iou_ratio(values, shares, SHARE)
        found.append(
            Check(
                heatmap.method, "energy", name, energy(heatmap.values, shares), max(energy(v, shares) for v in ready.values()), None
            )
        )
        for check, of in (("pointing", point), ("IoU", overlap)):
            found.append(Check(heatmap.method, check, name, of(heatmap.values), max(of(v) for v in ready.values()), None))
    return found
