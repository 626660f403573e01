"""Other images in the place of a question's own: what its answer has to be held against, if it is said to rest on the image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from medlens.data.images import open_image
from medlens.data.noise import noise_like
from medlens.models.base import Model
from medlens.models.prompt import Look, look
from medlens.types import Sample
from medlens.walk.cases import Prompt

KINDS = ("blank", "noise", "shuffled", "other", "alike")
DRAWS = {"blank": 1, "noise": 2, "shuffled": 2, "other": 3, "alike": 2}
FEWEST = 8  # swaps a question: where other images are wanting, noise and shuffled ones make up for them
GREY = 128
TILES = 4  # a side, of an image that is shuffled
ALIKE = ("organ", "modality")  # tags whose names say so ("image_organ" too): images that share their values are alike


@dataclass(frozen=True)
class Swap:
    """Another image in place of a sample's own: what kind, the draw of its kind, its name (questions on one swapped image share a
    pack by it), and of a kind that is another sample's image, whose."""

    kind: str
    draw: int
    image: str
    look: Look
    donor: str | None = None


def swaps(model: Model, prompts: Sequence[Prompt], said: Sequence[str], seed: int) -> list[list[Swap]]:
    """For each prompt that shows an image at least FEWEST swaps; none for one that does not.

    blank: mid-grey; noise: uniform, byte by byte; shuffled: TILES x TILES tiles of its own image in random order; all of its own
    size. other: another patient's (image's) image, of which the same type of question has another answer, by the data where they
    know it, else as the model says (`said`); where no type is known, any. alike: another patient's image of the same organ and
    modality, where tags name them. The same seed gives the same swaps. Raises BadImage.
    """
    made = _Made(model, seed)
    donors = _Donors(prompts, said, np.random.default_rng(seed))
    return [_of_one(made, donors, k, prompt) if prompt.sample.images else [] for k, prompt in enumerate(prompts)]


def _of_one(made: _Made, donors: _Donors, k: int, prompt: Prompt) -> list[Swap]:
    found = [
        Swap(kind, draw, donor.image, donor.look, donor.sample.id)
        for kind, of in (("other", donors.other(k)), ("alike", donors.alike(k)))
        for draw, donor in enumerate(islice(of, DRAWS[kind]))
    ]
    wanting = max(0, FEWEST - DRAWS["blank"] - DRAWS["noise"] - DRAWS["shuffled"] - len(found))
    counts = {"blank": 1, "noise": DRAWS["noise"] + (wanting + 1) // 2, "shuffled": DRAWS["shuffled"] + wanting // 2}
    synthetic = [made.one(kind, draw, prompt) for kind, count in counts.items() for draw in range(count)]
    return [*synthetic, *found]


class _Made:
    """Images that are made: each once, whichever questions are asked of it."""

    def __init__(self, model: Model, seed: int) -> None:
        self.model, self.seed = model, seed
        self._found: dict[str, Look] = {}
        self._sizes: dict[str, tuple[str, ...]] = {}

    def one(self, kind: str, draw: int, prompt: Prompt) -> Swap:
        name = f"{kind} {draw}: " + (prompt.image if kind == "shuffled" else " + ".join(self._shapes(prompt)))
        if name not in self._found:
            samples, placed = prompt.sample, prompt.look.placeholders
            self._found[name] = Look(lambda: self._look(kind, draw, samples).inputs, placed)
        return Swap(kind, draw, name, self._found[name])

    def _shapes(self, prompt: Prompt) -> tuple[str, ...]:
        """Size and mode of a prompt's images: noise and blanks are the same for all that share them."""
        if prompt.image not in self._sizes:
            shown = _opened(prompt.sample)
            self._sizes[prompt.image] = tuple(f"{image.width} x {image.height} {image.mode}" for image in shown)
        return self._sizes[prompt.image]

    def _look(self, kind: str, draw: int, sample: Sample) -> Look:
        """Made when it is walked, and not kept: there are many."""
        change: Callable[[Image.Image, int], Image.Image] = {
            "blank": lambda image, _: Image.new(image.mode, image.size, (GREY,) * len(image.getbands())),
            "noise": lambda image, k: noise_like(image, self.seed, 1000 * draw + k),
            "shuffled": lambda image, k: shuffled(image, np.random.default_rng((self.seed, draw, k))),
        }[kind]
        return look(self.model, [change(image, k) for k, image in enumerate(_opened(sample))])


def _opened(sample: Sample) -> list[Image.Image]:
    return [open_image(image, sample.id, grey=True) for image in sample.images]


def shuffled(image: Image.Image, rng: np.random.Generator, tiles: int = TILES) -> Image.Image:
    """The image with its tiles x tiles tiles in random order; what is left over at the right and at the bottom stays."""
    width, height = image.width // tiles, image.height // tiles
    corners = [(x * width, y * height) for y in range(tiles) for x in range(tiles)]
    found = image.copy()
    for (x, y), source in zip(corners, rng.permutation(len(corners)), strict=True):
        left, top = corners[source]
        found.paste(image.crop((left, top, left + width, top + height)), (x, y))
    return found


class _Donors:
    """Whose images can stand in for whose."""

    def __init__(self, prompts: Sequence[Prompt], said: Sequence[str], rng: np.random.Generator) -> None:
        self.prompts, self.rng = prompts, rng
        self.answers = [_plain(text if p.sample.answer is None else p.sample.answer) for p, text in zip(prompts, said, strict=True)]
        self.tags = [_alike(prompt.sample) for prompt in prompts]
        self.by_type: dict[object, list[int]] = defaultdict(list)
        self.by_tags: dict[object, list[int]] = defaultdict(list)
        for k, prompt in enumerate(prompts):
            self.by_type[prompt.sample.question_type].append(k)
            self.by_tags[self.tags[k]].append(k)

    def other(self, k: int) -> Iterator[Prompt]:
        kind = self.prompts[k].sample.question_type
        return self._drawn(k, self.by_type[kind], lambda j: kind is None or self.answers[j] != self.answers[k])

    def alike(self, k: int) -> Iterator[Prompt]:
        return self._drawn(k, self.by_tags[self.tags[k]] if self.tags[k] else [], lambda _: True)

    def _drawn(self, k: int, among: Sequence[int], fits: Callable[[int], bool]) -> Iterator[Prompt]:
        own, used = self.prompts[k], {self.prompts[k].image}
        for j in self.rng.permutation(among) if among else ():
            donor = self.prompts[j]
            same_number = len(donor.sample.images) == len(own.sample.images)
            if donor.image not in used and same_number and donor.unit != own.unit and fits(j):
                used.add(donor.image)
                yield donor


def _alike(sample: Sample) -> tuple[str, ...]:
    named = {name: str(value) for name, value in sample.tags.items() if value is not None}
    return tuple(_plain(value) for name, value in sorted(named.items()) if any(word in name.casefold() for word in ALIKE))


def _plain(answer: str) -> str:
    return answer.strip().casefold()
