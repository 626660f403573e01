"""A synthetic scanner: slices whose every truth is known, because we drew it.

Medical physicists call a test object with a known inside a *phantom*. This one draws 64 x 64 slices of four modalities, with
or without one lesion, and asks five questions of each. Left and right are those of the image, not of the patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from medlens.errors import BadInput
from medlens.types import Region, Sample

SIDE = 64
SOURCE = "phantom"  # the tag that tells a drawn slice from a patient's image
MODALITIES = ("ct", "mri", "xray", "ultrasound")
LESIONS = ("mass", "cyst", "nodule")
PLACES = ("upper left", "upper right", "lower left", "lower right")
MIDLINE_MARGIN = 2.5  # px: a centre nearer to a midline than this would make "left" a coin toss, not a fact

QUESTIONS: dict[str, tuple[str, ...]] = {
    "presence": (
        "is there a lesion on the image ?",
        "is there a pathology on the image ?",
        "does the image show a lesion ?",
        "can a lesion be seen ?",
    ),
    "type": (
        "what kind of lesion is it ?",
        "which type of lesion does the image show ?",
        "what is the lesion ?",
    ),
    "place": (
        "where is the lesion ?",
        "where on the image is the lesion ?",
        "in which quadrant is the lesion ?",
    ),
    "side": (
        "which side is the lesion on ?",
        "is the lesion on the left or on the right ?",
        "on which side is the lesion ?",
    ),
    "modality": (
        "which modality is this ?",
        "what kind of image is this ?",
        "how was the image taken ?",
    ),
}


@dataclass(frozen=True)
class Slice:
    """One drawn slice: `pixels` (64, 64) uint8 grey values, `mask` (64, 64) bool (the lesion; all False when there is none)."""

    pixels: np.ndarray
    mask: np.ndarray
    modality: str
    lesion: str  # one of LESIONS, or "none"
    centre: tuple[float, float] | None  # (row, column) in pixels
    radius: float | None

    @property
    def place(self) -> str:
        return "none" if self.centre is None else _place(*self.centre)

    @property
    def side(self) -> str:
        return self.place.split()[-1]

    def answer(self, question_type: str) -> str:
        """The true answer to a question of this type."""
        return {
            "presence": "no" if self.lesion == "none" else "yes",
            "type": self.lesion,
            "place": self.place,
            "side": self.side,
            "modality": self.modality,
        }[question_type]


def samples(n: int, seed: int = 0, questions: tuple[str, ...] | str = tuple(QUESTIONS)) -> list[Sample]:
    """Draw `n` samples: one slice after the other, each asked every question type in `questions` (by default all five).

    The same seed gives the same samples, and the first samples of a longer draw are those of a shorter one. Each `Sample` carries
    the exact mask (`regions`), the true answer, the paraphrases of its question, and the tags source, modality, lesion, place,
    laterality and radius (px). Half of the slices are healthy; the answer to a question about their lesion is "none".
    """
    kinds = (questions,) if isinstance(questions, str) else tuple(questions)
    unknown = [k for k in kinds if k not in QUESTIONS]
    if n < 1 or seed < 0:
        raise BadInput(f"n is at least 1 and seed at least 0; got n={n}, seed={seed}")
    if unknown or not kinds:
        raise BadInput(f"question types are {', '.join(QUESTIONS)}; got {', '.join(unknown) or 'none'}")
    slices = [draw(np.random.default_rng([seed, i])) for i in range(-(-n // len(kinds)))]
    return [_sample(slices[i // len(kinds)], i, kinds, seed) for i in range(n)]


def _sample(drawn: Slice, i: int, kinds: tuple[str, ...], seed: int) -> Sample:
    kind, number = kinds[i % len(kinds)], i // len(kinds)
    phrases = QUESTIONS[kind]
    chosen = int(np.random.default_rng([seed, number, 1 + list(QUESTIONS).index(kind)]).integers(len(phrases)))
    name = f"s{seed}-{number:04d}"
    return Sample(
        id=f"{name}-{kind}",
        image=Image.fromarray(drawn.pixels),
        image_id=name,
        question=phrases[chosen],
        paraphrases=tuple(p for p in phrases if p != phrases[chosen]),
        answer=drawn.answer(kind),
        question_type=kind,
        regions=(Region(drawn.lesion, drawn.mask),) if drawn.mask.any() else (),
        tags={
            "source": SOURCE,
            "modality": drawn.modality,
            "lesion": drawn.lesion,
            "place": drawn.place,
            "laterality": drawn.side,
            "radius": None if drawn.radius is None else round(drawn.radius, 2),
        },
    )


def draw(rng: np.random.Generator) -> Slice:
    """Draw one slice: a modality at random, a lesion in half of the cases."""
    modality = MODALITIES[rng.integers(4)]
    picture, body = _ANATOMY[modality](rng)
    lesion, centre, radius, mask = "none", None, None, np.zeros((SIDE, SIDE), bool)
    if rng.random() < 0.5:
        lesion = LESIONS[rng.integers(3)]
        low, high = _RADIUS[lesion]
        radius = float(rng.uniform(low, high))
        centre = _centre(rng, body, radius)
        mask = _outline(rng, centre, radius, lesion)
        picture = _paint(picture, mask, centre, radius, lesion)
    pixels = _acquire(rng, picture, modality)
    return Slice((255 * pixels).astype(np.uint8), mask, modality, lesion, centre, radius)


# ---- anatomy: (rng) -> picture in 0..1, and the body's mask

_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE] + 0.5
_RADIUS = {"mass": (5.5, 8.0), "cyst": (4.0, 7.5), "nodule": (3.0, 4.2)}  # px


def _ellipse(rng: np.random.Generator, high: tuple[float, float], low: tuple[float, float]) -> np.ndarray:
    """Normalised radius (1 on the rim) of an ellipse of random half-axes about the middle of the image, slightly displaced."""
    a, b = rng.uniform(low[0], high[0]), rng.uniform(low[1], high[1])
    r0, c0 = 32 + rng.uniform(-1.5, 1.5, 2)
    return np.sqrt(((_ROWS - r0) / a) ** 2 + ((_COLUMNS - c0) / b) ** 2)


def _smooth(rng: np.random.Generator, cells: int) -> np.ndarray:
    """A smooth random field in -1..1: noise on a cells x cells grid, interpolated."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _ct(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    r = _ellipse(rng, (30, 29), (26, 25))
    picture = np.where(r < 0.9, 0.42 + 0.05 * _smooth(rng, 6), np.where(r < 1, 0.95, 0.03))  # soft tissue inside a bright bone
    return picture, r < 0.88


def _mri(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    r = _ellipse(rng, (30, 28), (25, 23))
    inside = 0.48 + 0.10 * np.sin(9 * r) + 0.05 * _smooth(rng, 5)  # layers of tissue, dark skull, thin bright fat
    picture = np.where(r < 0.88, inside, np.where(r < 0.94, 0.08, np.where(r < 1, 0.7, 0.0)))
    return picture * (1 + 0.15 * _smooth(rng, 2)), r < 0.86


def _xray(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    r = _ellipse(rng, (34, 30), (31, 27))
    ribs = 0.10 * (np.sin(2 * np.pi * (_ROWS + 0.012 * (_COLUMNS - 32) ** 2) / rng.uniform(8.5, 10.5)) > 0.45)
    spine = 0.15 * (np.abs(_COLUMNS - 32) < 3)
    picture = np.where(r < 1, 0.33 + ribs + spine + 0.05 * _smooth(rng, 4), 0.62)  # lungs between ribs, grey surroundings
    return picture, (r < 0.95) & (np.minimum(_ROWS, _COLUMNS) > 2) & (np.maximum(_ROWS, _COLUMNS) < SIDE - 2)


def _ultrasound(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    top, opening = rng.uniform(-22, -16), rng.uniform(0.62, 0.72)
    depth = np.hypot(_ROWS - top, _COLUMNS - 32)
    angle = np.abs(np.arctan2(_COLUMNS - 32, _ROWS - top))
    fan = (angle < opening) & (depth > 20) & (depth < 82)
    picture = np.where(fan, 0.45 + 0.12 * _smooth(rng, 7), 0.0)
    return picture, (angle < opening - 0.05) & (depth > 24) & (depth < 79)


_ANATOMY = {"ct": _ct, "mri": _mri, "xray": _xray, "ultrasound": _ultrasound}


# ---- the lesion


def _centre(rng: np.random.Generator, body: np.ndarray, radius: float) -> tuple[float, float]:
    """Uniform over the body, but for the places where the lesion would stick out of it or straddle a midline evenly."""
    rows, columns = np.nonzero(_eroded(body, radius))
    clear = (np.abs(rows + 0.5 - 32) >= MIDLINE_MARGIN) & (np.abs(columns + 0.5 - 32) >= MIDLINE_MARGIN)
    rows, columns = rows[clear], columns[clear]
    k = rng.integers(len(rows))
    return float(rows[k] + 0.5), float(columns[k] + 0.5)


def _eroded(body: np.ndarray, radius: float) -> np.ndarray:
    """Pixels of the body at least 0.7 radii from its outside along eight directions (0.7: a lesion may touch the rim)."""
    kept = body.copy()
    for angle in np.arange(8) * np.pi / 4:
        dr, dc = np.rint(0.7 * radius * np.array([np.sin(angle), np.cos(angle)])).astype(int)
        padded = np.pad(body, 8)
        kept &= padded[8 + dr : 8 + dr + SIDE, 8 + dc : 8 + dc + SIDE]
    return kept


def _place(row: float, column: float) -> str:
    return f"{'upper' if row < 32 else 'lower'} {'left' if column < 32 else 'right'}"


def _outline(rng: np.random.Generator, centre: tuple[float, float], radius: float, lesion: str) -> np.ndarray:
    """The lesion's exact mask: a disc, lobed for a mass."""
    dr, dc = _ROWS - centre[0], _COLUMNS - centre[1]
    reach = np.full_like(dr, radius)
    if lesion == "mass":
        angle = np.arctan2(dr, dc)
        reach = radius * (1 + 0.14 * np.sin(rng.integers(3, 6) * angle + rng.uniform(0, 2 * np.pi)))
    return np.hypot(dr, dc) <= reach


def _paint(picture: np.ndarray, mask: np.ndarray, centre: tuple[float, float], radius: float, lesion: str) -> np.ndarray:
    """A mass is brighter tissue, a cyst dark fluid within a bright wall, a nodule small and calcified."""
    if lesion == "mass":
        return np.where(mask, picture + 0.28, picture)
    if lesion == "nodule":
        return np.where(mask, 0.98, picture)
    wall = np.hypot(_ROWS - centre[0], _COLUMNS - centre[1]) > radius - 1.3
    return np.where(mask & wall, 0.85, np.where(mask, 0.05, picture))


def _acquire(rng: np.random.Generator, picture: np.ndarray, modality: str) -> np.ndarray:
    """The modality's own noise: electronic (CT, X-ray), Rician (MRI), speckle (ultrasound)."""
    if modality == "ultrasound":
        speckle = rng.gamma(16.0, 1 / 16.0, picture.shape)
        return np.clip(picture * speckle, 0, 1)
    noise = rng.normal(0, 0.04 if modality == "ct" else 0.03, (2, *picture.shape))
    if modality == "mri":
        return np.clip(np.hypot(picture + noise[0], noise[1]), 0, 1)
    return np.clip(picture + noise[0], 0, 1)
