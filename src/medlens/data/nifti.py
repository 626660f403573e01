"""Label maps in NIfTI files, drawn on the very picture the model sees."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from medlens.errors import BadImage
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
    """(height, width) of ints."""
    values = _voxels(path)
    if values.ndim < 2 or values.shape[2:] != (slices := values.shape[2:3]):
        raise BadImage(f"mask {path.name} has the shape {values.shape}; expected two axes, or three")
    count = slices[0] if slices else 1
    if slice is None and count > 1:
        raise BadImage(f"mask {path.name} holds {count} slices; save the one of the image")
    if not 0 <= (slice or 0) < count:
        raise BadImage(f"mask {path.name} holds {count} slices, counted from 0; got slice={slice}")
    flat = values.reshape(*values.shape[:2], count)[..., slice or 0].T
    if not (flat == np.rint(flat)).all():
        raise BadImage(f"mask {path.name} holds fractions; expected labels (whole numbers)")
    return flat.astype(int)


def _voxels(path: Path) -> np.ndarray:
    try:
        import nibabel
    except ImportError as e:
        raise BadImage(f"mask {path.name} is a NIfTI file; reading it needs nibabel: pip install 'medlens[dicom]'") from e
    try:
        values = np.asarray(nibabel.load(path).dataobj)  # pyright: ignore
    except Exception as e:  # a damaged file can make nibabel fail in any way
        raise BadImage(f"mask {path.name} is not a NIfTI file, or is damaged ({type(e).__name__})") from e
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    return values
