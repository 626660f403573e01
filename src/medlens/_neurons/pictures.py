"""A unit's mask on an image, as the model sees the image."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

from medlens.data.images import open_image
from medlens.errors import BadModel
from medlens.models.base import Model
from medlens.models.frame import frame, side_of
from medlens.walk.cases import Prompt

SIDE = 224  # pixels
MASK, PEAK = (230, 159, 0), (255, 255, 255)  # outlines: cells in the mask; the most active one


def masked(model: Model, prompt: Prompt, values: np.ndarray, limit: float) -> bytes:
    """A PNG: the image, cells above the limit outlined, the most active one twice. Where the tokens are no grid on one picture,
    the image alone."""
    image = open_image(prompt.sample.image, prompt.sample.id)
    try:
        pixels, side = frame(model, image), side_of(model, len(values))
    except BadModel:
        return _png(image.convert("RGB").resize((SIDE, SIDE)))
    shown = Image.fromarray((pixels * 255).round().astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    pen, across = ImageDraw.Draw(shown), SIDE / side
    for at in np.flatnonzero(values > limit):
        pen.rectangle(_box(int(at), side, across), outline=MASK, width=2)
    pen.rectangle(_box(int(values.argmax()), side, across, 3), outline=PEAK, width=1)
    return _png(shown)


def _box(at: int, side: int, across: float, inset: int = 0) -> tuple[float, float, float, float]:
    row, column = divmod(at, side)
    return column * across + inset, row * across + inset, (column + 1) * across - 1 - inset, (row + 1) * across - 1 - inset


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
