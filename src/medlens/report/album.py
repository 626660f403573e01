"""Pictures of a run inside its report: as data URLs, made smaller where they are many, so that the page stays small."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from medlens.picture import opened, within

BUDGET = 2_400_000  # bytes of all pictures of a page, before they are written in letters (4 for 3)
SIDES = (448, 320, 224, 160, 112, 80)  # pixels of the longer side: the largest at which they fit
QUALITY = 82


class Album:
    """The pictures named by these paths relative to `folder`, each once. side: of the largest, its longer side in pixels.
    Raises BadImage for one that is damaged."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        names, found = [name for name in dict.fromkeys(names) if within(folder, name)], {}
        for side in SIDES:
            found = {name: _small(folder, name, side) for name in names}
            if sum(len(small.content) for small in found.values()) <= BUDGET:
                break
        self.side = max((small.side for small in found.values()), default=0)
        self._urls = {name: small.url for name, small in found.items()}

    def url(self, name: str | None) -> str | None:
        """None of a picture that is not there."""
        return self._urls.get(name) if name else None


class _Small(NamedTuple):
    kind: str
    content: bytes
    side: int

    @property
    def url(self) -> str:
        return f"data:image/{self.kind};base64,{base64.b64encode(self.content).decode()}"


def _small(folder: Path, name: str, side: int) -> _Small:
    """As it is if it is small enough; a large one as JPEG. Raises BadImage for one that is damaged."""
    content = (folder / name).read_bytes()
    with opened(content, f"the run's picture {name}") as image:
        if max(image.size) <= side and image.format in ("PNG", "JPEG"):
            return _Small(image.format.lower(), content, max(image.size))
        small = image.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return _Small("jpeg", buffer.getvalue(), side)
