"""`medlens compare RUN RUN [RUN] --out DIR`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say

LINES = 20  # of the table that are printed: those that differ come first, and the page has all


def command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two runs or more; all are compared with the first.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the comparison. Default: beside the first run.")] = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Compare runs layer by layer, with intervals; and their states, where the runs hold them."""
    import medlens
    from medlens.cli.progress import table

    found = medlens.compare(runs)
    folder = out or runs[0].resolve().with_name("-".join(["compare", *(run.resolve().name for run in runs)]))
    page = found.write(folder)
    for note in found.notes:
        print(f"medlens: {note}", file=sys.stderr)
    if as_json:
        say({"comparison": page, "notes": found.notes, "summary": found.summary.to_dicts()})
        return
    table(found.summary.head(LINES), found.title, width=150)
    if (more := found.summary.height - LINES) > 0:
        print(f"{more} more on the page")
    print(f"comparison: {page}")
