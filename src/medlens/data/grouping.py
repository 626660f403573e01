"""Which samples belong together: one picture under two names, one patient. What is split, is split between such groups."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medlens.data.images import open_image
from medlens.errors import BadData, BadInput
from medlens.types import ImageLike, Sample

SIDE = 8  # pixels a side of what is hashed
BITS = 6  # that two saves of one picture may differ in, of 64
GREY = 4  # levels of 255 that they may differ by on average, at 32 x 32 pixels: halved and saved as JPEG is 1, another slice 20


def average_hash(image: Image.Image) -> int:
    """64 bits: which pixels of the picture, grey and 8 x 8, are brighter than their mean (as `imagehash.average_hash`)."""
    small = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=float)
    return int("".join("01"[bright] for bright in (small > small.mean()).ravel().tolist()), 2)


def duplicates(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Groups of samples whose pictures are the same though they are different files (or objects), also in another size or format.

    Their average hashes are close, and so are the pictures at 32 x 32 pixels: the hash alone takes many a CT slice for another,
    being bright in the middle. Mirrored, cropped or annotated copies are not found. Every image is opened once.
    Raises BadImage, naming the sample, for one that cannot be.
    """
    looks = _looks(samples)
    files: dict[int, int] = Counter(looks.values())
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        for look in dict.fromkeys(looks[_key(image)] for image in sample.images):
            groups.setdefault(look, []).append(sample)
    return [group for look, group in groups.items() if files[look] > 1]


def distinct(samples: Sequence[Sample], limit: int | None = None) -> tuple[list[Sample], list[str]]:
    """The first sample of each picture (pictures that are the same: see `duplicates`), at most `limit` of them, and a line for
    each that was left out on the way. A sample whose image cannot be opened stays: whoever opens it next says so.
    """
    kept: list[Sample] = []
    same: list[str] = []
    first: dict[int, Sample] = {}
    known: list[tuple[int, np.ndarray]] = []
    for sample in samples:
        if limit is not None and len(kept) == limit:
            break
        try:
            look = _look(sample.image, sample.id, known) if len(sample.images) == 1 else None
        except BadData:
            look = None
        if look is not None and look in first:
            same.append(f"{sample.id}: same picture as {first[look].id}")
            continue
        kept.append(sample)
        if look is not None:
            first[look] = sample
    return kept, same


def split(samples: Sequence[Sample], share: float = 0.5, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """The samples in two, by image and never by question: all samples of one image, of pictures that are the same (as in
    `duplicates`), of one `image_id` or of one `patient_id` come to the same side.

    share: of the samples, for the first side; kept as nearly as whole groups allow. The same seed gives the same split. Raises
    BadInput for a share not between 0 and 1, or where everything is one group; BadImage for an image that cannot be opened.
    """
    if not 0 < share < 1:
        raise BadInput(f"share lies between 0 and 1; got {share}")
    groups = _together(samples)
    if len(groups) < 2:
        raise BadInput(f"{len(samples)} samples that all belong together (one image or one patient) cannot be split")
    random.Random(seed).shuffle(groups)
    chosen: set[int] = set()
    for group in groups[:-1]:  # both sides get one at least
        if not chosen or len(chosen) + len(group) / 2 <= share * len(samples):
            chosen.update(group)
    return [s for i, s in enumerate(samples) if i in chosen], [s for i, s in enumerate(samples) if i not in chosen]


def _together(samples: Sequence[Sample]) -> list[list[int]]:
    """Indices of samples that share anything, directly or through others; in their order."""
    looks = _looks(samples)
    above = list(range(len(samples)))  # a forest: each sample points towards the first of its group
    first: dict[Hashable, int] = {}

    def root(index: int) -> int:
        while above[index] != index:
            above[index] = index = above[above[index]]
        return index

    for index, sample in enumerate(samples):
        bonds: list[Hashable] = [("look", looks[_key(image)]) for image in sample.images]
        bonds += [("image", sample.image_id)] * (sample.image_id is not None)
        bonds += [("patient", sample.patient_id)] * (sample.patient_id is not None)
        for bond in bonds:
            above[root(index)] = root(first.setdefault(bond, index))
    groups: dict[int, list[int]] = {}
    for index in range(len(samples)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def _looks(samples: Sequence[Sample]) -> dict[Hashable, int]:
    """A number for every image, the same for pictures that are the same; each image is opened once."""
    found: dict[Hashable, int] = {}
    known: list[tuple[int, np.ndarray]] = []  # of each look: its hash, and the picture at 32 x 32
    for sample in samples:
        for image in sample.images:
            if _key(image) not in found:
                found[_key(image)] = _look(image, sample.id, known)
    return found


def _look(image: ImageLike, sample: str, known: list[tuple[int, np.ndarray]]) -> int:
    """The number of an image's picture among the `known` ones, to which a new one is added."""
    opened = open_image(image, sample)
    seen = average_hash(opened), np.asarray(opened.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.int16)
    number = next((k for k, other in enumerate(known) if _same(seen, other)), len(known))
    known += [seen] * (number == len(known))
    return number


def _same(one: tuple[int, np.ndarray], other: tuple[int, np.ndarray]) -> bool:
    return (one[0] ^ other[0]).bit_count() <= BITS and float(np.abs(one[1] - other[1]).mean()) <= GREY


def _key(image: ImageLike) -> Hashable:
    return str(image) if isinstance(image, str | Path) else id(image)
