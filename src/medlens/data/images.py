"""Open an image as RGB, or say in one line why not. Nothing is shown to a model that needs a decision which changes the picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from medlens.data.dicom import is_dicom, open_dicom
from medlens.data.sizes import check_size
from medlens.errors import BadImage
from medlens.picture import SUFFIXES as SUFFIXES
from medlens.picture import check_file, opened
from medlens.types import Embedded, ImageLike, Renamed, Windowed, file_name

ORIENTATION = 0x0112  # the EXIF tag
SIXTEEN_BIT = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def open_image(image: ImageLike, sample: str = "", grey: bool = False) -> Image.Image:
    """The image as RGB: grey, palette, CMYK and opaque RGBA are converted as PIL does (and as LLaVA-Med's own code does).
    With `grey`, a grey image stays grey (mode L): LLaVA-Med pads it before it converts it. A DICOM file is shown through its own
    window (see `dicom.open_dicom`).

    Raises BadImage, naming the sample and file: missing, corrupt, under 8 pixels a side, over 80 megapixels, several frames,
    more than 8 bits a channel (which window?), partly transparent (on which background?), to be turned
    by its EXIF (where is left?).
    """
    whose = f"sample {sample}: " if sample else ""
    if isinstance(image, Image.Image):
        return _checked(image, f"{whose}the image", grey)
    what = f"{whose}image {file_name(image)}"
    if isinstance(image, Renamed):
        image = image.image
    if isinstance(image, Windowed):
        return _checked(open_dicom(image.path, image.window, image.frame, what), what, grey)
    source = image.data if isinstance(image, Embedded) else Path(image)
    if isinstance(source, Path):
        check_file(source, what)
        if is_dicom(source):
            return _checked(open_dicom(source, what=what), what, grey)
    with opened(source, what) as picture:
        return _checked(picture, what, grey)


def _checked(image: Image.Image, what: str, grey: bool) -> Image.Image:
    check_size(*image.size, what)
    if getattr(image, "n_frames", 1) > 1:
        raise BadImage(f"{what} holds {image.n_frames} frames; save the one that is asked about")  # pyright: ignore
    if image.getexif().get(ORIENTATION, 1) != 1:
        raise BadImage(f"{what} says in its EXIF that it is to be turned for viewing; save it turned, so that left is left")
    if image.mode in SIXTEEN_BIT:
        raise BadImage(f"{what} has more than 8 bits a channel ({image.mode}); export it with its window applied, as 8 bit")
    if "A" in image.getbands() or "transparency" in image.info:
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
        if lowest != 255:
            raise BadImage(f"{what} is partly transparent; flatten it onto the background it is meant to be seen on")
    return image.convert("L" if grey and image.mode == "L" else "RGB")
