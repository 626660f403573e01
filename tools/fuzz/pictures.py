"""Pictures, masks, DICOM and NIfTI: valid ones of every kind, and the readers of them."""

from __future__ import annotations

import gzip
import random
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin
from tools.fuzz import mutate
from tools.fuzz.target import Read, Target

from medlens.data.coco import coco_regions
from medlens.data.dicom import open_dicom
from medlens.data.images import open_image
from medlens.data.masks import labels_of, regions_of
from medlens.types import Embedded, Windowed

FORMATS = (
    "PNG",
    "JPEG",
    "BMP",
    "TIFF",
    "GIF",
    "WEBP",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "SGI",
    "EPS",
    "JPEG2000",
    "DDS",
    "AVIF",
    "PDF",
    "QOI",
)
ENDINGS = (".png", ".jpg", ".tif", ".bmp", ".gif", ".webp")
SIDE = (24, 16)  # height, width


def grey(seed: int = 0) -> np.ndarray:
    """A noisy picture, (height, width) uint8."""
    return np.random.default_rng(seed).integers(0, 256, SIDE, np.uint8)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int = 0) -> bytes:
    return encoded(Image.fromarray(grey(seed)), "PNG")


def _pictures(_: Path) -> list[bytes]:
    made = [_bomb(2**31 - 1, 2**31 - 1), _bomb(60_000, 60_000), _bomb(8_900, 8_900), _text_bomb()]
    rgb = Image.fromarray(np.stack([grey(k) for k in range(3)], -1))
    for kind in FORMATS:
        try:
            made.append(encoded(rgb, kind))
        except (OSError, KeyError, ValueError):  # this build of Pillow does not write it
            continue
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 1, "text"
    made.append(encoded(rgb, "JPEG", exif=exif, icc_profile=b"\0" * 200))
    made.append(encoded(rgb, "TIFF", compression="tiff_lzw", exif=exif))
    made.append(encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90, expand=False)]))
    made.append(encoded(rgb.convert("RGBA"), "PNG"))
    made.append(encoded(rgb.quantize(16), "PNG"))
    made.append(encoded(Image.fromarray(grey().astype(np.uint16) << 8), "PNG"))
    made.append(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n(/etc/passwd) run\n%%EOF\n")
    return made


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a little of it."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + _chunk(b"IEND", b"")


def _text_bomb() -> bytes:
    """A small picture whose text chunk unpacks to 200 MB."""
    text = PngImagePlugin.PngInfo()
    text.add(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 200_000_000, 9))
    return encoded(Image.fromarray(grey()), "PNG", pnginfo=text)


def _picture(seeds: list[bytes], folder: Path, rng: random.Random) -> Read:
    data = mutate.some_bytes(rng.choice(seeds), rng) if rng.random() < 0.95 else rng.choice(seeds)
    path = folder / f"x{rng.choice(ENDINGS)}"
    path.write_bytes(data)
    if rng.random() < 0.3:
        return lambda: open_image(Embedded(data, "x.png"), "s")
    return lambda: open_image(path, "s", grey=rng.random() < 0.5)


def _mask_seeds(folder: Path) -> dict[str, list[bytes]]:
    import nibabel

    labels = (grey() % 4).astype(np.int16)
    nifti = nibabel.Nifti1Image(labels.T[..., None], np.eye(4)).to_bytes()
    coco = {
        "images": [{"id": 1, "file_name": "i.png", "height": SIDE[0], "width": SIDE[1]}],
        "categories": [{"id": 1, "name": "lesion"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "segmentation": None},
            {"image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "segmentation": [[1, 1, 9, 1, 9, 9]]},
            {"image_id": 1, "category_id": 1, "segmentation": {"size": list(SIDE), "counts": [10, 20, SIDE[0] * SIDE[1] - 30]}},
        ],
    }
    pictures = [*_pictures(folder)[:9], encoded(Image.fromarray((grey() % 4).astype(np.uint8)), "PNG")]
    return {".png": pictures, ".nii": [nifti], ".nii.gz": [nifti], ".json": [coco]}  # pyright: ignore


def _mask(seeds: dict[str, list[Any]], folder: Path, rng: random.Random) -> Read:
    ending = rng.choice(list(seeds))
    path = folder / f"m{ending}"
    seed = rng.choice(seeds[ending])
    if ending == ".json":
        text = mutate.as_text(mutate.some_json(seed, rng)).encode()
        path.write_bytes(mutate.some_bytes(text, rng) if rng.random() < 0.2 else text)
        return lambda: [region.array() for region in coco_regions(path, "i.png")]
    data = mutate.some_bytes(seed, rng)
    path.write_bytes(gzip.compress(data, 1) if ending == ".nii.gz" else data)
    if ending == ".png" and rng.random() < 0.5:
        return lambda: [region.array() for region in labels_of(path, {1: "a"})]
    return lambda: [region.array() for region in regions_of(path, folder / "i.png")]


def _dicom_seeds(folder: Path) -> list[bytes]:
    return [
        dicom(bits=bits, **changes)
        for bits in (8, 16)
        for changes in ({}, {"NumberOfFrames": "3"}, {"WindowCenter": "40", "WindowWidth": "400"})
    ]


def dicom(bits: int = 16, **elements: Any) -> bytes:
    """A DICOM file with private tags; `elements` by keyword."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=["seed"])
    data.PatientName, data.PatientID = "Doe^Jane", "4711"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = *SIDE, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits, bits - 1, 0
    data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
    private = data.private_block(0x0043, "HOSTILE", create=True)
    private.add_new(0x01, "OB", bytes(range(64)))
    for name, told in elements.items():
        setattr(data, name, told)
    frames = int(elements.get("NumberOfFrames", 1))
    data.PixelData = np.repeat(grey().astype(np.uint8 if bits == 8 else np.uint16), frames, 0).tobytes()
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _dicom(seeds: list[bytes], folder: Path, rng: random.Random) -> Read:
    path = folder / rng.choice(("x.dcm", "x.png", "x"))
    path.write_bytes(mutate.some_bytes(rng.choice(seeds), rng))
    kind = rng.randrange(4)
    if kind == 0:
        return lambda: [region.array() for region in regions_of(path, path)]
    if kind == 1:
        return lambda: open_image(Windowed(path, (40.0, 400.0), rng.choice((None, 0, 1))), "s")
    return lambda: open_image(path, "s") if kind == 2 else open_dicom(path, frame=rng.choice((None, 0, 2)))


warnings.simplefilter("ignore")  # of Pillow and pydicom: they are no errors, and there are many
TARGETS = (
    Target("picture", 26, _pictures, _picture),
    Target("mask", 12, _mask_seeds, _mask),
    Target("dicom", 12, _dicom_seeds, _dicom),
)
