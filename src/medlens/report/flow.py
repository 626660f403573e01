"""The image's way through the model, as a chart: what blocking attention in a window of blocks costs, path by path."""

from __future__ import annotations

from typing import Any

import polars as pl

from medlens.report.charts import Chart, side_by_side, titled
from medlens.report.lines import Line

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


def flow_section(rows: pl.DataFrame, blocks: list[int]) -> dict[str, Any]:
    """What a page says of it: the charts, the rows with all blocks, and the blocks in which the image is read."""
    depth = rows["end"].max()
    everywhere = rows.filter((pl.col("begin") == 0) & (pl.col("end") == depth))
    return {"charts": flow_charts(rows), "everywhere": everywhere.to_dicts(), "said": said_of(blocks), "blocks": blocks}


def said_of(blocks: list[int]) -> str:
    """A sentence on where the image is read."""
    if not blocks:
        return "In no block is it seen that the image is read."
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
