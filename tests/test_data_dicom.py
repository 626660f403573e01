"""DICOM: pydicom's own test files against the standard's formulas, written out here."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medlens
from medlens.data import open_dicom, open_image
from medlens.errors import BadImage, BadInput, MedlensError
from medlens.types import Windowed

pydicom = pytest.importorskip("pydicom", reason="no pydicom: pip install 'medlens[dicom]'")
pytest.importorskip("data_store", reason="no test files: pip install pydicom-data")


def file(name):
    from pydicom.data import get_testdata_file

    return get_testdata_file(name)


def pixels(*args, **options):
    return np.asarray(open_dicom(*args, **options))


def linear(values, centre, width):
    """PS3.3 C.11.2.1.2.1, straight from its pseudocode, one pixel after another, to 0..255."""
    out = np.zeros(values.shape)
    for at, x in np.ndenumerate(values.astype(float)):
        if x <= centre - 0.5 - (width - 1) / 2:
            out[at] = 0
        elif x > centre - 0.5 + (width - 1) / 2:
            out[at] = 255
        else:
            out[at] = ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255
    return out


def near(got, expected):
    return np.abs(got - expected).max() <= 0.5 + 1e-6  # got is expected, rounded


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"])
def test_a_window(name):
    expected = linear(pydicom.dcmread(file("MR_small.dcm")).pixel_array, 600, 1600)
    assert near(pixels(file(name)), expected)
    assert not near(pixels(file(name), window=(610, 1600)), expected)


def test_hounsfield_units_and_another_window():
    stored = pydicom.dcmread(file("693_UNCR.dcm")).pixel_array[200:240, 200:240]
    shown = pixels(file("693_UNCR.dcm"))[200:240, 200:240]
    assert near(shown, linear(stored - 1024.0, 40, 100))
    assert not near(shown, linear(stored, 40, 100))
    lung = pixels(file("693_UNCR.dcm"), window=(-600, 1500))[200:240, 200:240]
    assert near(lung, linear(stored - 1024.0, -600, 1500))


def test_a_window_after_a_fractional_slope():
    stored = pydicom.dcmread(file("MR2_UNCR.dcm")).pixel_array[500:540, 500:540]
    assert near(pixels(file("MR2_UNCR.dcm"))[500:540, 500:540], linear(stored * 3.774114 + 0.000061, 1000, 2000))


def test_the_first_of_several_windows():
    stored = pydicom.dcmread(file("MR-SIEMENS-DICOM-WithOverlays.dcm")).pixel_array[200:240, 200:240]
    assert near(pixels(file("MR-SIEMENS-DICOM-WithOverlays.dcm"))[200:240, 200:240], linear(stored, 450, 790))


def test_monochrome1_is_inverted():
    stored = pydicom.dcmread(file("RG3_UNCR.dcm")).pixel_array[800:840, 800:840]
    assert near(pixels(file("RG3_UNCR.dcm"))[800:840, 800:840], 255 - linear(stored, 550, 1024))


def made(tmp_path, stored, **header):
    """A file with these stored values, and any header."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName, data.PatientID = "Doe^Jane", "4711"
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = stored.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes()
    for name, value in header.items():
        setattr(data, name, value)
    data.save_as(tmp_path / "made.dcm", enforce_file_format=True)
    return tmp_path / "made.dcm"


RAMP = np.arange(-600, 600, 2, dtype=np.int16).reshape(20, 30)


def test_linear_exact_and_sigmoid(tmp_path):
    window = {"WindowCenter": 50, "WindowWidth": 300}
    exact = pixels(made(tmp_path, RAMP, VOILUTFunction="LINEAR_EXACT", **window))
    assert near(exact, ((RAMP - 50) / 300 + 0.5).clip(0, 1) * 255)
    sigmoid = pixels(made(tmp_path, RAMP, VOILUTFunction="SIGMOID", **window))
    assert near(sigmoid, 255 / (1 + np.exp(-4 * (RAMP - 50.0) / 300)))


def test_the_scale_is_the_windows_not_the_pictures(tmp_path):
    """A dull slice stays dull: were its own extremes its scale, it would reach from black to white."""
    dull = (RAMP // 100).astype(np.int16)
    shown = pixels(made(tmp_path, dull, WindowCenter=0, WindowWidth=400))
    assert 120 < shown.min() < shown.max() < 135


def test_without_a_window(tmp_path):
    assert near(pixels(made(tmp_path, RAMP)), (RAMP + 600) / (598 + 600) * 255)
    eight = (RAMP // 30 + 100).astype(np.uint8)
    assert np.array_equal(pixels(made(tmp_path, eight)), eight)
    assert not pixels(made(tmp_path, np.full((20, 30), 7, np.int16))).any()


def test_a_voi_lut():
    data = pydicom.dcmread(file("vlut_04.dcm"))
    lut = data.VOILUTSequence[0]
    count, first, bits = lut.LUTDescriptor
    at = (data.pixel_array.astype(int) - first).clip(0, (count or 2**16) - 1)
    assert near(pixels(file("vlut_04.dcm")), np.array(lut.LUTData)[at] / (2**bits - 1) * 255)


def test_a_modality_lut():
    data = pydicom.dcmread(file("mlut_18.dcm"))
    lut = data.ModalityLUTSequence[0]
    at = (data.pixel_array.astype(int) - np.int16(lut.LUTDescriptor[1])).clip(0, len(lut.LUTData) - 1)
    values = np.array(lut.LUTData, float)[at]
    assert near(pixels(file("mlut_18.dcm")), (values - values.min()) / (values.max() - values.min()) * 255)


def test_colour():
    red = np.asarray(open_image(file("SC_rgb.dcm")))
    assert np.array_equal(red, pydicom.dcmread(file("SC_rgb.dcm")).pixel_array)
    ybr = pydicom.pixels.pixel_array(file("SC_ybr_full_uncompressed.dcm"), raw=True).astype(float)
    y, cb, cr = ybr[..., 0], ybr[..., 1] - 128, ybr[..., 2] - 128  # PS3.3 C.7.6.3.1.2
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1).clip(0, 255)
    assert np.abs(np.asarray(open_image(file("SC_ybr_full_uncompressed.dcm"))) - rgb).max() <= 1
    assert np.abs(rgb - red).max() <= 6 < np.abs(ybr - red).max()
    deep = pydicom.dcmread(file("SC_rgb_16bit.dcm")).pixel_array
    assert np.array_equal(np.asarray(open_image(file("SC_rgb_16bit.dcm"))), deep // 256)
    with pytest.raises(BadInput, match="colour"):
        open_dicom(file("SC_rgb.dcm"), window=(1, 2))


def test_a_palette():
    data = pydicom.dcmread(file("OBXXXX1A.dcm"))
    tables = [np.frombuffer(getattr(data, f"{c}PaletteColorLookupTableData"), np.uint16) for c in ("Red", "Green", "Blue")]
    expected = np.stack([table[data.pixel_array] >> 8 for table in tables], axis=-1)
    assert np.array_equal(pixels(file("OBXXXX1A.dcm")), expected)


def test_frames():
    with pytest.raises(BadImage, match=r"emri_small\.dcm holds 10 frames; save the one .* open_dicom\(path, frame=\)"):
        open_image(file("emri_small.dcm"))
    stored = pydicom.dcmread(file("emri_small.dcm")).pixel_array[3].astype(float)
    expected = (stored - stored.min()) / (stored.max() - stored.min()) * 255
    assert near(pixels(file("emri_small.dcm"), frame=3), expected)
    with pytest.raises(BadInput, match="10 frames, counted from 0; got frame=10"):
        open_dicom(file("emri_small.dcm"), frame=10)


def test_an_enhanced_file_keeps_its_window_in_groups(tmp_path):
    data = pydicom.dcmread(file("eCT_Supplemental.dcm"))
    group = data.SharedFunctionalGroupsSequence[0]
    scale, voi = group.PixelValueTransformationSequence[0], group.FrameVOILUTSequence[0]
    hounsfield = data.pixel_array[1, 200:240, 200:240] * float(scale.RescaleSlope) + float(scale.RescaleIntercept)
    first = [float(np.atleast_1d(v)[0]) for v in (voi.WindowCenter, voi.WindowWidth)]
    assert near(pixels(file("eCT_Supplemental.dcm"), frame=1)[200:240, 200:240], linear(hounsfield, *first))
    voi.WindowCenter, voi.WindowWidth = 100, 300
    data.PerFrameFunctionalGroupsSequence[1].FrameVOILUTSequence = group.FrameVOILUTSequence
    del group.FrameVOILUTSequence
    data.save_as(tmp_path / "own.dcm")
    assert near(pixels(tmp_path / "own.dcm", frame=1)[200:240, 200:240], linear(hounsfield, 100, 300))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rtplan.dcm", "without pixel data"),
        ("test-SR.dcm", "without pixel data"),
        ("no_meta.dcm", "not a DICOM file"),
        ("emri_small_jpeg_ls_lossless.dcm", "frames"),
        ("MR_small_jpeg_ls_lossless.dcm", r"compressed \(JPEG-LS Lossless Image Compression\) .* pip install"),
        ("MR_truncated.dcm", "corrupt"),
        ("SC_rgb_small_odd.dcm", "3 x 3 pixels; at least 8"),
        ("nowhere.dcm", "does not exist"),
    ],
)
def test_what_cannot_be_shown_is_one_line(name, says, tmp_path):
    path = tmp_path / name if name == "nowhere.dcm" else file(name)
    with pytest.raises(BadImage, match=says) as caught:
        open_image(path, "q3")
    assert str(caught.value).startswith(f"sample q3: image {name}")
    assert "\n" not in str(caught.value)
    assert str(path.parent if name == "nowhere.dcm" else "/") not in str(caught.value).removesuffix("[all]'")


def test_a_window_must_have_a_width(tmp_path):
    for width in (0, -1, float("nan")):
        with pytest.raises(BadInput, match="width at least 1"):
            open_dicom(made(tmp_path, RAMP), window=(0, width))


def test_without_pydicom(tmp_path, monkeypatch):
    path = made(tmp_path, RAMP)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BadImage, match=r"pip install 'medlens\[dicom\]'"):
        open_image(path)


def test_damage_never_ends_in_anything_else(tmp_path):
    content = bytearray(made(tmp_path, RAMP, WindowCenter=0, WindowWidth=100).read_bytes())
    rng = np.random.default_rng(0)
    said = []
    for _ in range(150):
        broken = bytearray(content)
        for at in rng.integers(132, len(content), 12):
            broken[at] = rng.integers(256)
        (tmp_path / "broken.dcm").write_bytes(broken[: rng.integers(200, len(content))] if rng.random() < 0.5 else broken)
        try:
            open_image(tmp_path / "broken.dcm")
        except MedlensError as e:
            said.append(str(e))
    assert 20 < len(said) < 150
    assert not any("\n" in line or "Jane" in line for line in said)


def test_a_folder(tmp_path):
    made(tmp_path, RAMP).rename(tmp_path / "IM000001")
    made(tmp_path, RAMP).rename(tmp_path / "1.2.840.7")
    made(tmp_path, RAMP)
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "made.dcm").read_bytes())
    (tmp_path / "notes").write_text("no image")
    samples = medlens.read(tmp_path, question="what ?")
    assert [s.id for s in samples] == ["1.2.840.7", "IM000001", "made.dcm", "x.png"]
    assert all(open_image(s.image).size == (30, 20) for s in samples)
    assert not any("Jane" in repr(vars(s)) or s.tags for s in samples)
    with pytest.raises(medlens.MedlensError, match="is one image"):
        medlens.read(tmp_path / "IM000001")


def test_a_study_through_a_window(phantom, tmp_path):
    """Other pixels reach the model than through the file's own window; the run says which window, and no header."""
    path = tmp_path / "scan.dcm"
    path.write_bytes(Path(file("CT_small.dcm")).read_bytes())
    plan = medlens.Plan(question="which modality is this ?", window=(40.0, 400.0))
    run = medlens.study(phantom, tmp_path, plan, tmp_path / "run")
    assert "--window 40,400" in run.manifest["command"]
    assert run.samples["file"].to_list() == ["scan.dcm"]
    own = medlens.study(phantom, [medlens.Sample(path, "which modality is this ?")], medlens.Plan(), tmp_path / "own")
    assert own.manifest["data"]["fingerprint"] != run.manifest["data"]["fingerprint"]
    shown = np.asarray(open_image(Windowed(path, (40.0, 400.0))))[..., 0]
    assert np.array_equal(shown, np.asarray(open_dicom(path, (40.0, 400.0)).convert("RGB"))[..., 0])
    with pytest.raises(BadInput, match="centre, width"):
        medlens.Plan(window=(40.0, 0.0))
