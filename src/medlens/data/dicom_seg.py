"""DICOM segmentations (PS3.3 A.51): several segments, each in frames that say which image they belong to."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medlens.data.dicom import is_dicom, read_dicom, stored_pixels
from medlens.errors import BadImage
from medlens.types import Region

if TYPE_CHECKING:
    from pydicom import Dataset


def seg_regions(path: Path, image: str | Path | None = None) -> list[Region]:
    """A region for each segment, as "segment 1": its label is free text of a header, and stays there.

    A segment's frame is the one that refers to the image, where that is a DICOM file; else its only one. Raises BadImage: no
    segmentation, no frame for the image, or several.
    """
    what = f"mask {path.name}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote the header
        try:
            data = read_dicom(path, what)
            frames = _frames(data, _uid(Path(image)) if image is not None and is_dicom(Path(image)) else None)
        except BadImage:
            raise
        except Exception as e:  # a damaged file can make pydicom fail in any way
            raise BadImage(f"{what} is a DICOM file, but not a segmentation") from e
    if not frames:
        raise BadImage(f"{what} has no frame that belongs to image {Path(image).name if image is not None else ''}")
    if several := [number for number, mine in frames.items() if len(mine) > 1]:
        raise BadImage(f"{what} has {len(frames[several[0]])} frames of segment {several[0]}, and none is known to be the image's")
    return [Region(f"segment {number}", draw=partial(_draw, path, frame)) for number, (frame,) in sorted(frames.items())]


def _frames(data: Dataset, uid: str | None) -> dict[int, list[int]]:
    """Segment number -> its frames that refer to the image `uid`; where that is unknown, all."""
    found: dict[int, list[int]] = {}
    for frame, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        if uid is None or uid in _sources(group):
            number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            found.setdefault(number, []).append(frame)
    return found


def _sources(group: Dataset) -> set[str]:
    derived = group.get("DerivationImageSequence") or []
    return {str(source.ReferencedSOPInstanceUID) for d in derived for source in d.get("SourceImageSequence") or []}


def _uid(image: Path) -> str | None:
    import pydicom

    try:
        return str(pydicom.dcmread(image, specific_tags=["SOPInstanceUID"], stop_before_pixels=True).SOPInstanceUID)
    except Exception:  # intake says what is wrong with the image
        return None


def _draw(path: Path, frame: int) -> np.ndarray:
    """(height, width) bool; of a fractional segmentation, what is at least half full."""
    what = f"mask {path.name}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = read_dicom(path, what)
            full = data.MaximumFractionalValue if data.SegmentationType == "FRACTIONAL" else 1
            return stored_pixels(data, frame, what) * 2.0 >= full
    except BadImage:
        raise
    except Exception as e:  # a damaged file can make pydicom fail in any way
        raise BadImage(f"{what} is a DICOM file that is corrupt ({type(e).__name__})") from e
