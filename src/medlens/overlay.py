"""A map on its image: as SVG, or as PNG. Every token is drawn as one cell of one colour, as large as what it covers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from medlens.errors import BadInput
from medlens.lens_page.svg import SOFT, VIRIDIS, picture, sheet, text
from medlens.types import Heatmap

# Brewer's RdBu (Harrower and Brewer 2003), blue to red: for what has a sign; its middle stands for 0
DIVERGING = (
    (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247), (253, 219, 199),
    (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
)  # fmt: skip
SIDE, TOP, FOOT = 560, 84, 64  # of the picture's longer side; above and below it
MASK, CONTOUR = "#ffffff", "#D55E00"
STEPS = 52  # of the colour bar


class Style(NamedTuple):
    """opacity: of the colours on the image, 0 .. 1. contour: draw no colours but a line around this share of the image, the cells
    with the largest values. smooth: interpolate between cells (bicubic), which the picture then says."""

    opacity: float = 0.6
    contour: float | None = None
    smooth: bool = False


class Range(NamedTuple):
    """What the two ends of the colours stand for."""

    low: float
    high: float

    @property
    def colours(self) -> Sequence[tuple[int, int, int]]:
        return DIVERGING if self.low < 0 else VIRIDIS


def svg(
    heatmap: Heatmap, image: Image.Image, style: Style = Style(), mask: np.ndarray | None = None, most: int = 2 * SIDE  # noqa: B008
) -> str:  # fmt: skip
    """The map on its image with a colour bar and its numbers; a mask (height, width) of the image's size as an outline.

    Colours are even to the eye: viridis where no value is negative, else a diverging scale with 0 in its middle. Pixels that no
    token covers keep the image's own grey. most: pixels of the image's longer side that are kept.
    Raises BadInput for an image or a mask of another size, and for an impossible style.
    """
    _check(heatmap, image, style, mask)
    values, ends = _pixels(heatmap, style.smooth), limits(heatmap)
    filled = style.contour is None
    ground = _blended(image, values, ends, style.opacity) if filled else image.convert("L").convert("RGB")
    scale = SIDE / max(image.size)
    wide, high = image.width * scale, image.height * scale
    body = [picture(20, TOP, wide, high, _at_most(ground, most))]
    if style.contour is not None:
        body.append(_outline(_largest(values, style.contour), scale, CONTOUR))
    if mask is not None:
        body.append(_outline(mask, scale, MASK))
    body.append(_bar(20, TOP + high + 14, ends) if filled else text(20, TOP + high + 20, _around(style), 13, SOFT))
    body += [_ring(heatmap.boxes[token], scale) for token in heatmap.sinks if not np.isnan(heatmap.boxes[token, 0])]
    rings = "rings: sinks, which draw attention whoever looks" if heatmap.sinks else ""
    notes = [word for word in (_outside(heatmap), rings, "interpolated (bicubic)" if style.smooth else "") if word]
    if notes:
        body.append(text(20, TOP + high + 52, "; ".join(notes), 13, SOFT))
    where = "" if heatmap.layer is None else f", block {heatmap.layer}"
    return sheet(max(wide, 400) + 40, TOP + high + FOOT, "".join(body), f"{heatmap.method}{where}", heatmap.target)


def limits(heatmap: Heatmap) -> Range:
    """Of the colours: from least to largest value; of a signed map, equally far to both sides of 0. A flat one gets some width."""
    placed = heatmap.values[~np.isnan(heatmap.boxes[:, 0])]
    low, high = float(placed.min()), float(placed.max())
    if low < 0:
        most = max(-low, high)
        return Range(-most, most)
    return Range(low, high if high > low else low + 1.0)


def coloured(values: np.ndarray, ends: Range) -> np.ndarray:
    """(..., 3) in 0 .. 255, linear between the scale's steps."""
    anchors = np.array(ends.colours, dtype=float)
    at = np.clip((values - ends.low) / (ends.high - ends.low), 0, 1) * (len(anchors) - 1)
    return np.stack([np.interp(at, range(len(anchors)), anchors[:, k]) for k in range(3)], -1)


def _check(heatmap: Heatmap, image: Image.Image, style: Style, mask: np.ndarray | None) -> None:
    for what, size in (("the image", (image.height, image.width)), ("the mask", heatmap.size if mask is None else mask.shape)):
        if size != heatmap.size:
            raise BadInput(f"{what} has {size[1]} x {size[0]} pixels, the map lies on {heatmap.size[1]} x {heatmap.size[0]}")
    if not 0 <= style.opacity <= 1 or not (style.contour is None or 0 < style.contour < 1):
        raise BadInput(f"opacity lies in 0 .. 1, contour is a share between them; got {style.opacity} and {style.contour}")
    if not np.isfinite(heatmap.values).all():
        raise BadInput(f"{heatmap.method}: a map with values that are no numbers cannot be drawn")


def _pixels(heatmap: Heatmap, smooth: bool) -> np.ndarray:
    """(height, width), NaN where there is no token."""
    if not smooth:
        return heatmap.on_image()
    lefts, tops = (np.unique(heatmap.boxes[:, k].round(6)) for k in (0, 1))
    if len(lefts) * len(tops) != len(heatmap.values):
        raise BadInput(f"{heatmap.method}: its cells are no single grid, so nothing can be interpolated between them")
    grid = Image.fromarray(heatmap.values.reshape(len(tops), len(lefts)).astype(np.float32))
    left, top = heatmap.boxes[0, :2]
    across, down = heatmap.boxes[0, 2:] - heatmap.boxes[0, :2]
    height, width = heatmap.size
    inverse = (1 / across, 0, -left / across, 0, 1 / down, -top / down)
    laid = np.asarray(grid.transform((width, height), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC))
    return np.where(np.isnan(heatmap.on_image()), np.nan, laid)


def _blended(image: Image.Image, values: np.ndarray, ends: Range, opacity: float) -> Image.Image:
    """The colours on the image's own grey."""
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=float)
    placed = ~np.isnan(values)[..., None]
    colours = coloured(np.nan_to_num(values), ends)
    return Image.fromarray(np.where(placed, (1 - opacity) * grey + opacity * colours, grey).round().astype(np.uint8))


def _at_most(ground: Image.Image, most: int) -> Image.Image:
    """No more pixels than a page needs."""
    return ground if max(ground.size) <= most else ground.resize([n * most // max(ground.size) for n in ground.size])


def _largest(values: np.ndarray, share: float) -> np.ndarray:
    return np.nan_to_num(values, nan=-np.inf) >= np.nanquantile(values, 1 - share)


def _around(style: Style) -> str:
    return f"the line is around the {100 * (style.contour or 0):.3g} % of the image with the largest values"


def _outline(inside: np.ndarray, scale: float, colour: str) -> str:
    """The edges between pixels inside and outside, as one path; runs of edges on one line are one stroke."""
    framed = np.pad(inside.astype(bool), 1)
    strokes = []
    for turned, cells in ((False, framed), (True, framed.T)):
        edges = cells[1:] != cells[:-1]  # (lines, pixels)
        for line, edge in enumerate(edges):
            steps = np.flatnonzero(np.diff(np.concatenate([[0], edge.astype(int), [0]])))
            for start, end in zip(steps[::2] - 1, steps[1::2] - 1, strict=True):
                ends = [(start, line), (end, line)]
                (a, b), (c, d) = [
                    (20 + y * scale, TOP + x * scale) if turned else (20 + x * scale, TOP + y * scale) for x, y in ends
                ]
                strokes.append(f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}")
    path = "".join(strokes)
    return (
        f'<path d="{path}" stroke="#000000" stroke-width="4" fill="none" stroke-opacity="0.6"/>'
        f'<path d="{path}" stroke="{colour}" stroke-width="2" fill="none"/>'
    )


def _ring(box: np.ndarray, scale: float) -> str:
    """Around the middle of a token."""
    left, top, right, bottom = box * scale
    at = f'cx="{20 + (left + right) / 2:.1f}" cy="{TOP + (top + bottom) / 2:.1f}" r="{0.3 * min(right - left, bottom - top):.1f}"'
    stroke = lambda colour, width: f'<circle {at} fill="none" stroke="{colour}" stroke-width="{width}"/>'
    return stroke("#000000", 4) + stroke(MASK, 2)


def _bar(x: float, y: float, ends: Range) -> str:
    """The colours with what their ends (of a signed map: and their middle) stand for."""
    width = 360
    each = coloured(np.linspace(ends.low, ends.high, STEPS), ends).round().astype(int)
    bars = [
        f'<rect x="{x + k * width / STEPS:.1f}" y="{y:.1f}" width="{width / STEPS + 0.5:.1f}" height="12" '
        f'fill="#{r:02x}{g:02x}{b:02x}"/>'
        for k, (r, g, b) in enumerate(each)
    ]
    named = text(x, y + 23, f"{ends.low:.3g}", 12, SOFT) + text(x + width, y + 23, f"{ends.high:.3g}", 12, SOFT, "end")
    middle = text(x + width / 2, y + 23, f"{(ends.low + ends.high) / 2:.3g}", 12, SOFT, "middle")
    return "".join(bars) + named + middle


def _outside(heatmap: Heatmap) -> str:
    """How much of the map lies on what the model was shown but is no part of the image, or on tokens without a place."""
    height, width = heatmap.size
    x, y = (heatmap.boxes[:, [k, k + 2]].mean(1) for k in (0, 1))
    shown = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    weights = np.abs(heatmap.values)
    share = weights[~shown].sum() / weights.sum() if weights.sum() else 0.0
    return f"{100 * share:.3g} % of the map lies on padding or on tokens without a place" if share > 0.0005 else ""
