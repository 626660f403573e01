"""Runs of `reliance` beside each other: the verdict on each, and the traffic light of each type of question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from medlens import store
from medlens.comparison.written import write_comparison
from medlens.pages import environment
from medlens.report.lights import lights, verdict


@dataclass(frozen=True, eq=False)
class Reliances:
    """names: of the runs. summary: one line of verdicts, then one a type of question; a column each run. notes: what must be
    known."""

    names: tuple[str, ...]
    runs: tuple[store.Run, ...]
    title = "do their answers rest on the image?"

    @cached_property
    def notes(self) -> tuple[str, ...]:
        data = {run.manifest["data"]["fingerprint"] for run in self.runs}
        return () if len(data) == 1 else ("the runs are of different data: what differs may lie in these",)

    @cached_property
    def summary(self) -> pl.DataFrame:
        """Of each type of question the light, and the share of answers that rest on the image, with its interval."""
        return pl.DataFrame([{"questions": row["group"]} | dict(zip(self.names, row["said"], strict=True)) for row in self.rows])

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """`group` (a type of question; first "verdict"), and of each run what is `said` and its `colour`."""
        of_each = [{light.group: light for light in lights(run)} for run in self.runs]
        groups = list(dict.fromkeys(group for found in of_each for group in found))
        rows = [{"group": "verdict", "said": [verdict(run) for run in self.runs], "colours": [""] * len(self.runs)}]
        for group in groups:
            found = [of.get(group) for of in of_each]
            said = ["–" if light is None else f"{light.sign} {light.colour}: {_share(light.numbers['rests'])}" for light in found]
            rows.append({"group": group, "said": said, "colours": ["" if light is None else light.colour for light in found]})
        return rows

    def write(self, out: str | Path) -> Path:
        """Write `compare.html` and the table as `differences.parquet`: see `Comparison.write`."""
        return write_comparison(out, _page(self.names, self.runs, self.rows, self.notes), self.summary)


def _share(row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None else f" ({100 * row['low']:.0f} to {100 * row['high']:.0f})"
    return f"{100 * row['value']:.0f} %{interval}"


def _page(names: Sequence[str], runs: Sequence[store.Run], rows: Sequence[dict[str, Any]], notes: Sequence[str]) -> str:
    """Everything that comes from data, models or folders is escaped."""
    templates = environment(Path(__file__).parent)
    return templates.get_template("reliances.html.j2").render(
        names=list(zip(names, runs, strict=True)), rows=rows, notes=notes, medlens=runs[0].manifest["medlens"]
    )
