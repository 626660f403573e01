"""`medlens report RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run; RUN.part of one that is not finished.")],
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Make a run's report again, from its tables alone; of an unfinished study, as far as it is."""
    from medlens.report.again import make_report

    page = make_report(run)
    if as_json:
        say({"report": page, "bytes": page.stat().st_size})
    else:
        print(f"report: {page}")
