"""Which lines a chart holds: of one measure and one token group, with what stands behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from medlens.report.readings import SCALES, Reading

COLOURS = {"image": "#0072B2", "text": "#D55E00", "answer": "#009E73", "template": "#7F7F7F", "all": "#111111"}  # Okabe-Ito
SIDES = ("image", "text")
GREY, BLACK, PALE = "#8a8a8a", "#111111", "#ecb28c"
VARIANTS = {"without massive": ((5, 3), "without massive activations"), "standardised": ((1.5, 2.5), "standardised columns")}
NULLS = {"null: pairs": "pairs", "null: weights": "weights", "null: noise": "noise"}
PALETTE = ("#CC79A7", "#E69F00", "#56B4E9", "#117733", "#882255", "#999933", "#6B6B6B", "#332288")  # of groups: none of the above


@dataclass(frozen=True)
class Line:
    """frame: layer, value, low, high; undefined values are not in it. own: it is what the chart is about, so the axis makes room
    for all of it. label: said at its right end; key: said above the chart. marks: "line", "points" (line and points), "diamonds".
    """

    frame: pl.DataFrame
    colour: str
    label: str = ""
    key: str = ""
    dash: tuple[float, ...] = ()
    width: float = 1.2
    own: bool = False
    marks: str = "line"
    ribbon: float = 0.0  # opacity of the band between low and high


def lines_of(rows: pl.DataFrame, measure: str, tokens: str, reading: Reading, published: pl.DataFrame | None = None) -> list[Line]:
    """From the back to the front: nulls, floor or baseline, variants, the study's choices, the published curve, the measure.

    rows: of all samples (group "all"), every protocol. published: measure, tokens, layer, value.
    """
    mine = rows.filter(pl.col("tokens") == tokens)
    own = rows.filter(pl.col("measure") == measure)
    main, colour = main_protocol(own), COLOURS[tokens]
    everyone, own = own, own.filter(pl.col("tokens") == tokens)
    found = [
        Line(frame_of(own, null, "raw"), GREY, word, dash=(3, 3), width=1, ribbon=0.22) for null, word in NULLS.items()
    ]  # fmt: skip
    for name, word in reading.behind.items():
        found.append(Line(frame_of(mine.filter(pl.col("measure") == name), main, "raw"), BLACK, word, width=0.9))
    for variant, (dash, key) in VARIANTS.items():
        found.append(Line(frame_of(own, main, variant), colour, key=key, dash=dash, width=1.1))
    if tokens == "text":  # where a measure looks at single tokens of the question, "text" is their mean
        single = everyone.filter(~pl.col("tokens").is_in(list(COLOURS)))
        for number, word in enumerate(words := single["tokens"].unique(maintain_order=True).to_list()):
            frame = frame_of(single.filter(pl.col("tokens") == word), main, "raw")
            found.append(Line(frame, PALE, key=f"its {len(words)} tokens, one by one" * (number == 0), width=0.8, own=True))
    if main == "sound":
        found.append(Line(frame_of(own, "published", "raw"), BLACK, key="the published study's choices", dash=(8, 3), width=1.1))
    if published is not None:
        curve = published.filter(pl.col("measure") == measure, pl.col("tokens") == tokens)
        found.append(Line(_defined(curve), BLACK, "published", width=1.4))
    found.append(Line(frame_of(own, main, "raw"), colour, width=2, own=True, marks="points", ribbon=0.2))
    found.append(Line(frame_of(own, main, "normed"), colour, own=True, marks="diamonds"))
    return [line for line in found if line.frame.height]


def scales_of(rows: pl.DataFrame, tokens: str) -> list[Line]:
    """Intrinsic dimension of all rows, a half, a quarter, an eighth: thinner and paler as they get fewer."""
    mine = rows.filter(pl.col("tokens") == tokens)
    found = []
    for number, (name, word) in enumerate(reversed(SCALES.items())):
        frame = frame_of(mine.filter(pl.col("measure") == name), main_protocol(mine), "raw")
        line = Line(frame, COLOURS[tokens], word, width=0.8 + 0.5 * number, own=True, dash=((2, 2), (4, 2), (8, 2), ())[number])
        found.append(line)
    return [line for line in found if line.frame.height]


def main_protocol(rows: pl.DataFrame) -> str:
    """What the thick line shows: the sound protocol, or the published one where only that was asked for."""
    return "published" if "published" in (there := set(rows["protocol"])) and "sound" not in there else "sound"


def frame_of(rows: pl.DataFrame, protocol: str, variant: str) -> pl.DataFrame:
    return _defined(rows.filter(pl.col("protocol") == protocol, pl.col("variant") == variant))


def _defined(rows: pl.DataFrame) -> pl.DataFrame:
    """Layer, value, low, high; low and high null where there is no interval."""
    ends = [pl.col(end) if end in rows.columns else pl.lit(None, pl.Float64).alias(end) for end in ("low", "high")]
    with_ends = rows.select("layer", "value", *ends).filter(pl.col("value").is_finite()).sort("layer")
    both = pl.col("low").is_finite() & pl.col("high").is_finite()
    return with_ends.with_columns(pl.when(both).then(pl.col(end)).alias(end) for end in ("low", "high"))


def domain(lines: Sequence[Line]) -> tuple[float, float]:
    """The range of the y axis: all values of the lines that the chart is about. Of their intervals as far as twice that range, or
    twice the largest value, goes beyond: of few rows they may be a hundred times as high. Of the other lines as much as leaves
    all this a third of the height. A little room at both ends; widened where nothing varies."""
    own = [line for line in lines if line.own] or lines
    others = [line for line in lines if not line.own] if own is not lines else []
    values = _numbers(own, "value")
    if not values:
        return 0.0, 1.0
    reach = 2 * max(max(values) - min(values), *map(abs, values))
    low, high = _as_far(values, _numbers(own, "low", "high"), reach)
    low, high = _as_far([low, high], _numbers(others, "value", "low", "high"), (high - low) or 0.05 * max(abs(high), 1e-3))
    room = 0.06 * (high - low) or 0.05 * max(1.0, math.fabs(high))
    return low - room, high + room


def _as_far(shown: list[float], more: list[float], reach: float) -> tuple[float, float]:
    """The ends of what is shown, and of more, but no further than `reach` beyond."""
    low, high = min(shown), max(shown)
    return max(min(low, *more, low), low - reach), min(max(high, *more, high), high + reach)


def _numbers(lines: Sequence[Line], *columns: str) -> list[float]:
    return [value for line in lines for column in columns for value in line.frame[column].drop_nulls().to_list()]
