"""One figure: its panels, the rows that they draw, and what a reader must be told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from medlens.report.charts import Chart


def with_axis(chart: Chart, title: str) -> Chart:
    """With a title of the vertical axis, which the report does without: its heading says it."""
    return {**chart, "layer": [_titled(layer, title) for layer in chart["layer"]]}


def _titled(layer: Chart, title: str) -> Chart:
    y = layer["encoding"].get("y", {})
    return {**layer, "encoding": {**layer["encoding"], "y": {**y, "title": title}}} if "field" in y else layer


@dataclass(frozen=True)
class Figure:
    """name: of its files. panels: by what each shows; a figure of one panel may leave that empty. rows: exactly those that are
    drawn, with intervals and n where the run has them; a column `panel` says in which panel, where there are several. meaning,
    source: sentences. interval: what `low` and `high` are; empty where nothing has one. svg: a picture that is drawn already, in
    the place of panels.
    """

    name: str
    title: str
    panels: Mapping[str, Chart]
    rows: pl.DataFrame
    meaning: str
    source: str
    interval: str
    svg: str = ""

    def only(self, panel: str) -> Figure:
        """Of one panel alone."""
        rows = self.rows.filter(pl.col("panel") == panel) if "panel" in self.rows.columns else self.rows
        name = f"{self.name}-{re.sub(r'[^a-z0-9]+', '-', panel.lower()).strip('-')}"
        return replace(self, name=name, title=f"{self.title}: {panel}", panels={panel: self.panels[panel]}, rows=rows)
