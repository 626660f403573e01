"""Pictures of maps: every cell has its colour where it lies, the scale says what it stands for, and nothing is smoothed unsaid."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from medlens import overlay
from medlens.errors import BadInput
from medlens.models.registration import Rectangle
from medlens.overlay import Style
from medlens.svg import as_png
from medlens.types import Heatmap

IMAGE = Image.new("L", (64, 48), 128)
VALUES = np.arange(12.0)


def heatmap(values=VALUES, target="log p(“yes”)", frame=(0.0, 0.0, 64.0, 48.0)):
    return Heatmap("relevance", target, values, Rectangle(*frame).cells(3, 4), (48, 64))


def drawn(svg):
    """(height, width, 3) of the picture's own part, one pixel an image's."""
    made = Image.open(BytesIO(as_png(svg))).convert("RGB")
    scale = made.width / (overlay.SIDE + 40)
    box = [20 * scale, overlay.TOP * scale, (20 + 560) * scale, (overlay.TOP + 420) * scale]
    return np.asarray(made.crop([round(e) for e in box]).resize((64, 48), Image.Resampling.BOX)).astype(float)


def test_every_cell_has_the_colour_of_its_value():
    pixels = drawn(overlay.svg(heatmap(), IMAGE, Style(opacity=1.0)))
    for k, value in enumerate(VALUES):
        row, column = divmod(k, 4)
        expected = overlay.coloured(np.array([value]), overlay.Range(0.0, 11.0))[0]
        assert np.abs(pixels[16 * row + 8, 16 * column + 8] - expected).max() < 3


def test_a_signed_map_has_zero_in_the_middle_of_its_colours():
    ends = overlay.limits(heatmap(VALUES - 3))
    assert ends == (-8.0, 8.0)
    assert overlay.coloured(np.array([0.0]), ends).tolist() == [[247, 247, 247]]
    red, blue = overlay.coloured(np.array([8.0, -8.0]), ends)
    assert red[0] > red[2]
    assert blue[0] < blue[2]
    assert overlay.limits(heatmap(VALUES + 1)) == (1.0, 12.0)
    assert overlay.limits(heatmap(np.zeros(12))) == (0.0, 1.0)


def test_interpolation_is_said():
    plain, smooth = (overlay.svg(heatmap(), IMAGE, Style(smooth=s)) for s in (False, True))
    assert "interpolated" not in plain
    assert "interpolated (bicubic)" in smooth
    assert "of the map lies" not in plain


def test_a_share_of_the_map_on_padding_is_told_in_numbers():
    half = Heatmap("m", "t", np.array([3.0, 1.0]), np.array([(0, -48, 64, 0), (0, 0, 64, 48.0)]), (48, 64))
    assert "75 % of the map lies on padding" in overlay.svg(half, IMAGE)


def test_smoothing_keeps_the_values_at_the_cells_middles():
    pixels = overlay._pixels(heatmap(), smooth=True)
    for k in (5, 6):  # away from the edges
        row, column = divmod(k, 4)
        assert abs(pixels[16 * row + 7 : 16 * row + 9, 16 * column + 7 : 16 * column + 9].mean() - k) < 0.1
    several = Heatmap("m", "t", np.ones(3), np.array([(0, 0, 64, 48), (0, 0, 32, 48), (32, 0, 64, 48.0)]), (48, 64))
    with pytest.raises(BadInput, match="no single grid"):
        overlay.svg(several, IMAGE, Style(smooth=True))


def test_contour_and_mask_are_outlines():
    mask = np.zeros((48, 64), bool)
    mask[16:32, 16:48] = True
    scale = 560 / 64
    outline = overlay._outline(mask, scale, "#ffffff")
    assert outline.count("M") == 2 * 4  # four sides, drawn twice: dark under light
    assert f"M{20 + 16 * scale:.1f} {84 + 16 * scale:.1f}L{20 + 48 * scale:.1f} {84 + 16 * scale:.1f}" in outline
    contour = overlay.svg(heatmap(), IMAGE, Style(contour=1 / 12), mask)
    assert "8.33 % of the image" in contour
    assert contour.count(f'stroke="{overlay.CONTOUR}"') == 1
    assert overlay._largest(heatmap().on_image(), 1 / 12).sum() == 16 * 16


def test_what_is_said_is_escaped():
    assert "<script>" not in overlay.svg(heatmap(target="<script>alert(1)</script>"), IMAGE)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image": Image.new("L", (48, 64))}, "the image has 48 x 64 pixels, the map lies on 64 x 48"),
        ({"mask": np.zeros((4, 6), bool)}, "the mask has 6 x 4 pixels"),
        ({"style": Style(opacity=2.0)}, "opacity lies in 0 .. 1"),
        ({"heatmap": heatmap(np.full(12, np.nan))}, "no numbers"),
    ],
)
def test_bad_input(given, said):
    with pytest.raises(BadInput, match=said):
        overlay.svg(**{"heatmap": heatmap(), "image": IMAGE, **given})
