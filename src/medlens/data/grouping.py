"""Which samples belong together: one picture under two names, one patient. What is split, is split between such groups."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medlens.data.images import open_image
from medlens.errors import BadInput
from medlens.types import ImageLike, Sample

SIDE = 8  # pixels a side of what is compared


def average_hash(image: Image.Image) -> int:
    """64 bits: which pixels of the picture, grey and 8 x 8, are brighter than their mean (as `imagehash.average_hash`)."""
    small = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=float)
    return int("".join("01"[bright] for bright in (small > small.mean()).ravel().tolist()), 2)


def duplicates(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Groups of samples whose pictures look alike though they are different files (or objects): equal average hashes, which survive
    another size or format. Pictures that merely resemble each other closely are among them: look before you drop one.

    Every image is opened once. Raises BadImage, naming the sample, for one that cannot be.
    """
    look: dict[int, list[Sample]] = {}
    hashes = _hashes(samples)
    for sample in samples:
        for seen in dict.fromkeys(hashes[_key(image)] for image in sample.images):
            look.setdefault(seen, []).append(sample)
    files = {seen: {key for key, value in hashes.items() if value == seen} for seen in look}
    return [group for seen, group in look.items() if len(files[seen]) > 1]


def split(samples: Sequence[Sample], share: float = 0.5, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """The samples in two, by image and never by question: all samples of one image, of pictures that look alike (see `duplicates`),
    of one `image_id` or of one `patient_id` come to the same side.

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
    hashes = _hashes(samples)
    above = list(range(len(samples)))  # a forest: each sample points towards the first of its group
    first: dict[Hashable, int] = {}

    def root(index: int) -> int:
        while above[index] != index:
            above[index] = index = above[above[index]]
        return index

    for index, sample in enumerate(samples):
        bonds: list[Hashable] = [("hash", hashes[_key(image)]) for image in sample.images]
        bonds += [("image", sample.image_id)] * (sample.image_id is not None)
        bonds += [("patient", sample.patient_id)] * (sample.patient_id is not None)
        for bond in bonds:
            above[root(index)] = root(first.setdefault(bond, index))
    groups: dict[int, list[int]] = {}
    for index in range(len(samples)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def _hashes(samples: Sequence[Sample]) -> dict[Hashable, int]:
    """The average hash of every image, each opened once."""
    found: dict[Hashable, int] = {}
    for sample in samples:
        for image in sample.images:
            if _key(image) not in found:
                found[_key(image)] = average_hash(open_image(image, sample.id))
    return found


def _key(image: ImageLike) -> Hashable:
    return str(image) if isinstance(image, str | Path) else id(image)
