"""Regions from mask files of any kind. They are drawn when needed, so that a data set's masks need not fit in memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from medlens.data.coco import coco_regions
from medlens.data.dicom import is_dicom
from medlens.data.dicom_seg import seg_regions
from medlens.data.nifti import is_nifti, nifti_regions
from medlens.errors import BadImage
from medlens.picture import opened
from medlens.types import ImageLike, Region


def regions_of(mask: Path, image: ImageLike) -> list[Region]:
    """What a mask file says of an image: DICOM-SEG, NIfTI, COCO's JSON, or a picture that is bright where the region is."""
    if is_nifti(mask):
        return nifti_regions(mask)
    if is_dicom(mask):
        return seg_regions(mask, image if isinstance(image, str | Path) else None)
    if mask.suffix.lower() == ".json":
        if isinstance(image, Image.Image):
            raise BadImage(f"mask {mask.name} names images by file; this one is in memory")
        return coco_regions(mask, Path(image).name if isinstance(image, str | Path) else image.name)
    return [Region("mask", mask_path=mask)]


def labels_of(path: Path, names: Mapping[int, str]) -> list[Region]:
    """A region for each value of a label map but 0, by `names`, or as "label 7". Raises BadImage for what is no label map."""
    values = np.unique(_label_map(path))
    return [Region(names.get(v, f"label {v}"), draw=partial(_is_label, path, v)) for v in values.tolist() if v != 0]


def _is_label(path: Path, value: int) -> np.ndarray:
    return _label_map(path) == value


def _label_map(path: Path) -> np.ndarray:
    """(height, width) of ints. A colour picture counts as one where its channels agree."""
    with opened(path, f"label map {path.parent.name}/{path.name}") as picture:
        values = np.asarray(picture)
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise BadImage(f"label map {path.parent.name}/{path.name} is a colour picture; expected one value a pixel")
    return values if values.dtype.kind in "iu" else values.astype(np.int32)
