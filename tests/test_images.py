import numpy as np
import pytest
from PIL import Image

import medlens
from medlens.data.images import open_image
from medlens.data.intake import take_in
from medlens.errors import BadData, BadImage

GREY = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "CMYK", "YCbCr", "RGBA", "LA"])
def test_modes_that_convert_without_a_decision(tmp_path, mode):
    source = Image.fromarray(GREY).convert("RGB").convert(mode)
    name = "x.jpg" if mode in ("CMYK", "YCbCr") else "x.png"
    opened = open_image(saved(tmp_path, source, name))
    assert opened.mode == "RGB"
    assert opened.size == (64, 48)
    if name == "x.png":
        assert np.array_equal(np.asarray(opened), np.asarray(source.convert("RGB")))
    if mode not in ("1", "P"):
        assert np.abs(np.asarray(opened).astype(int) - GREY[:, :, None]).max() <= 3  # JPEG's own rounding


def transparent():
    image = Image.fromarray(GREY).convert("RGBA")
    image.putpixel((0, 0), (255, 0, 0, 40))
    return image


def palette_with_transparency():
    image = Image.fromarray(GREY).convert("P")
    image.info["transparency"] = 0
    return image


REFUSED = {
    "1 x 1": (Image.new("L", (1, 1)), "1 x 1 pixels; at least 8"),
    "16 bit": (Image.fromarray(GREY.astype(np.uint16) * 200), "more than 8 bits"),
    "float": (Image.fromarray(GREY.astype(np.float32)), "more than 8 bits"),
    "partly transparent": (transparent(), "partly transparent"),
    "palette, transparent": (palette_with_transparency(), "partly transparent"),
    "a whole slide": (Image.new("1", (12_000, 9_000)), "12000 x 9000 pixels, over 80 megapixels"),
}


@pytest.mark.parametrize(("image", "says"), REFUSED.values(), ids=REFUSED)
def test_what_needs_a_decision_is_refused_in_one_line(tmp_path, image, says):
    path = saved(tmp_path, image, "scan.tiff" if image.mode == "F" else "scan.png")
    with pytest.raises(BadImage, match=says) as caught:
        open_image(path, "q3")
    assert str(caught.value).startswith(f"sample q3: image {path.name}")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)  # it may end up in a manifest


def test_to_be_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(BadImage, match="left is left"):
        open_image(saved(tmp_path, Image.fromarray(GREY), "x.jpg", exif=exif))
    exif[0x0112] = 1
    assert open_image(saved(tmp_path, Image.fromarray(GREY), "y.jpg", exif=exif)).size == (64, 48)


def test_masks_must_fit(tmp_path):
    image = Image.fromarray(GREY)
    small = saved(tmp_path, Image.new("L", (5, 5)), "small.png")
    (tmp_path / "text.png").write_text("no mask")
    for path, says in ((small, "5 x 5 pixels, its image 64 x 48"), (tmp_path / "text.png", "cannot be read")):
        region = medlens.Region("mask", mask_path=path)
        with pytest.raises(BadImage, match=says):
            take_in([medlens.Sample(image=image, question="what ?", regions=[region])])
    fits = medlens.Region("mask", mask_path=saved(tmp_path, Image.fromarray(GREY), "fits.png"))
    take_in([medlens.Sample(image=image, question="what ?", regions=[fits])])
    assert fits.array().sum() == (GREY > 127).sum()


def test_frames(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(GREY.T.copy()).resize((64, 48))]
    with pytest.raises(BadImage, match="2 frames"):
        open_image(saved(tmp_path, frames[0], "x.tiff", save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "does not exist"), (b"", "not an image"), (b"GIF89a nonsense", "not an image|corrupt"), (b"hello", "not an image")],
)
def test_missing_and_corrupt(tmp_path, content, says):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImage, match=says):
        open_image(path)


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_a_truncated_file_is_refused_or_read_whole(tmp_path, name):
    whole = saved(tmp_path, Image.fromarray(GREY), name)
    content, pixels = whole.read_bytes(), np.asarray(open_image(whole))
    refused, tried = 0, range(0, len(content), max(1, len(content) // 60))
    for cut in tried:
        whole.write_bytes(content[:cut])
        try:
            assert np.array_equal(np.asarray(open_image(whole)), pixels)  # only checksums and end marks were cut off
        except BadImage:
            refused += 1
    assert refused > 0.7 * len(tried)


def test_a_header_that_claims_a_bomb(tmp_path):
    """A PNG of a few bytes that says it is 60,000 x 60,000: refused before anything is allocated."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(BadImage, match="megapixels"):
        open_image(tmp_path / "bomb.png")


def test_intake_drops_metadata_and_counts_images_once(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe, born 1950"
    big = Image.fromarray(np.tile(GREY, (10, 10)))
    path = saved(tmp_path, big, "a.jpg", exif=exif, comment=b"Jane Doe")
    same = tmp_path / "b.jpg"
    same.write_bytes(path.read_bytes())
    intake = take_in([medlens.Sample(image=p, question="what ?") for p in (path, same, path)])
    assert len(set(intake.images)) == 1
    ((suffix, data),) = intake.pictures.values()
    assert suffix == ".jpg"
    assert b"Jane" in path.read_bytes()
    assert b"Jane" not in data
    assert len(data) < len(path.read_bytes())


def test_intake_skips_or_raises(tmp_path):
    good = medlens.Sample(image=Image.fromarray(GREY), question="what ?")
    bad = medlens.Sample(image=tmp_path / "missing.png", question="what ?", id="lost")
    with pytest.raises(BadImage, match=r"sample lost: image missing\.png does not exist"):
        take_in([good, bad])
    intake = take_in([good, bad], skip_bad=True)
    assert [s.id for s in intake.samples] == ["0000"]
    assert intake.skipped == ("sample lost: image missing.png does not exist",)
    with pytest.raises(BadData, match="no sample left"):
        take_in([bad], skip_bad=True)


def test_ids_must_be_unique():
    twice = [medlens.Sample(image=Image.fromarray(GREY), question="what ?", id="a")] * 2
    with pytest.raises(BadData, match="'a'"):
        take_in(twice)


def test_a_heatmap_is_laid_on_the_image_cell_by_cell():
    boxes = np.array([[0, 0, 4, 2], [4, 0, 8, 2], [0, 2, 4, 5], [4, 2, 8, 5], [np.nan] * 4])  # the lower row reaches into padding
    shown = medlens.Heatmap("some", "yes", np.array([1.0, 2, 3, 4, 99]), boxes, (4, 8)).on_image()
    assert shown.tolist() == [[1] * 4 + [2] * 4] * 2 + [[3] * 4 + [4] * 4] * 2


def test_where_boxes_of_a_heatmap_lie_upon_each_other_it_is_their_mean_and_nothing_where_there_is_none():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 2, 2]], float)
    shown = medlens.Heatmap("some", "yes", np.array([1.0, 3]), boxes, (2, 3)).on_image()
    np.testing.assert_array_equal(shown, [[1, 2, np.nan]] * 2)
