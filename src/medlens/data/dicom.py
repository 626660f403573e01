"""A DICOM file as the picture a viewer would show: DICOM PS3.3, C.11.1 (modality) and C.11.2 (values of interest, its window).

Nothing of the header leaves this file but the picture: not in names, and not in errors, which do not quote pydicom for that reason.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medlens.data.sizes import check_size
from medlens.errors import BadImage, BadInput
from medlens.types import ImageLike, Sample, Windowed

if TYPE_CHECKING:
    from pydicom import Dataset

META = 128 + 4 + 12  # bytes in front of what FileMetaInformationGroupLength counts: preamble, DICM, and that element
INFLATED, PIECE = 256 * 2**20, 2**20

SUFFIXES = (".dcm", ".dicom")
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
DECODERS = "pip install 'pylibjpeg[all]'"


def is_dicom(path: Path) -> bool:
    """By its ending, or by the mark after its preamble; the index DICOMDIR is none."""
    if path.suffix.lower() in SUFFIXES or path.name == "DICOMDIR":
        return path.name != "DICOMDIR"
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def through(samples: Sequence[Sample], window: tuple[float, float]) -> list[Sample]:
    """The samples with every DICOM file among their images shown through this window; other images stay as they are."""

    def shown(image: ImageLike) -> ImageLike:
        return Windowed(Path(image), window) if isinstance(image, str | Path) and is_dicom(Path(image)) else image

    return [sample.showing([shown(image) for image in sample.images]) for sample in samples]


def open_dicom(
    path: str | Path, window: tuple[float, float] | None = None, frame: int | None = None, what: str = ""
) -> Image.Image:
    """The picture, 8 bits, grey ("L") or "RGB": modality LUT, then the file's VOI LUT or first window, then its own output range to
    0..255, then MONOCHROME1 inverted. Without any window, 8 stored bits are taken as they are, and more of them from the picture's
    lowest value to its highest.

    window: (centre, width) in the units of the modality (CT: Hounsfield), instead of the file's. frame: which one, from 0.
    Raises BadImage (beginning with `what`): no DICOM, no pixel data, several frames and none chosen, no decoder, corrupt.
    """
    path = Path(path)
    what = what or f"image {path.name}"
    if window is not None and not window[1] >= 1:
        raise BadInput(f"window is (centre, width), the width at least 1; got {window}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote the header
            data = read_dicom(path, what)
            chosen = _frame(data, frame, what)
            _lift_frame_groups(data, chosen)
            render = _colour if data.SamplesPerPixel > 1 or _palette(data) else _grey
            return Image.fromarray(render(data, chosen, window, what))
    except (BadImage, BadInput, FileNotFoundError):
        raise
    except Exception as e:  # a damaged file can make pydicom fail in any way
        raise BadImage(f"{what} is a DICOM file that is corrupt, or of a kind that cannot be read ({type(e).__name__})") from e


def read_dicom(path: Path, what: str) -> Dataset:
    """The data set, which holds pixels. Raises BadImage, beginning with `what`, where pydicom is missing or it is none."""
    try:
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError
        from pydicom.filereader import read_file_meta_info
        from pydicom.uid import DeflatedExplicitVRLittleEndian
    except ImportError as e:
        raise BadImage(f"{what} is a DICOM file; reading it needs pydicom: pip install 'medlens[dicom]'") from e
    try:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            _check_inflated(path, META + meta.FileMetaInformationGroupLength, what)
        data = dcmread(path)
    except InvalidDicomError as e:
        raise BadImage(f"{what} is not a DICOM file, whatever its name says (no DICM after its preamble)") from e
    if not any(name in data for name in PIXELS):
        raise BadImage(f"{what} is a DICOM file without pixel data (a report, a plan, an index?)")
    return data


def _check_inflated(path: Path, begin: int, what: str) -> None:
    """Raises BadImage for a file, deflated from byte `begin` on, that would become larger than INFLATED: of a bomb, a kilobyte
    becomes a megabyte."""
    inflating, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        file.seek(begin)
        while waiting := inflating.unconsumed_tail or file.read(PIECE):
            total += len(inflating.decompress(waiting, PIECE))
            if total > INFLATED:
                raise BadImage(
                    f"{what} becomes larger than {INFLATED >> 20} MiB when it is inflated; save it with another transfer syntax"
                )


def stored_pixels(data: Dataset, frame: int, what: str) -> np.ndarray:
    """One frame as stored, (height, width) or (height, width, 3) RGB. Raises BadImage where nothing installed decompresses it."""
    from pydicom.pixels.utils import pixel_array

    try:
        return pixel_array(data, index=frame)
    except RuntimeError as e:
        syntax = data.file_meta.TransferSyntaxUID
        if not syntax.is_compressed:
            raise
        raise BadImage(f"{what} is compressed ({syntax.name}) and no decoder that is installed reads it: {DECODERS}") from e


def _frame(data: Dataset, frame: int | None, what: str) -> int:
    count = int(data.get("NumberOfFrames") or 1)
    check_size(int(data.Columns), int(data.Rows), what)
    if frame is None and count > 1:
        raise BadImage(f"{what} holds {count} frames; save the one that is asked about, or open it with open_dicom(path, frame=)")
    if not 0 <= (frame or 0) < count:
        raise BadInput(f"{what} holds {count} frames, counted from 0; got frame={frame}")
    return frame or 0


def _lift_frame_groups(data: Dataset, frame: int) -> None:
    """Enhanced files keep a frame's rescaling and window in groups; the functions below look for them at the top."""
    shared, each = data.get("SharedFunctionalGroupsSequence"), data.get("PerFrameFunctionalGroupsSequence")
    for group in [*(shared or [])[:1], *(each or [])[frame : frame + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(name) or []:
                data.update(item)


def _grey(data: Dataset, frame: int, window: tuple[float, float] | None, what: str) -> np.ndarray:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    values = apply_modality_lut(stored_pixels(data, frame, what), data)
    if window is not None:
        data.WindowCenter, data.WindowWidth = map(float, window)
        for name in ("VOILUTSequence", "VOILUTFunction"):
            data.pop(name, None)
    low, high = _output_range(data, values)
    shown = apply_voi_lut(values, data).astype(np.float64)
    eight = np.rint((shown - low) / (high - low or 1) * 255).clip(0, 255).astype(np.uint8)
    return 255 - eight if data.PhotometricInterpretation == "MONOCHROME1" else eight


def _output_range(data: Dataset, values: np.ndarray) -> tuple[float, float]:
    """What black and white are after `apply_voi_lut`: of a window, where it sends minus and plus infinity."""
    from pydicom.pixels.processing import apply_voi_lut

    if data.get("VOILUTSequence"):
        return 0, 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if data.get("WindowCenter") is not None and data.get("WindowWidth") is not None:
        with np.errstate(over="ignore"):
            low, high = apply_voi_lut(np.array([-1e12, 1e12]), data)
        return float(low), float(high)
    rescaled = data.get("ModalityLUTSequence") or "RescaleSlope" in data
    if data.BitsStored <= 8 and data.PixelRepresentation == 0 and not rescaled:
        return 0, 2**data.BitsStored - 1
    return float(values.min()), float(values.max())


def _palette(data: Dataset) -> bool:
    return data.PhotometricInterpretation == "PALETTE COLOR"


def _colour(data: Dataset, frame: int, window: tuple[float, float] | None, what: str) -> np.ndarray:
    """(height, width, 3) uint8; what is stored as YBR comes out of pydicom as RGB."""
    from pydicom.pixels.processing import apply_color_lut

    if window is not None:
        raise BadInput(f"{what} is a colour picture; a window is for grey ones")
    pixels = stored_pixels(data, frame, what)
    if _palette(data):
        pixels = apply_color_lut(pixels, data)[..., :3]
        bits = pixels.dtype.itemsize * 8
    else:
        bits = int(data.BitsStored)
    return (pixels >> max(0, bits - 8)).astype(np.uint8)
