"""How small and how large a picture may be."""

from __future__ import annotations

from medlens.errors import BadImage

SMALLEST = 8  # pixels a side
LARGEST = 80_000_000  # pixels: above it lies the realm of whole slides and decompression bombs


def check_size(width: int, height: int, what: str) -> None:
    """Raises BadImage, beginning with `what`, for a picture that is too small or too large (pixels)."""
    if min(width, height) < SMALLEST:
        raise BadImage(f"{what} has {width} x {height} pixels; at least {SMALLEST} a side are needed")
    if width * height > LARGEST:
        raise BadImage(f"{what} has {width} x {height} pixels, over {LARGEST // 10**6} megapixels; crop or downsize it first")
