"""The image's way through the model, as a chart: what blocking attention in a window of blocks costs, path by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from medlens.report.charts import Chart, as_svg, side_by_side, titled
from medlens.report.lines import Line

LEAST = 0.1  # nats of log-odds: of what changes less than this nobody would say that the answer rests on it
READS = "image to all"  # the path by which the blocks that read the image are told
COLOURS = {  # Okabe-Ito
    "image to all": "#111111",
    "image to question": "#0072B2",
    "image to template": "#7F7F7F",
    "image to last": "#D55E00",
    "question to last": "#009E73",
}
SIDES = {"change of the log-odds": "", "more than on another image": "own_"}


def flow_charts(rows: pl.DataFrame) -> dict[str, Chart]:
    """Two charts by their names: how the answers' log-odds change, and how much of it is the image's own; a window stands at its
    last block (windows clipped at the model's end are in the table alone). rows: of the table `flow`."""
    depth = int(rows["end"].max())  # pyright: ignore[reportArgumentType]
    sides = {name: _lines(rows, prefix) for name, prefix in SIDES.items()}
    return side_by_side(sides, f"last of a window of {_width(rows)} blocks", depth - 1)


def flow_chart(rows: pl.DataFrame) -> Chart:
    """The two side by side: to be written as PNG and SVG."""
    return titled("attention blocked", flow_charts(rows))


def flow_section(rows: pl.DataFrame) -> dict[str, Any]:
    """What `flow.html.j2` shows: the charts, the rows with all blocks, and a sentence."""
    depth, listed = rows["end"].max(), rows.to_dicts()
    charts = {name: as_svg(chart) for name, chart in flow_charts(rows).items()}
    everywhere = [row for row in listed if (row["begin"], row["end"]) == (0, depth)]
    return {"charts": charts, "everywhere": everywhere, "said": said_of(reads_image(listed)), "least": LEAST, "width": _width(rows)}


def reads_image(rows: Sequence[Mapping[str, Any]], least: float = LEAST) -> list[int]:
    """The blocks in which the image is read, of rows of the table `flow`: those of which every window that holds the block costs
    the answer more on its own image than on another, by more than `least` nats of log-odds, surely (`own_most` < -least).

    Every window, because one that holds a reading block is hurt whatever its other blocks do. What can be read just as well in
    either of two blocks is found only by windows that hold both.
    """
    depth = max((row["end"] for row in rows), default=0)
    sliding = [row for row in rows if row["path"] == READS and row["end"] - row["begin"] < depth]
    hurt = {b: [_surely(row, least) for row in sliding if row["begin"] <= b < row["end"]] for b in range(depth)}
    return [b for b, found in hurt.items() if found and all(found)]


def _surely(row: Mapping[str, Any], least: float) -> bool:
    return row["own_most"] is not None and row["own_most"] < -least


def said_of(blocks: list[int]) -> str:
    """A sentence on where the image is read."""
    if not blocks:
        return "Of no single block is it sure that the image is read there."
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    each = [str(first) if first == last else f"{first} to {last}" for first, last in runs]
    return f"The image is read in block{'s' * (len(blocks) > 1)} {', '.join(each)}."


def _sliding(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("end") - pl.col("begin") < pl.col("end").max())


def _width(rows: pl.DataFrame) -> int:
    return int((sliding := _sliding(rows)).select((pl.col("end") - pl.col("begin")).max()).item() or sliding.height)


def _lines(rows: pl.DataFrame, prefix: str) -> list[Line]:
    found, sliding = [], _sliding(rows).filter(pl.col("begin") == pl.col("begin").min().over("path", "end"))
    for path, colour in COLOURS.items():
        ends = [pl.col(f"{prefix}{name}").alias(name) for name in ("value", "low", "high")]
        frame = sliding.filter(pl.col("path") == path).select((pl.col("end") - 1).alias("layer"), *ends).sort("layer")
        if frame.height:
            found.append(Line(frame, colour, key=path, width=1.8 if path == "image to all" else 1.3, own=True, ribbon=0.15))
    return found
