"""One figure: its panels, the rows that they draw, and what a reader must be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from medlens.report.charts import Chart


@dataclass(frozen=True)
class Figure:
    """name: of its files. panels: by what each shows; a figure of one panel may leave that empty. rows: exactly those that are drawn,
    with intervals and n where the run has them. meaning, source: sentences. interval: what `low` and `high` are; empty where
    nothing has one. svg: a picture that is drawn already, in the place of panels."""

    name: str
    title: str
    panels: Mapping[str, Chart]
    rows: pl.DataFrame
    meaning: str
    source: str
    interval: str
    svg: str = ""
