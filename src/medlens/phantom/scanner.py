"""A synthetic scanner: slices whose every truth is known, because we drew it.

Medical physicists call a test object with a known inside a *phantom*. This one draws 64 x 64 slices of four modalities, with no
lesion, one or two, and in some a reference mark: a bar of known length burned into a corner, as technicians leave a ruler in the
picture. Left and right are those of the image, not of the patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 64
MODALITIES = ("ct", "mri", "xray", "ultrasound")
LESIONS = ("mass", "cyst", "nodule")
PLACES = ("upper left", "upper right", "lower left", "lower right")
HOW_MANY = (0.5, 0.3, 0.2)  # share of slices with no lesion, one, two
MIDLINE_MARGIN = 2.5  # px: a centre nearer to a midline than this would make "left" a coin toss, not a fact
SIZE_MARGIN = 3.0  # px of diameter or length: things nearer in size than this are not drawn on one slice, nor compared


@dataclass(frozen=True)
class Lesion:
    """One lesion: `kind` is one of LESIONS, `centre` (row, column) and `radius` in pixels, `mask` (64, 64) bool."""

    kind: str
    centre: tuple[float, float]
    radius: float
    mask: np.ndarray

    @property
    def place(self) -> str:
        return f"{'upper' if self.centre[0] < SIDE / 2 else 'lower'} {'left' if self.centre[1] < SIDE / 2 else 'right'}"

    @property
    def side(self) -> str:
        return self.place.split()[-1]


@dataclass(frozen=True)
class Mark:
    """The reference mark: a white bar of `length` pixels in the corner `place`."""

    place: str
    length: int
    mask: np.ndarray


@dataclass(frozen=True)
class Slice:
    """One drawn slice: `pixels` (64, 64) uint8 grey values, and the truth about them."""

    pixels: np.ndarray
    modality: str
    lesions: tuple[Lesion, ...]
    mark: Mark | None

    @property
    def mask(self) -> np.ndarray:
        """(64, 64) bool: all lesions together."""
        return np.any([np.zeros((SIDE, SIDE), bool), *(lesion.mask for lesion in self.lesions)], axis=0)


def draw(rng: np.random.Generator, mark_agreement: float = 0.5) -> Slice:
    """Draw one slice.

    mark_agreement: the probability that mark and lesion go together: that a slice with a lesion is marked, and one without is not.
    At 0.5 the mark says nothing about the lesion.
    """
    modality = MODALITIES[rng.integers(len(MODALITIES))]
    picture, body = _ANATOMY[modality](rng)
    planned = _plan_lesions(rng)
    mark = _mark(rng, [radius for _, radius in planned]) if bool(planned) == (rng.random() < mark_agreement) else None
    free = body if mark is None else body & ~_grown(mark.mask, 2)
    lesions: list[Lesion] = []
    for kind, radius in planned:
        room = _room(free, radius)
        if room.any():  # a second lesion finds none beside a large one in a small fan
            lesion = _lesion(rng, room, kind, radius)
            lesions.append(lesion)
            picture = _paint(picture, lesion)
            free = free & ~_grown(lesion.mask, 3)
    pixels = _acquire(rng, picture, modality)
    if mark is not None:
        pixels = np.where(mark.mask, 1.0, pixels)  # burned in: no noise upon it
    return Slice((255 * pixels).astype(np.uint8), modality, tuple(lesions), mark)


def _plan_lesions(rng: np.random.Generator) -> list[tuple[str, float]]:
    """Kind and radius of each lesion to be drawn; two of different kinds differ in size beyond doubt."""
    planned: list[tuple[str, float]] = []
    wanted = rng.choice(len(HOW_MANY), p=HOW_MANY)
    while len(planned) < wanted:
        kind = LESIONS[rng.integers(len(LESIONS))]
        radius = float(rng.uniform(*_RADIUS))
        if all(kind == k or 2 * abs(radius - r) >= SIZE_MARGIN for k, r in planned):
            planned.append((kind, radius))
    return planned


def _mark(rng: np.random.Generator, radii: list[float]) -> Mark:
    """A bar three pixels thick along the upper or lower edge, two pixels from the corner, as long as no lesion is wide."""
    fits = [n for n in range(*_MARK_LENGTH) if all(abs(n - 2 * r) >= SIZE_MARGIN for r in radii)]
    length, upper, left = int(rng.choice(fits)), bool(rng.integers(2)), bool(rng.integers(2))
    mask = np.zeros((SIDE, SIDE), bool)
    mask[slice(2, 5) if upper else slice(-5, -2), slice(2, 2 + length) if left else slice(-2 - length, -2)] = True
    return Mark(f"{'upper' if upper else 'lower'} {'left' if left else 'right'}", length, mask)


# ---- anatomy: (rng) -> picture in 0..1, and the body's mask

_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE] + 0.5
_RADIUS = (3.5, 8.0)  # px; of every kind alike, so that no name gives a size away
_MARK_LENGTH = (4, 20)  # px, the last one excluded


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


# ---- lesions


def _lesion(rng: np.random.Generator, room: np.ndarray, kind: str, radius: float) -> Lesion:
    """One lesion with its centre anywhere in `room`, which holds at least one pixel."""
    rows, columns = np.nonzero(room)
    k = rng.integers(len(rows))
    centre = float(rows[k] + 0.5), float(columns[k] + 0.5)
    return Lesion(kind, centre, radius, _outline(rng, centre, radius, kind))


def _room(free: np.ndarray, radius: float) -> np.ndarray:
    """Where a centre may lie: not so that the lesion would stick out of what is free, nor straddle a midline evenly.

    Along eight directions, 0.7 radii must be free: a lesion may touch the rim.
    """
    kept = free & (np.abs(_ROWS - SIDE / 2) >= MIDLINE_MARGIN) & (np.abs(_COLUMNS - SIDE / 2) >= MIDLINE_MARGIN)
    padded = np.pad(free, 8)
    for angle in np.arange(8) * np.pi / 4:
        dr, dc = np.rint(0.7 * radius * np.array([np.sin(angle), np.cos(angle)])).astype(int)
        kept &= padded[8 + dr : 8 + dr + SIDE, 8 + dc : 8 + dc + SIDE]
    return kept


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    """The mask and all within `by` pixels of it, rows and columns."""
    grown = mask.copy()
    for axis in (0, 1):
        for shift in range(1, by + 1):
            grown |= np.roll(mask, shift, axis) | np.roll(mask, -shift, axis)
        mask = grown.copy()
    return grown


def _outline(rng: np.random.Generator, centre: tuple[float, float], radius: float, kind: str) -> np.ndarray:
    """The lesion's exact mask: a disc, lobed for a mass."""
    dr, dc = _ROWS - centre[0], _COLUMNS - centre[1]
    reach = np.full_like(dr, radius)
    if kind == "mass":
        angle = np.arctan2(dr, dc)
        reach = radius * (1 + 0.14 * np.sin(rng.integers(3, 6) * angle + rng.uniform(0, 2 * np.pi)))
    return np.hypot(dr, dc) <= reach


def _paint(picture: np.ndarray, lesion: Lesion) -> np.ndarray:
    """A mass is brighter tissue, a cyst dark fluid within a bright wall, a nodule calcified."""
    if lesion.kind == "mass":
        return np.where(lesion.mask, picture + 0.28, picture)
    if lesion.kind == "nodule":
        return np.where(lesion.mask, 0.98, picture)
    wall = np.hypot(_ROWS - lesion.centre[0], _COLUMNS - lesion.centre[1]) > lesion.radius - 1.3
    return np.where(lesion.mask & wall, 0.85, np.where(lesion.mask, 0.05, picture))


def _acquire(rng: np.random.Generator, picture: np.ndarray, modality: str) -> np.ndarray:
    """The modality's own noise: electronic (CT, X-ray), Rician (MRI), speckle (ultrasound)."""
    if modality == "ultrasound":
        speckle = rng.gamma(16.0, 1 / 16.0, picture.shape)
        return np.clip(picture * speckle, 0, 1)
    noise = rng.normal(0, 0.04 if modality == "ct" else 0.03, (2, *picture.shape))
    if modality == "mri":
        return np.clip(np.hypot(picture + noise[0], noise[1]), 0, 1)
    return np.clip(picture + noise[0], 0, 1)
