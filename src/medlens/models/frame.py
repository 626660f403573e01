"""An image as the model sees it, after padding, resizing and cropping: the frame that its patches tile."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from medlens.errors import BadModel
from medlens.models.base import Model
from medlens.models.prompt import look


def frame(model: Model, image: Image.Image) -> np.ndarray:
    """(height, width, 3) in 0..1: the image processor's pixels, its normalisation undone.

    Raises BadModel for a model that is not shown one picture of three channels (several tiles, patches in a row).
    """
    pixels = look(model, [image]).inputs.get("pixel_values")
    if pixels is None or pixels.ndim != 4 or tuple(pixels.shape[:2]) != (1, 3):
        said = "none" if pixels is None else f"pixels of shape {tuple(pixels.shape)}"
        raise BadModel(f"{model.name} is shown {said} for one image; expected (1, 3, height, width) to lay a grid of patches on")
    processor = model.processor.image_processor
    shown = pixels[0].permute(1, 2, 0).float().cpu().numpy()
    if getattr(processor, "do_normalize", False):
        shown = shown * np.asarray(processor.image_std) + np.asarray(processor.image_mean)
    return shown.clip(0, 1)


def side_of(model: Model, patches: int) -> int:
    """Of a square grid of so many patches. Raises BadModel for another number."""
    side = math.isqrt(patches)
    if not patches or side * side != patches:
        raise BadModel(f"{model.name} has {patches} image tokens for one image: not a square grid of patches")
    return side


def covered(model: Model, mask: np.ndarray, patches: int) -> np.ndarray:
    """(patches) in 0..1: the share of each patch that a mask (height, width) of the original image covers. The mask goes the way
    the image goes; what the processor pads is not covered."""
    seen = frame(model, Image.fromarray(mask.astype(np.uint8) * 255)).min(2) > 0.75  # above any colour that is padded with
    side = side_of(model, patches)
    rows, columns = (np.arange(n) * side // n for n in seen.shape)
    total, inside = np.zeros((side, side)), np.zeros((side, side))
    np.add.at(total, (rows[:, None], columns[None]), 1.0)
    np.add.at(inside, (rows[:, None], columns[None]), seen)
    return (inside / np.maximum(total, 1)).ravel()
