"""Before anything is computed: every image is opened once, checked, fingerprinted and downsized for the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from medlens.data.images import open_image
from medlens.errors import BadData, BadImage
from medlens.types import ImageLike, Sample

PICTURE = 224  # longest side, pixels, of what a report shows


@dataclass(frozen=True)
class Intake:
    """Samples that can be studied. images: the fingerprint of each sample's image(s). pictures: fingerprint -> (suffix, bytes), the
    downsized first image, without metadata. skipped: one line for each sample that was left out. burned_in: on so many images
    something may be written; None where nobody looked.
    """

    samples: tuple[Sample, ...]
    images: tuple[str, ...]
    pictures: dict[str, tuple[str, bytes]]
    skipped: tuple[str, ...]
    fingerprint: str
    burned_in: int | None = None

    def without(self, refused: Mapping[str, str]) -> Intake:
        """What is left when some samples (by id, with the reason) turn out to be unfit as well."""
        kept = [(s, i) for s, i in zip(self.samples, self.images, strict=True) if s.id not in refused]
        return _intake(kept, self.pictures, [*self.skipped, *refused.values()], len(self.samples))


def take_in(samples: Sequence[Sample], skip_bad: bool = False, tick: Callable[[], None] = lambda: None) -> Intake:
    """Check samples and open their images, each file once. Raises BadData (BadImage), or lists what it left out with `skip_bad`."""
    known: dict[str, str] = {}
    pictures: dict[str, tuple[str, bytes]] = {}
    kept: list[tuple[Sample, str]] = []
    skipped: list[str] = []
    for sample in _numbered(samples):
        try:
            prints = [_fingerprint(image, sample, known, pictures) for image in sample.images]
            _check_masks(sample)
            kept.append((sample, "+".join(prints) or f"none:{sample.id}"))
        except BadData as e:
            if not skip_bad:
                raise
            skipped.append(str(e))
        tick()
    return _intake(kept, pictures, skipped, len(samples))


def _intake(kept: list[tuple[Sample, str]], pictures: dict[str, tuple[str, bytes]], skipped: list[str], of: int) -> Intake:
    if not kept:
        raise BadData(f"no sample left to study: {len(skipped)} of {of} could not be read" if of else "an empty data set")
    whole = hashlib.sha256()
    for sample, image in kept:
        whole.update(json.dumps([sample.id, image, sample.turns, sample.answer]).encode())
    chosen, images = zip(*kept, strict=True)
    return Intake(chosen, images, pictures, tuple(skipped), whole.hexdigest()[:16])


def _numbered(samples: Sequence[Sample]) -> list[Sample]:
    """Samples with unique names: those without get their number."""
    named = [s if s.id else s.named(f"{k:04d}") for k, s in enumerate(samples)]
    seen: set[str] = set()
    for sample in named:
        if sample.id in seen:
            raise BadData(f"two samples have the id {sample.id!r} (the second: {sample.shown}); ids must be unique")
        seen.add(sample.id)
    return named


def _check_masks(sample: Sample) -> None:
    """A mask lies on the first image, pixel by pixel."""
    size = open_image(sample.image, sample.id).size if sample.regions else (0, 0)
    for region in sample.regions:
        try:
            height, width = region.array().shape
        except (BadImage, OSError, ValueError) as e:
            raise BadImage(f"sample {sample.id}: mask of {region.name} cannot be read: {e}") from e
        if (width, height) != size:
            raise BadImage(
                f"sample {sample.id}: mask of {region.name} has {width} x {height} pixels, its image {size[0]} x {size[1]}"
            )


def _fingerprint(image: ImageLike, sample: Sample, known: dict[str, str], pictures: dict[str, tuple[str, bytes]]) -> str:
    key = str(image) if isinstance(image, str | Path) else f"object {id(image)}"
    if key not in known:
        opened = open_image(image, sample.id)
        digest = hashlib.sha256(repr(opened.size).encode() + opened.tobytes()).hexdigest()[:16]
        known[key] = digest
        pictures.setdefault(digest, _downsized(opened))
    return known[key]


def _downsized(image: Image.Image) -> tuple[str, bytes]:
    small = max(image.size) <= PICTURE
    clean = Image.new("RGB", image.size)  # a fresh image: no EXIF, no text chunk, no profile comes along
    clean.paste(image)
    clean.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    clean.save(buffer, **({"format": "PNG"} if small else {"format": "JPEG", "quality": 88}))
    return (".png" if small else ".jpg"), buffer.getvalue()
