"""The charts: one small curve for each measure and token group, the same in the report, as PNG and as SVG."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import cast

import altair as alt
import polars as pl
import vl_convert

COLOURS = {"image": "#0072B2", "text": "#D55E00", "answer": "#009E73", "template": "#7F7F7F", "all": "#111111"}  # Okabe-Ito
SIDES = ("image", "text")
WIDTH, HEIGHT = 370, 190


@dataclass(frozen=True)
class Reading:
    """How a measure is shown: its title, its axis, the sentence that says what it means, what to beware of, and its source."""

    title: str
    of_pairs: bool
    meaning: str
    beware: str
    source: str


READINGS: dict[str, Reading] = {
    "linearity": Reading(
        "Linearity",
        True,
        "The share of a block's output that the best linear map of its input explains. 1: the block could be replaced by a matrix.",
        "Fitted and scored on the same rows, so it is too high where rows are few; undefined where any data would score 1.",
        "Razzhigaev et al. 2024, Your Transformer is Secretly Linear",
    ),
    "linearity_of_update": Reading(
        "Linearity of the update",
        True,
        "The same for what the block adds to its input: the residual stream, which is linear by construction, is taken out.",
        "Fitted and scored on the same rows, as above.",
        "Razzhigaev et al. 2024",
    ),
    "cka": Reading(
        "Similarity before and after a block (CKA)",
        True,
        "How alike the arrangement of the tokens is before and after a block, whatever rotation separates the two. 0: unrelated.",
        "Debiased, so unrelated data score about 0 (slightly negative values happen). A few large rows can decide it.",
        "Kornblith et al. 2019; Song et al. 2012",
    ),
    "anisotropy": Reading(
        "Anisotropy",
        False,
        "The share of all variance that lies along one direction.",
        "A handful of massive activations can set it. Depends on the number of rows.",
        "Razzhigaev et al. 2024, The Shape of Learning",
    ),
    "participation_ratio": Reading(
        "Participation ratio",
        False,
        "How many directions share the variance, counted by its squares.",
        "Depends on the number of rows: compare image and text only at equal n.",
        "Gao et al. 2017",
    ),
    "effective_rank": Reading(
        "Effective rank",
        False,
        "How many directions share the variance, counted by its entropy: small directions weigh more than above.",
        "Depends on the number of rows, as above.",
        "after Roy & Vetterli 2007 (there: of singular values)",
    ),
    "mean_cosine": Reading(
        "Mean cosine",
        False,
        "How alike in direction two tokens of the group are, on average over all pairs.",
        "High values often come from one common direction, not from like meaning.",
        "Ethayarajh 2019",
    ),
    "mean_cosine_between": Reading(
        "Mean cosine between images",
        False,
        "The same over pairs from different images only: the baseline of every other cosine.",
        "",
        "Ethayarajh 2019",
    ),
    "intrinsic_dimension": Reading(
        "Intrinsic dimension (TwoNN)",
        False,
        "On how many coordinates the tokens lie, judged from the distances to each one's two nearest neighbours.",
        "Biased low from about 10 on. Neighbouring patches of one image are not independent.",
        "Facco et al. 2017",
    ),
}


def curve(rows: pl.DataFrame, measure: str, tokens: str) -> alt.LayerChart:
    """One measure over the layers for one token group; the same y axis for image and text. Undefined layers are left open."""
    reading = READINGS[measure]
    shown = rows.filter((pl.col("measure") == measure) & pl.col("value").is_finite())
    mine = shown.filter(pl.col("tokens") == tokens)
    axis = "block b (state b → b + 1)" if reading.of_pairs else "state (0 enters the first block)"
    last = int(rows.filter(pl.col("measure") == measure)["layer"].max() or 0)  # pyright: ignore[reportArgumentType]
    x = alt.X("layer:Q", title=axis, scale=alt.Scale(domain=[0, last], nice=False), axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=_domain(shown), nice=True, zero=False))
    colour = COLOURS[tokens]
    base = alt.Chart(_data(mine)).encode(x=x, y=y)
    raw = base.transform_filter("datum.variant == 'raw'")
    line = raw.mark_line(color=colour, strokeWidth=2)
    points = raw.mark_point(color=colour, filled=True, size=34, opacity=1)
    normed = base.transform_filter("datum.variant == 'normed'").mark_point(color=colour, shape="diamond", size=70, filled=False)
    return cast("alt.LayerChart", alt.layer(line, points, normed)).properties(width=WIDTH, height=HEIGHT)


def pair(rows: pl.DataFrame, measure: str) -> alt.HConcatChart:
    """Image and text side by side, with titles: the chart that is written as PNG and SVG."""
    sides = [curve(rows, measure, side).properties(title=f"{READINGS[measure].title}: {side} tokens") for side in SIDES]
    return alt.hconcat(*sides, spacing=36)


def as_svg(chart: alt.Chart | alt.LayerChart | alt.HConcatChart) -> str:
    """The chart as SVG that fills its place: a view box, no fixed size."""
    svg = vl_convert.vegalite_to_svg(_styled(chart))
    return re.sub(r'(<svg[^>]*?) width="[\d.]+" height="[\d.]+"', r"\1", svg, count=1)


def as_files(chart: alt.HConcatChart) -> dict[str, str | bytes]:
    """The chart as files for a paper or a slide: SVG, and the same as PNG at twice the pixels."""
    svg = vl_convert.vegalite_to_svg(_styled(chart))
    return {"svg": svg, "png": vl_convert.svg_to_png(svg, scale=2)}


def _styled(chart: alt.Chart | alt.LayerChart | alt.HConcatChart) -> str:
    grey = "#5a5a5a"
    return (
        chart.configure(background="white", font="sans-serif")
        .configure_axis(
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelColor=grey, titleColor=grey, gridColor="#ececec"
        )
        .configure_view(stroke=None)
        .configure_title(fontSize=14, anchor="start", fontWeight="normal")
        .to_json()
    )


def _data(rows: pl.DataFrame) -> alt.InlineData:
    return alt.InlineData(values=rows.select("layer", "value", "n", "variant").to_dicts())


def _domain(rows: pl.DataFrame) -> list[float]:
    """The range of image and text values together, widened where they do not vary."""
    values = rows.filter(pl.col("tokens").is_in(SIDES))["value"]
    if values.is_empty():
        return [0.0, 1.0]
    low, high = float(values.min()), float(values.max())  # pyright: ignore[reportArgumentType]
    room = 0.05 * (high - low) or 0.05 * max(1.0, math.fabs(high))
    return [low - room, high + room]
