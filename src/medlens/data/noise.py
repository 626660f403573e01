"""Noise in place of an image: what a measure gives where there is nothing to be seen."""

from __future__ import annotations

import numpy as np
from PIL import Image


def noise_like(image: Image.Image, seed: int, number: int) -> Image.Image:
    """Uniform noise of the size and mode (L or RGB) of an image, one byte a pixel and band. number: of the image in its study, so
    that distinct images stay distinct."""
    shape = (image.height, image.width, *([3] if image.mode == "RGB" else []))
    return Image.fromarray(np.random.default_rng((seed, number)).integers(0, 256, shape, dtype=np.uint8))
