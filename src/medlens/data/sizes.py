"""How small and how large a picture may be."""

from __future__ import annotations

from medlens.errors import BadImage
from medlens.picture import check_largest

SMALLEST = 8  # pixels a side


def check_size(width: int, height: int, what: str) -> None:
    """Raises BadImage, beginning with `what`, for a picture that is too small or too large (pixels)."""
    if min(width, height) < SMALLEST:
        raise BadImage(f"{what} has {width} x {height} pixels; at least {SMALLEST} a side are needed")
    check_largest(width, height, what)
