"""How soon a run's report is there again, made from its tables alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import medlens
from medlens._bench.turns import Job, Table, Turns

SAMPLES = 200


def section(turns: Turns) -> str:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        medlens.study("phantom", "phantom", medlens.Plan(limit=SAMPLES, map_images=0), run)
        again, imported = turns(Job("report", "again", (str(run),)), Job("report", "imported"))
        size = (run / "report.html").stat().st_size
    table = Table(turns, "seconds", "what")
    table.add(again.why or format(again.seconds, ".2f"), f"`medlens report` of {SAMPLES} samples, phantom: {size / 1e6:.1f} MB")
    table.add(imported.why or format(imported.seconds, ".2f"), "of these, importing what makes it (a process of its own)")
    return f"## The report, made again\n\n{table}"


def again(run: str) -> Callable[[], object]:
    command = [sys.executable, "-c", "from medlens.cli import main; main()", "report", run]
    return lambda: subprocess.run(command, check=True, capture_output=True)


def imported() -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", "import medlens.report.again"], check=True, capture_output=True)
