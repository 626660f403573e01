"""Label maps in NIfTI files, drawn on the very picture the model sees."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medlens.errors import BadImage
from medlens.picture import check_largest
from medlens.types import Region


def is_nifti(path: Path) -> bool:
    """By its ending."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def nifti_regions(path: Path, slice: int | None = None) -> list[Region]:
    """A region for each value but 0, as "label 7", of a file with one slice, or of the chosen one (from 0, along the third axis).

    The first axis runs right and the second down, voxel by voxel, as ITK's tools save what was drawn on a picture. The affine
    matrix is not looked at: a slice of a volume in scanner space must be turned as its picture was. Raises BadImage: unreadable,
    several slices and none chosen, values that are no labels, nibabel is missing.
    """
    values = np.unique(_labels(path, slice))
    return [Region(f"label {v}", draw=partial(_is_label, path, slice, v)) for v in values.tolist() if v != 0]


def _is_label(path: Path, slice: int | None, value: int) -> np.ndarray:
    return _labels(path, slice) == value


def _labels(path: Path, slice: int | None) -> np.ndarray:
    """(height, width) of whole numbers. Of a volume nothing but the slice is unpacked."""
    try:
        import nibabel
    except ImportError as e:
        raise BadImage(f"mask {path.name} is a NIfTI file; reading it needs nibabel: pip install 'medlens[dicom]'") from e
    try:
        voxels: Any = nibabel.load(path).dataobj  # pyright: ignore
        width, height, count = _shape(voxels.shape, path)
        if slice is None and count > 1:
            raise BadImage(f"mask {path.name} holds {count} slices; save the one of the image")
        if not 0 <= (slice or 0) < count:
            raise BadImage(f"mask {path.name} holds {count} slices, counted from 0; got slice={slice}")
        check_largest(width, height, f"mask {path.name}")
        at = (slice or 0, *(0 for _ in voxels.shape[3:])) if len(voxels.shape) > 2 else ()
        flat = np.asarray(voxels[(..., *at)]).T
    except BadImage:
        raise
    except Exception as e:  # a damaged file can make nibabel fail in any way
        raise BadImage(f"mask {path.name} is not a NIfTI file, or is damaged ({type(e).__name__})") from e
    if flat.dtype.kind in "iu":
        return flat
    whole = flat.astype(np.int64)
    if not (flat == whole).all():
        raise BadImage(f"mask {path.name} holds fractions; expected labels (whole numbers)")
    return whole


def _shape(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    """Width, height, slices."""
    if len(shape) < 2 or any(n != 1 for n in shape[3:]):
        raise BadImage(f"mask {path.name} has the shape {shape}; expected two axes, or three")
    return shape[0], shape[1], shape[2] if len(shape) > 2 else 1
