"""Before anything is computed: every image is opened once, checked, fingerprinted and downsized for the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from medlens.data.images import open_image
from medlens.errors import BadData
from medlens.types import ImageLike, Sample

PICTURE = 224  # longest side, pixels, of what a report shows


@dataclass(frozen=True)
class Intake:
    """Samples that can be studied. images: the fingerprint of each sample's image(s). pictures: fingerprint -> (suffix, bytes), the
    downsized first image, without metadata. skipped: one line for each sample that was left out.
    """

    samples: tuple[Sample, ...]
    images: tuple[str, ...]
    pictures: dict[str, tuple[str, bytes]]
    skipped: tuple[str, ...]
    fingerprint: str


def take_in(samples: Sequence[Sample], skip_bad: bool = False, tick: Callable[[], None] = lambda: None) -> Intake:
    """Check samples and open their images, each file once. Raises BadData (BadImage), or lists what it left out with `skip_bad`."""
    known: dict[str, str] = {}
    pictures: dict[str, tuple[str, bytes]] = {}
    kept: list[tuple[Sample, str]] = []
    skipped: list[str] = []
    for sample in _numbered(samples):
        try:
            prints = [_fingerprint(image, sample, known, pictures) for image in sample.images]
            kept.append((sample, "+".join(prints) or f"none:{sample.id}"))
        except BadData as e:
            if not skip_bad:
                raise
            skipped.append(str(e))
        tick()
    if not kept:
        raise BadData(
            f"no sample left to study: {len(skipped)} of {len(samples)} could not be read" if samples else "an empty data set"
        )
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
            raise BadData(f"two samples have the id {sample.id!r}; ids must be unique")
        seen.add(sample.id)
    return named


def _fingerprint(image: ImageLike, sample: Sample, known: dict[str, str], pictures: dict[str, tuple[str, bytes]]) -> str:
    key = f"object {id(image)}" if isinstance(image, Image.Image) else str(image)
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
