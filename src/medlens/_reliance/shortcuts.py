"""Shortcuts: does an answer follow what is written on the image, not what was imaged? Marks are covered, and it is asked again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from medlens._gate import Swapped, under
from medlens._swaps import Swap
from medlens.data.burned_in import WHITE
from medlens.data.images import open_image
from medlens.errors import BadModel
from medlens.measures.localization import covered_shares, energy
from medlens.models.base import Model
from medlens.models.prompt import look
from medlens.models.registration import boxes
from medlens.models.words import first_id
from medlens.saliency import maps
from medlens.saliency.asked import Asked
from medlens.stats.grouped import mean_of
from medlens.types import Answer, Sample
from medlens.walk.cases import Prompt, cases
from medlens.walk.target import LogOdds, Word

NAMES = ("mark", "marker", "text", "letter", "label", "ruler", "annotation", "arrow", "caption")  # of regions; and in questions
SMALLEST, LARGEST = 0.001, 0.05  # share of the image that something written takes
BAND = 0.3  # of a side: it lies with its middle within this of an edge
RING = 2  # px around it that are covered too (letters have soft edges), and as many again that its cover is taken from
CONTROLS = 3  # patches of the same shape elsewhere
LEAST = 1.0  # nats of log-odds: what covering the mark must do beyond covering another patch, surely
FEWEST = 10  # images

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Written:
    """Where something is written on an image, (height, width) bool; and patches of the same shape elsewhere."""

    mask: np.ndarray
    controls: tuple[np.ndarray, ...]


def written(sample: Sample, seed: int) -> Written | None:
    """What the data call a mark (regions with one of NAMES), else what looks like one: white, small, near an edge.

    Controls lie wholly on the image, and touch neither it nor any other region (a lesion). None where nothing is found, or there
    is no room for a control.
    """
    image = open_image(sample.image, sample.id, grey=True)
    named = [region.array() for region in sample.regions if region.name.casefold() in NAMES]
    grey = np.asarray(image.convert("L"))
    named = [mask for mask in named if mask.shape == grey.shape]
    mask = np.any(named, axis=0) if named else looks_written(grey)
    if not mask.any():
        return None
    mask = ndimage.binary_dilation(mask, iterations=RING)
    others = [array for region in sample.regions if (array := region.array()).shape == grey.shape]
    controls = _elsewhere(mask, np.any([mask, *others], axis=0), np.random.default_rng(seed))
    return Written(mask, controls) if controls else None


def looks_written(grey: np.ndarray) -> np.ndarray:
    """(height, width) bool: white components of a mark's size that lie near an edge."""
    labels, count = ndimage.label(grey >= WHITE, np.ones((3, 3)))
    found = np.zeros(grey.shape, bool)
    for k in range(1, count + 1):
        own = labels == k
        middle = np.argwhere(own).mean(0) / grey.shape
        near = bool((np.minimum(middle, 1 - middle) < BAND).any())
        if near and SMALLEST <= own.mean() <= LARGEST:
            found |= own
    return found


def _elsewhere(mask: np.ndarray, taken: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    at = np.argwhere(mask)
    top, left = at.min(0)
    height, width = at.max(0) - at.min(0) + 1
    piece = mask[top : top + height, left : left + width]
    places = [(y, x) for y in range(mask.shape[0] - height + 1) for x in range(mask.shape[1] - width + 1)]
    found: list[np.ndarray] = []
    for k in rng.permutation(len(places)):
        y, x = places[k]
        if not (taken[y : y + height, x : x + width] & piece).any():
            moved = np.zeros_like(mask)
            moved[y : y + height, x : x + width] = piece
            found.append(moved)
            if len(found) == CONTROLS:
                break
    return tuple(found)


def covered(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The image with the mask filled in by the median of what lies around it."""
    pixels = np.asarray(image).copy()
    ring = ndimage.binary_dilation(mask, iterations=RING) & ~mask
    pixels[mask] = np.median(pixels[ring], axis=0)
    return Image.fromarray(pixels)


def shortcuts(
    model: Model, prompts: Sequence[Prompt], said: Sequence[Answer | str], *, seed: int = 0,
    tick: Callable[[], None] = lambda: None, spill: Path | None = None,
) -> list[Row]:  # fmt: skip
    """Rows of the table `shortcuts`, one of each type of question: what covering what is written does to the log-odds of the
    answer, beyond what covering a patch of the same shape elsewhere does (mean of CONTROLS), and how many answers it changes; and
    the share of the answers' relevance that lies on it.

    The rule: a shortcut is followed where that is more than LEAST, surely (its interval, with Bonferroni's correction for the types
    looked at), on at least FEWEST images. Questions that speak of what is written (a word of NAMES) ask for it, and follow no
    shortcut; they are left out. So are samples with several images.
    """
    found: dict[str, Written | None] = {}
    chosen, answers, others = [], [], []
    for prompt, text in zip(prompts, said, strict=True):
        if len(prompt.sample.images) != 1 or set(prompt.sample.question.casefold().replace("?", " ").split()) & set(NAMES):
            continue
        if prompt.image not in found:
            found[prompt.image] = written(prompt.sample, seed)
        if (mark := found[prompt.image]) is not None:
            chosen.append(prompt)
            answers.append(text)
            others.append(_covers(model, prompt, mark))
    rows = under(model, chosen, answers, others, tick=tick, spill=spill)
    shares = _attributed(model, chosen, answers, found)
    return [row | _mean_shares(shares, row["group"]) for row in _summed_up(chosen, rows)]


def _attributed(
    model: Model, prompts: Sequence[Prompt], said: Sequence[Answer | str], marks: dict[str, Written | None]
) -> dict[str, list[tuple[float, float]]]:
    """By type of question: of each answer's relevance (Chefer et al. 2021) the share on what is written, and on the patches
    elsewhere. Empty for a family whose tokens cannot be placed on the image."""
    asked, laid = [], []
    try:
        for prompt, text in zip(prompts, said, strict=True):
            image = open_image(prompt.sample.image, prompt.sample.id, grey=True)
            word = text.ids[0] if isinstance(text, Answer) and text.ids else first_id(model, text)
            asked.append(Asked(cases(model, [prompt])[0], LogOdds(Word(len(prompt.tokens) - 1, word))))
            laid.append(boxes(model, image, prompt.look))
    except BadModel:
        return {}
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    relevance = maps(model, asked, ["relevance"])["relevance"] if asked else []
    for prompt, values, placed in zip(prompts, relevance, laid, strict=True):
        mark = marks[prompt.image]
        assert mark is not None  # these prompts were chosen for having one
        own, *elsewhere = (energy(values, covered_shares(placed, mask)) for mask in (mark.mask, *mark.controls))
        found[prompt.sample.question_type or "all"].append((own, float(np.mean(elsewhere))))
    return found


def _mean_shares(shares: dict[str, list[tuple[float, float]]], group: str) -> Row:
    of_group = shares.get(group)
    own, elsewhere = np.mean(of_group, axis=0).tolist() if of_group else (None, None)
    return {"attributed": own, "attributed_elsewhere": elsewhere}


def _covers(model: Model, prompt: Prompt, mark: Written) -> list[Swap]:
    image = open_image(prompt.sample.image, prompt.sample.id, grey=True)
    masks = [("written", 0, mark.mask), *(("elsewhere", k, control) for k, control in enumerate(mark.controls))]
    return [Swap(kind, k, f"{kind} {k}: {prompt.image}", look(model, [covered(image, mask)])) for kind, k, mask in masks]


def _summed_up(prompts: Sequence[Prompt], rows: Sequence[Swapped]) -> list[Row]:
    of_sample: dict[str, list[Swapped]] = defaultdict(list)
    for row in rows:
        of_sample[row.sample].append(row)
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        if of_sample[prompt.sample.id]:
            groups[prompt.sample.question_type or "all"].append(prompt)
    return [_row(group, own, of_sample, len(groups)) for group, own in groups.items()]


def _row(group: str, prompts: Sequence[Prompt], of_sample: dict[str, list[Swapped]], groups: int) -> Row:
    beyond: list[float] = []
    changed: dict[str, list[bool]] = defaultdict(list)
    for prompt in prompts:
        shifts: dict[str, list[float]] = defaultdict(list)
        for row in of_sample[prompt.sample.id]:
            shifts[row.swap.kind].append(abs(row.shift))
            changed[row.swap.kind].append(row.changed)
        beyond.append(float(np.mean(shifts["written"]) - np.mean(shifts["elsewhere"])))
    units = [prompt.unit for prompt in prompts]
    value, (low, high, note) = mean_of(beyond, units, 1 - 0.05 / groups)
    images = len(set(units))
    return {
        "group": group,
        "followed": low is not None and low > LEAST and images >= FEWEST,
        "value": value,
        "low": low,
        "high": high,
        "changed": float(np.mean(changed["written"])),
        "changed_elsewhere": float(np.mean(changed["elsewhere"])),
        "n": len(beyond),
        "images": images,
        "note": note,
    }
