"""The report: one HTML file that needs nothing else, made from the run alone. Imports neither torch nor transformers."""

from __future__ import annotations

import re
from pathlib import Path

from medlens import store
from medlens.report.charts import as_files
from medlens.report.figures import Figures
from medlens.report.page import render as render


def write_report(folder: Path) -> Path:
    """Write `report.html` and the charts (`charts/*.png`, `*.svg`) into a run folder. Returns the report's path."""
    run = store.open_run(folder)
    figures = Figures(run)
    for name in figures.names:
        if (chart := figures.file(name)) is not None:
            for kind, content in as_files(chart).items():
                store.write(folder / "charts" / f"{file_name(name)}.{kind}", content)
    store.write(run.report, render(run, figures))
    return run.report


def file_name(measure: str) -> str:
    """Of a chart: the measure's name, without what a file system may not like in a user's own."""
    return re.sub(r"[^\w.-]", "_", measure)
