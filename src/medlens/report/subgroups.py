"""The same measures for some of the samples: one line for each value of a field or tag, and their intervals at the middle layer."""

from __future__ import annotations

from typing import Any

import polars as pl

from medlens.curves import spans
from medlens.report.drawing import Axis, drawn
from medlens.report.lines import BLACK, PALETTE, SIDES, Line, frame_of
from medlens.report.readings import READINGS

MEASURES = ("linearity_of_update", "held_out_linearity_of_update", "anisotropy", "intrinsic_dimension")


def fields_of(rows: pl.DataFrame, depth: int) -> list[dict[str, Any]]:
    """For each field: its name, how many values were looked at, and its measures with their charts and tables."""
    raw = rows.filter(pl.col("protocol") == "sound", pl.col("variant") == "raw")
    some = raw.filter(pl.col("group") != "all").with_columns(field=pl.col("group").str.split_exact("=", 1).struct.field("field_0"))
    found = []
    for name in some["field"].unique(maintain_order=True):
        mine = some.filter(pl.col("field") == name)
        whole = raw.filter(pl.col("group") == "all")
        names = [measure for measure in MEASURES if measure in set(mine["measure"])]
        shown = [_measure(mine, whole, measure, name, f"{measure}-by-{len(found)}", depth) for measure in names]
        found.append({"name": name, "values": mine["group"].n_unique(), "measures": shown})
    return found


def _measure(rows: pl.DataFrame, whole: pl.DataFrame, measure: str, field: str, anchor: str, depth: int) -> dict[str, Any]:
    mine, reading = rows.filter(pl.col("measure") == measure), READINGS[measure]
    largest = mine.group_by("group", maintain_order=True).agg(pl.col("n").max()).sort("n", descending=True, maintain_order=True)
    chosen = largest["group"].to_list()[: len(PALETTE)]
    sides = {side: _lines(mine, whole.filter(pl.col("measure") == measure), side, chosen, field) for side in SIDES}
    last = int(mine["layer"].max() or 0)  # pyright: ignore[reportArgumentType]
    axis = "block" if reading.of_pairs else "state"
    middle = (last + 1) // 2
    groups = largest["group"].to_list()
    table = _table(mine.filter(pl.col("layer") == middle), groups, field)
    return {
        "name": measure,
        "reading": reading,
        "sides": list(drawn(sides, Axis(depth, reading.of_pairs), anchor, f"{reading.title}, by {field}").items()),
        "table": table,
        "middle": middle,
        "axis": axis,
        "drawn": len(chosen),
        "undefined": _undefined(mine),
    }


def _lines(rows: pl.DataFrame, whole: pl.DataFrame, tokens: str, groups: list[str], field: str) -> list[Line]:
    behind = frame_of(whole.filter(pl.col("tokens") == tokens), "sound", "raw")
    found = [Line(behind, BLACK, "all", width=2.2)] if behind.height else []
    for colour, group in zip(PALETTE, groups, strict=False):
        frame = frame_of(rows.filter(pl.col("tokens") == tokens, pl.col("group") == group), "sound", "raw")
        if frame.height:
            found.append(Line(frame, colour, _word(group, field), width=1.3, own=True))
    return found


def _word(group: str, field: str) -> str:
    return group.removeprefix(f"{field}=")


def _table(rows: pl.DataFrame, groups: list[str], field: str) -> list[dict[str, Any]]:
    """Each group of one layer, and for both sides its row. Intervals come corrected for how many subgroups were looked at."""
    found = []
    for group in groups:
        record: dict[str, Any] = {"group": _word(group, field)}
        for side in SIDES:
            mine = rows.filter(pl.col("group") == group, pl.col("tokens") == side)
            if not mine.is_empty():
                record[side] = mine.row(0, named=True)
        found.append(record)
    return found


def _undefined(rows: pl.DataFrame) -> list[str]:
    """Which groups have no curve at all, and the first reason."""
    found = []
    for (group, tokens), mine in rows.filter(pl.col("tokens").is_in(SIDES)).group_by("group", "tokens", maintain_order=True):
        missing = mine.filter(pl.col("value").is_nan())
        if missing.height:
            found.append(f"{group}, {tokens} tokens, at {spans(missing['layer'].to_list())}: {missing['note'][0]}")
    return found
