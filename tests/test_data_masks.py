"""Masks of every kind, against nibabel, pydicom, pycocotools, and a look at every pixel."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import medlens
from medlens.data.coco import decode_run_lengths, polygons_mask
from medlens.data.intake import take_in
from medlens.data.nifti import nifti_regions
from medlens.errors import BadData, BadImage

BLOT = np.zeros((20, 30), np.uint8)
BLOT[3:9, 4:20], BLOT[12:, 25:] = 1, 4


@pytest.fixture
def read(tmp_path):
    """Reads one sample with the image a.png, 30 x 20, and this mask file."""
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(tmp_path / "a.png")

    def one(mask, image="a.png"):
        (tmp_path / "data.jsonl").write_text(json.dumps({"image": str(image), "question": "what ?", "mask": mask}))
        (sample,) = medlens.read(tmp_path / "data.jsonl")
        return take_in([sample]).samples[0]

    return one


def arrays(sample):
    return {region.name: region.array() for region in sample.regions}


class TestNifti:
    @pytest.fixture
    def save(self, tmp_path):
        nibabel = pytest.importorskip("nibabel", reason="no nibabel: pip install 'medlens[dicom]'")

        def save(values, name="mask.nii.gz"):
            nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), tmp_path / name)
            return name

        return save

    @pytest.mark.parametrize("axes", [2, 3, 4])
    @pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
    def test_labels(self, save, read, axes, name):
        found = arrays(read(save(BLOT.T.reshape(30, 20, *[1] * (axes - 2)), name)))
        assert list(found) == ["label 1", "label 4"]
        assert all(np.array_equal(found[f"label {v}"], v == BLOT) for v in (1, 4))

    def test_a_slice(self, save, read, tmp_path):
        volume = np.stack([BLOT.T * 0, BLOT.T, BLOT.T[::-1]], axis=-1).astype(np.float32)
        with pytest.raises(BadImage, match=r"data\.jsonl line 1: mask mask\.nii\.gz holds 3 slices"):
            read(save(volume))
        for k, expected in ((1, BLOT == 4), (2, BLOT[:, ::-1] == 4)):
            assert np.array_equal(nifti_regions(tmp_path / "mask.nii.gz", slice=k)[1].array(), expected)
        with pytest.raises(BadImage, match="got slice=3"):
            nifti_regions(tmp_path / "mask.nii.gz", slice=3)

    def test_what_is_no_mask(self, save, read, tmp_path):
        with pytest.raises(BadImage, match="fractions"):
            read(save(BLOT.T / np.float32(2)))
        with pytest.raises(BadImage, match=r"shape \(30, 20, 1, 2\)"):
            read(save(np.zeros((30, 20, 1, 2), np.uint8)))
        with pytest.raises(BadImage, match="20 x 30 pixels, its image 30 x 20"):
            read(save(BLOT))
        (tmp_path / "mask.nii.gz").write_text("none")
        with pytest.raises(BadImage, match="not a NIfTI file"):
            read("mask.nii.gz")

    def test_without_nibabel(self, save, read, monkeypatch):
        name = save(BLOT.T)
        monkeypatch.setitem(sys.modules, "nibabel", None)
        with pytest.raises(BadImage, match=r"pip install 'medlens\[dicom\]'"):
            read(name)


class TestDicomSegmentation:
    @pytest.fixture
    def seg(self):
        pydicom = pytest.importorskip("pydicom", reason="no pydicom: pip install 'medlens[dicom]'")
        from pydicom.data import get_testdata_file

        return pydicom.dcmread(get_testdata_file("liver.dcm"))

    @pytest.fixture
    def image(self, seg, tmp_path):
        """A DICOM image of the name that the segmentation's frame k refers to."""
        from pydicom.data import get_testdata_file

        def image(k):
            import pydicom

            scan = pydicom.dcmread(get_testdata_file("image_dfl.dcm"))
            source = seg.PerFrameFunctionalGroupsSequence[k].DerivationImageSequence[0].SourceImageSequence[0]
            scan.SOPInstanceUID = scan.file_meta.MediaStorageSOPInstanceUID = source.ReferencedSOPInstanceUID
            scan.save_as(tmp_path / f"scan{k}.dcm")
            return f"scan{k}.dcm"

        return image

    def test_the_frame_of_the_image(self, seg, image, read, tmp_path):
        seg.save_as(tmp_path / "mask.dcm")
        for k in range(3):
            found = arrays(read("mask.dcm", image(k)))
            assert list(found) == ["segment 1"]  # in its header: Liver
            assert np.array_equal(found["segment 1"], seg.pixel_array[k] == 1)
        assert not np.array_equal(seg.pixel_array[0], seg.pixel_array[1])

    def test_fractions_are_cut_at_half(self, seg, image, read, tmp_path):
        full = np.tile(np.arange(0, 256, dtype=np.uint8), (3, 512, 2))
        seg.PixelData, seg.BitsAllocated, seg.BitsStored, seg.HighBit = full.tobytes(), 8, 8, 7
        seg.SegmentationType, seg.MaximumFractionalValue = "FRACTIONAL", 255
        seg.save_as(tmp_path / "mask.dcm")
        assert np.array_equal(arrays(read("mask.dcm", image(0)))["segment 1"], full[0] > 127)

    def test_no_frame_or_several(self, seg, image, read, tmp_path):
        seg.save_as(tmp_path / "mask.dcm")
        with pytest.raises(BadImage, match=r"line 1: mask mask\.dcm has 3 frames of segment 1"):
            read("mask.dcm")
        name = image(0)
        for group in seg.PerFrameFunctionalGroupsSequence:
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
        seg.save_as(tmp_path / "mask.dcm")
        with pytest.raises(BadImage, match=r"no frame that belongs to image scan0\.dcm"):
            read("mask.dcm", name)
        with pytest.raises(BadImage, match="not a segmentation"):
            read(name, name)


def coco(tmp_path, *annotations, **more):
    whole = {
        "images": [{"id": 7, "file_name": "images/a.png", "width": 30, "height": 20}, {"id": 8, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "mass"}],
        "annotations": [{"id": k, "image_id": 7, "category_id": 1, **a} for k, a in enumerate(annotations)],
    }
    (tmp_path / "masks.json").write_text(json.dumps({**whole, **more}))
    return "masks.json"


def runs(mask):
    """Run lengths, one pixel after another."""
    counts, last = [0], False
    for pixel in mask.T.ravel():
        if pixel != last:
            counts.append(0)
            last = pixel
        counts[-1] += 1
    return counts


class TestCoco:
    def test_all_kinds(self, tmp_path, read):
        sample = read(
            coco(
                tmp_path,
                {"bbox": [4, 3, 16, 6]},
                {"bbox": [0, 0, 1, 1], "segmentation": [[4, 3, 20, 3, 20, 9, 4, 9]]},
                {"segmentation": {"counts": runs(BLOT == 1), "size": [20, 30]}},
                {"bbox": [0, 0, 9, 9], "segmentation": [], "category_id": 5},
                {"bbox": [0, 0, 9, 9], "image_id": 8},
            )
        )
        assert [r.name for r in sample.regions] == ["mass", "mass", "mass", "category 5"]
        assert all(np.array_equal(r.array(), BLOT == 1) for r in sample.regions[:3])
        assert sample.regions[3].array().sum() == 81

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ({"images": []}, r"masks\.json names 0 images a\.png"),
            ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, r"names 2 images a\.png"),
            ({"annotations": [{"image_id": 7, "category_id": 1}]}, "not in COCO's form .* 'bbox'"),
            ({"images": 5}, "not in COCO's form"),
        ],
    )
    def test_what_cannot_be_read(self, tmp_path, read, more, says):
        with pytest.raises(BadData, match=r"data\.jsonl line 1: .*" + says):
            read(coco(tmp_path, **more))

    def test_run_lengths_that_do_not_fit(self, tmp_path, read):
        with pytest.raises(BadImage, match="cover 599 pixels of a mask of 30 x 20"):
            read(coco(tmp_path, {"segmentation": {"counts": [599], "size": [20, 30]}}))

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.booleans(), st.integers(0, 2**31))
    def test_run_lengths_as_pycocotools_writes_them(self, height, width, share, smooth, seed):
        tools = pytest.importorskip("pycocotools.mask", reason="no pycocotools: pip install pycocotools")
        mask = np.random.default_rng(seed).random((height, 1 if smooth else width)) < share
        mask = np.broadcast_to(mask, (height, width))
        written = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert np.array_equal(decode_run_lengths(written["counts"], (height, width)), mask)
        assert np.array_equal(decode_run_lengths(written["counts"].decode(), (height, width)), mask)
        assert np.array_equal(decode_run_lengths(runs(mask), (height, width)), mask)

    def test_long_runs(self):
        tools = pytest.importorskip("pycocotools.mask", reason="no pycocotools: pip install pycocotools")
        mask = np.zeros((900, 700), np.uint8, order="F")
        mask[:, 300:302], mask[5, 600] = 1, 1
        assert np.array_equal(decode_run_lengths(tools.encode(mask)["counts"], mask.shape), mask)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(st.integers(-20, 140), st.integers(-20, 140)), min_size=3, max_size=9))
    def test_polygons_pixel_by_pixel(self, corners):
        corners = [(x / 10 * 2 + 0.03, y / 10 * 2 + 0.07) for x, y in corners]  # so that no centre lies on an edge

        def inside(x, y):
            odd = False
            for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
                if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
                    odd = not odd
            return odd

        expected = [[inside(x + 0.5, y + 0.5) for x in range(24)] for y in range(18)]
        assert np.array_equal(polygons_mask((18, 24), [np.ravel(corners)]), expected)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools.*")
    def test_polygons_as_pycocotools_draws_them(self):
        """It draws on a finer grid and rounds: the same but along the edge."""
        tools = pytest.importorskip("pycocotools.mask", reason="no pycocotools: pip install pycocotools")
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        polygon = np.stack([60 + 40 * np.cos(angle), 50 + 25 * np.sin(angle)], -1).ravel()
        ours = polygons_mask((100, 120), [polygon, [1, 1, 9, 1, 9, 9]])
        theirs = tools.decode(tools.merge(tools.frPyObjects([list(polygon), [1, 1, 9, 1, 9, 9]], 100, 120))).astype(bool)
        assert 0 < (ours ^ theirs).sum() < 0.03 * theirs.sum()
