"""Picture files that somebody else has made: opened as few kinds, of a size that memory holds, and with one kind of error."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medlens.errors import BadImage

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
# By content, whatever the name says. Pillow knows forty kinds more; some hand the file to another program (EPS to Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF")
LARGEST = 80_000_000  # pixels: above it lies the realm of whole slides and decompression bombs
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    EOFError,
)


@contextmanager
def opened(source: Path | bytes, what: str) -> Iterator[Image.Image]:
    """The picture in a file, or in the bytes of one, not decoded yet. Raises BadImage, beginning with `what`: missing, no ordinary
    file, none of FORMATS, over 80 megapixels, or damaged; whatever Pillow raises inside of the context means the last.
    """
    if isinstance(source, Path):
        check_file(source, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's are of files' oddities; our own limit is below its
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as found:
                check_largest(*found.size, what)
                yield found
    except UnidentifiedImageError as e:
        raise BadImage(f"{what} is not an image that can be read ({', '.join(sorted(SUFFIXES))}), or is corrupt") from e
    except Image.DecompressionBombError as e:
        raise BadImage(f"{what} is larger than {LARGEST // 10**6} megapixels; crop or downsize it first") from e
    except MemoryError as e:
        raise BadImage(f"{what} asks for more memory than there is: it is damaged, or too large for this machine") from e
    except DAMAGED as e:
        raise BadImage(f"{what} is corrupt or unreadable: {getattr(e, 'strerror', None) or e}") from e  # without the path to it


def within(folder: Path, name: str) -> Path | None:
    """The file of this name in a folder; None where there is none, and where the name leads out of it (dots, links): a table, which
    somebody else may have written, can name any file."""
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError):  # a name that no file can have: too long, with a zero in it
        return None


def check_file(path: Path, what: str) -> None:
    """Raises BadImage for what is not there or may not be read, and for what is read without end (a pipe, a device)."""
    try:
        if path.is_dir():
            raise BadImage(f"{what} is a folder")
        if not path.is_file():
            raise BadImage(f"{what} is no ordinary file" if path.exists() else f"{what} does not exist")
    except OSError as e:
        raise BadImage(f"{what} cannot be read: {e.strerror}") from e


def check_largest(width: int, height: int, what: str) -> None:
    """Raises BadImage for a picture that is too large (pixels)."""
    if width * height > LARGEST:
        raise BadImage(f"{what} has {width} x {height} pixels, over {LARGEST // 10**6} megapixels; crop or downsize it first")
