"""The nouns of the house: what is asked (`Sample`), what the model reads (`Tokens`), what is measured (`Value`)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from medlens.errors import BadImage, BadInput
from medlens.picture import opened

SHOWN = 256  # pixels of a picture in a notebook
EIGHT_BIT = ("1", "L", "LA", "P", "RGB", "RGBA")  # what a screen shows as it is
Group = Literal["image", "text", "template", "answer"]
GROUPS: tuple[Group, ...] = ("image", "text", "template", "answer")
MAP_SHOWN = 480  # pixels wide, a map there


@dataclass(frozen=True, eq=False)
class Embedded:
    """An image file that lies inside another file, such as a row of a table: its bytes, and the name it goes by."""

    data: bytes
    name: str


@dataclass(frozen=True)
class Windowed:
    """A DICOM file with the window to show it through, (centre, width) in its own units (CT: Hounsfield), and which frame of it."""

    path: Path
    window: tuple[float, float] | None = None
    frame: int | None = None

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, eq=False)
class Renamed:
    """An image file under another name than its own."""

    image: Path | str | Embedded | Windowed
    name: str


ImageLike = Image.Image | Path | str | Embedded | Windowed | Renamed


@dataclass(frozen=True, eq=False)
class Region:
    """A named region of an image: `mask` (height, width) bool, True inside; or, when it is needed, `mask_path` is read, or `draw`
    called for such an array.
    """

    name: str
    mask: np.ndarray | None = None
    mask_path: Path | None = None
    draw: Callable[[], np.ndarray] | None = None

    def array(self) -> np.ndarray:
        """The mask, (height, width) bool; of a file, what is brighter than mid-grey. Raises BadImage if that cannot be read."""
        if self.mask is not None:
            return self.mask
        if self.draw is not None:
            return self.draw()
        if self.mask_path is None:
            raise ValueError("a region has a mask or a path to one")
        with opened(self.mask_path, f"mask {self.mask_path.name}") as picture:
            return np.asarray(picture.convert("L")) > 127


@dataclass(frozen=True, init=False, eq=False)
class Sample:
    """One question about one or more images. `Sample(image=..., question=...)` is the short form.

    images: PIL images or paths (paths are opened when needed, so that a data set need not fit in memory), or `Embedded` files.
    turns: user, assistant, user, ... ; the last one is the question asked.
    answer: the true answer where it is known.
    image_id, patient_id: what is counted as one independent unit; image_id defaults to the image itself.
    """

    images: tuple[ImageLike, ...]
    turns: tuple[str, ...]
    id: str
    answer: str | None
    question_type: str | None
    image_id: str | None
    patient_id: str | None
    regions: tuple[Region, ...]
    paraphrases: tuple[str, ...]
    tags: Mapping[str, Any]

    def __init__(
        self,
        image: ImageLike | None = None,
        question: str | None = None,
        *,
        images: Sequence[ImageLike] = (),
        turns: Sequence[str] = (),
        id: str = "",
        answer: str | None = None,
        question_type: str | None = None,
        image_id: str | None = None,
        patient_id: str | None = None,
        regions: Sequence[Region] = (),
        paraphrases: Sequence[str] = (),
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        if (image is not None and images) or (question is not None and turns):
            raise TypeError("give image or images, question or turns, not both")
        fields = {
            "images": (image,) if image is not None else tuple(images),
            "turns": (question,) if question is not None else tuple(turns),
            "id": id,
            "answer": answer,
            "question_type": question_type,
            "image_id": image_id,
            "patient_id": patient_id,
            "regions": tuple(regions),
            "paraphrases": tuple(paraphrases),
            "tags": dict(tags or {}),
        }
        if len(fields["turns"]) % 2 == 0:
            raise TypeError("a sample ends with a question: turns are user, assistant, ..., user")
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def named(self, id: str) -> Sample:
        """The same sample under another id."""
        new = copy.copy(self)
        object.__setattr__(new, "id", id)
        return new

    def showing(self, images: Sequence[ImageLike]) -> Sample:
        """The same sample with other images in the place of its own."""
        new = copy.copy(self)
        object.__setattr__(new, "images", tuple(images))
        return new

    @property
    def image(self) -> ImageLike:
        """The first image."""
        return self.images[0]

    @property
    def shown(self) -> str:
        """The names of its image files, without their folders: what a reader finds them by."""
        return " + ".join(map(file_name, self.images)) or "no image"

    @property
    def question(self) -> str:
        """The question asked: the last turn."""
        return self.turns[-1]

    def _repr_html_(self) -> str:
        """Its pictures, names without folders, question and answer. DICOM files are named, not opened."""
        from medlens import display

        told = {
            "sample": self.id, "before": " / ".join(self.turns[:-1]), "answer": self.answer,
            "type": self.question_type, "regions": ", ".join(region.name for region in self.regions),
        }  # fmt: skip
        return display.card(self.question, told, [(_opened(image), file_name(image)) for image in self.images])


def file_name(image: ImageLike) -> str:
    """What a reader finds the image by: its file's name, without the folder."""
    if isinstance(image, Image.Image):
        return "in memory"
    return image.name if isinstance(image, Embedded | Windowed | Renamed) else Path(image).name


def _opened(image: ImageLike) -> Image.Image | None:
    """A small copy without anything but its pixels; None of what is no plain picture, or cannot be opened."""
    if isinstance(image, Windowed):
        return None
    if isinstance(image, Renamed):
        return _opened(image.image)
    if isinstance(image, Image.Image):
        return _small(image.copy())
    try:
        with opened(image.data if isinstance(image, Embedded) else Path(image), "the image") as picture:
            return _small(picture)
    except BadImage:
        return None


def _small(image: Image.Image) -> Image.Image | None:
    image.thumbnail((SHOWN, SHOWN))
    return image.convert("RGB") if image.mode in EIGHT_BIT else None


@dataclass(frozen=True)
class Tokens:
    """What the model reads: for each position its id, its group and its text."""

    ids: tuple[int, ...]
    groups: tuple[Group, ...]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, group: str) -> list[int]:
        """Positions of a group ("all": every position). Raises BadInput for another name."""
        if group not in (*GROUPS, "all"):
            raise BadInput(f"token groups are {', '.join(GROUPS)}, all; got {group!r}")
        return [i for i, g in enumerate(self.groups) if group in (g, "all")]


@dataclass(frozen=True, eq=False)
class Heatmap:
    """What one method says of one target: a number for each of an image's tokens, and where each token lies on the original image.

    method: its name. target: what was explained, for a reader. values: (tokens,) float64; larger speaks more for the target.
    boxes: (tokens, 4) left, top, right, bottom of each token, in pixels of the original image: parts of a box may lie outside it
    (where the model pads), and all four are NaN for a token without a place (a separator of rows). size: (height, width) of the
    original image. layer: the block that it was read at; None for methods that have none. sinks: of raw attention, the tokens that
    draw it whoever looks. image: what it lies on, where that is at hand. In a notebook it shows itself.
    """

    method: str
    target: str
    values: np.ndarray
    boxes: np.ndarray
    size: tuple[int, int]
    layer: int | None = None
    note: str = ""
    sinks: tuple[int, ...] = ()
    image: Image.Image | None = field(default=None, repr=False)

    def save(self, path: str | Path, image: Image.Image | None = None) -> Path:
        """Write the map as .png or .svg, with its colour bar: on this image, else on the one that it carries, else its colours
        alone. Raises BadInput for another ending or an image of another size; CannotWrite."""
        from medlens import overlay  # draws: not needed by those who only count

        return overlay.save(self, Path(path), image)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """For a notebook, with how wide it is to be shown there."""
        from medlens import overlay, svg

        return svg.as_png(overlay.drawn(self)), {"width": MAP_SHOWN}

    def on_image(self) -> np.ndarray:
        """(height, width): at each pixel the mean of the tokens whose boxes hold its middle; NaN where there is none. Never
        interpolated: a token is one number for all that it covers."""
        height, width = self.size
        total, count = np.zeros(self.size), np.zeros(self.size)
        for value, (left, top, right, bottom) in zip(self.values, self.boxes, strict=True):
            if not np.isnan(left):
                rows, columns = _middles(top, bottom, height), _middles(left, right, width)
                total[rows, columns] += value
                count[rows, columns] += 1
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _middles(begin: float, end: float, size: int) -> slice:
    """The pixels whose middles lie in begin <= x < end."""
    first, last = (int(np.clip(np.ceil(edge - 0.5), 0, size)) for edge in (begin, end))
    return slice(first, last)


class Value(float):
    """A measured number that knows how many rows it stands on and, where it is undefined (NaN), why."""

    n: int
    note: str

    def __new__(cls, value: float, n: int = 0, note: str = "") -> Value:
        self = super().__new__(cls, value)
        self.n, self.note = n, note
        return self

    def __getnewargs__(self) -> tuple[float, int, str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return float(self), self.n, self.note

    def __repr__(self) -> str:
        said = f", {self.note!r}" if self.note else ""
        return f"Value({float(self)!r}, n={self.n}{said})"

    @classmethod
    def undefined(cls, n: int, why: str) -> Value:
        """NaN with its reason."""
        return cls(float("nan"), n, why)


class Answer(str):
    """A generated answer: its text, which also knows its token ids and their log-probabilities."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool  # by itself; False: it was cut off at the cap of new tokens

    def __new__(cls, text: str, ids: Sequence[int] = (), logprobs: Sequence[float] = (), ended: bool = True) -> Answer:
        self = super().__new__(cls, text)
        self.ids, self.logprobs, self.ended = tuple(ids), tuple(logprobs), ended
        return self


class Row(NamedTuple):
    """One measured value, with the columns of the run's table `rows` (see `medlens.store.TABLES`)."""

    protocol: str
    measure: str
    layer: int
    tokens: str
    group: str
    variant: str
    value: float
    low: float | None
    high: float | None
    n: int
    note: str
