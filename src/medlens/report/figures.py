"""The measures of a run as figures: which are there, their charts, captions and tables."""

from __future__ import annotations

from typing import Any

import polars as pl

from medlens import store
from medlens.curves import spans
from medlens.published import for_run
from medlens.report.charts import side_by_side, titled
from medlens.report.drawing import Axis, drawn
from medlens.report.lines import COLOURS, Line, lines_of, main_protocol, scales_of
from medlens.report.plateau import plateaus
from medlens.report.readings import BEHIND, READINGS, SCALES, SECTIONS, Reading, reading_of

SCALES_READING = Reading(
    "Intrinsic dimension at scales",
    False,
    "On all rows, and on a half, a quarter, an eighth of them, where neighbours are farther apart: a dimension would not care.",
    "",
    "Facco et al. 2017; Denti et al. 2022",
    "dimensions",
)


class Figures:
    """What can be drawn of a run: measures of all samples (group "all"), those that it has, in the order of the report."""

    def __init__(self, run: store.Run) -> None:
        self.run, self.depth, self.width = run, run.manifest["model"]["blocks"], run.manifest["model"]["width"]
        self.rows = run.rows.filter(pl.col("group") == "all")
        self.published, self._charts = for_run(run), {}
        there = list(dict.fromkeys(self.rows["measure"]))
        elsewhere = {*BEHIND, *SCALES} - {*READINGS}
        self.names = [name for name in READINGS if name in there] + [n for n in there if n not in READINGS and n not in elsewhere]
        if len({*SCALES} & {*there}) > 1:
            self.names.insert(self.names.index("intrinsic_dimension") + 1, "scales")

    def reading(self, name: str) -> Reading:
        if name == "scales":
            return SCALES_READING
        return reading_of(name, self._last(name) < self.depth)

    def lines(self, name: str) -> dict[str, list[Line]]:
        """Of both sides, by name."""
        if name == "scales":
            return {side: scales_of(self.rows, side) for side in SCALES_READING.sides}
        reading = self.reading(name)
        return {side: lines_of(self.rows, name, side, reading, self.published) for side in reading.sides}

    def charts(self, name: str) -> dict[str, Any]:
        if name not in self._charts:
            self._charts[name] = self._drawn(name)
        return self._charts[name]

    def _drawn(self, name: str) -> dict[str, Any]:
        axis = "block b (state b → b + 1)" if self.reading(name).of_pairs else "state (0 enters the first block)"
        return side_by_side(self.lines(name), axis, self._last(name))

    def drawn(self, name: str) -> dict[str, str]:
        """Of both sides, as SVG for the page."""
        reading = self.reading(name)
        return drawn(self.lines(name), Axis(self.depth, reading.of_pairs), name, reading.title)

    def file(self, name: str):
        """Both sides with titles, as one chart; None where nothing is defined."""
        charts = {f"{side} tokens": chart for side, chart in self.charts(name).items()}
        return titled(self.reading(name).title, charts) if charts else None

    def _last(self, name: str) -> int:
        return int(self._of(name)["layer"].max() or 0)  # pyright: ignore[reportArgumentType]

    def _of(self, name: str) -> pl.DataFrame:
        return self.rows.filter(pl.col("measure").is_in(list(SCALES)) if name == "scales" else pl.col("measure") == name)

    def sections(self) -> list[dict[str, Any]]:
        """Sections that have a measure, each with its figures."""
        found = []
        for section in SECTIONS:
            mine = [self._figure(name) for name in self.names if self.reading(name).section == section.name]
            if mine:
                found.append({"section": section, "figures": mine})
        return found

    def _figure(self, name: str) -> dict[str, Any]:
        mine, charts = self._of(name), self.drawn(name)
        main = mine.filter(pl.col("protocol") == main_protocol(mine), pl.col("variant") == "raw")
        at_scales = name == "scales"
        if at_scales:
            main = main.filter(pl.col("measure") == "intrinsic_dimension")
        sides = []
        for side in self.reading(name).sides:
            raw = main.filter(pl.col("tokens") == side)
            if not raw.is_empty():
                verdicts = plateaus(self.rows, side) if at_scales else []
                sides.append(
                    (
                        side,
                        charts.get(side),
                        self._caption(raw, self.reading(name).section),
                        verdicts,
                    )
                )
        return {
            "name": name,
            "reading": self.reading(name),
            "sides": sides,
            "groups": sorted(mine["tokens"].unique().to_list(), key=_order),
            "table": _table(mine, at_scales),
        }

    def _caption(self, rows: pl.DataFrame, section: str) -> dict[str, Any]:
        """First, last, lowest and highest defined value, and why others are undefined."""
        defined = rows.filter(pl.col("value").is_finite()).sort("layer")
        missing = rows.filter(~pl.col("value").is_finite()).sort("layer")
        bare = defined.filter(pl.col("low").is_null() | pl.col("low").is_nan())
        n = int(rows["n"].max() or 0)  # pyright: ignore[reportArgumentType]
        ends = {
            "n": n,
            "few": 0 < n < 2 * self.width and section in ("linear", "spread"),
            "undefined": spans(missing["layer"].to_list()) if missing.height else None,
            "why": missing["note"][0] if missing.height else "",
            "bare": spans(bare["layer"].to_list()) if 0 < bare.height < defined.height else None,
            "why_bare": next(filter(None, bare["note"]), "").removeprefix("no interval: ") if bare.height else "",
            "no_interval": bare.height == defined.height,
        }
        if defined.is_empty():
            return {**ends, "defined": False}
        return {
            **ends,
            "defined": True,
            "first": defined.row(0, named=True),
            "last": defined.row(-1, named=True),
            "lowest": defined.sort("value", "layer").row(0, named=True),
            "highest": defined.sort("value", "layer").row(-1, named=True),
        }


def _order(tokens: str) -> tuple[int, int, str]:
    """The groups, then single tokens of the question ("text:1:there") as they stand in it."""
    known, place = list(COLOURS), tokens.split(":")[1:2]
    if tokens in known:
        return known.index(tokens), 0, ""
    return len(known), int(place[0]) if place and place[0].isdecimal() else 0, tokens


def _table(rows: pl.DataFrame, with_measure: bool) -> list[dict[str, Any]]:
    """One line a layer, protocol and variant (and scale), one column a token group: value, low, high."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows.iter_rows(named=True):
        what = ", ".join(filter(None, (SCALES[row["measure"]] if with_measure else "", _said(row["protocol"], row["variant"]))))
        cells = found.setdefault(
            (row["layer"], row["protocol"] != "sound", what), {"layer": row["layer"], "what": what, "cells": {}}
        )
        cells["cells"][row["tokens"]] = row
    return [found[key] for key in sorted(found, key=lambda key: key[:2])]


def _said(protocol: str, variant: str) -> str:
    return variant if protocol == "sound" else f"{protocol}, {variant}" if variant != "raw" else protocol
