"""What may name a patient, replaced before anything is computed or written: names of files, samples, images, patients.

A pseudonym is a keyed hash (BLAKE2b, RFC 7693) of what it stands for, so it is the same in every run, and nobody without the key
can try names until one fits. The key stays with its owner, outside of every run.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from medlens.errors import BadInput, CannotWrite
from medlens.types import ImageLike, Renamed, Sample, file_name

VARIABLE = "MEDLENS_KEY"  # of the environment: the file with the key
BYTES = 32
# Tags of published data sets: words of a short list, which name nobody. Any other field may hold anything.
KEPT = (
    "answer_type", "base_type", "domain", "finding", "language", "location", "modality", "organ", "phrase_type", "source",
)  # fmt: skip


def key() -> bytes:
    """The key in the file that MEDLENS_KEY names (default: ~/.config/medlens/key), which is made, readable by its owner alone,
    where there is none. Raises CannotWrite, and BadInput for a file that holds something else.
    """
    path = _place()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(BYTES) + "\n")
        found = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as e:
        raise CannotWrite(f"the key {path} can be neither read nor made: {e.strerror}; name another file in {VARIABLE}") from e
    except ValueError:
        found = b""
    if len(found) != BYTES:
        raise BadInput(f"{path} holds no key ({2 * BYTES} hexadecimal digits); name another file in {VARIABLE}")
    return found


def _place() -> Path:
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medlens" / "key"


def pseudonym(kind: str, name: str, secret: bytes) -> str:
    """Such as "patient-0f3a…": the same for the same name and key. kind: sample, image, patient or file."""
    return f"{kind}-{hashlib.blake2b(f'{kind}:{name}'.encode(), key=secret, digest_size=8).hexdigest()}"


def hidden(samples: Sequence[Sample], secret: bytes, kept: Iterable[str] = KEPT) -> list[Sample]:
    """The samples under pseudonyms: ids, image ids, patient ids, names of image files; without the tags that are not `kept`. What
    is asked and answered, and the names of regions, stay as they are. Samples of one image still share one.
    """
    known: dict[str, Renamed] = {}
    kept = set(kept)

    def image_of(image: ImageLike) -> ImageLike:
        if isinstance(image, Image.Image | Renamed):
            return image
        place = str(image) if isinstance(image, str | Path) else f"object {id(image)}"
        return known.setdefault(place, Renamed(image, pseudonym("file", file_name(image), secret)))

    def named(kind: str, name: str | None) -> str | None:
        return name and pseudonym(kind, name, secret)

    return [
        Sample(
            images=[image_of(image) for image in sample.images],
            turns=sample.turns,
            id=named("sample", sample.id) or "",
            answer=sample.answer,
            question_type=sample.question_type,
            image_id=named("image", sample.image_id),
            patient_id=named("patient", sample.patient_id),
            regions=sample.regions,
            paraphrases=sample.paraphrases,
            tags={tag: value for tag, value in sample.tags.items() if tag in kept},
        )
        for sample in samples
    ]
