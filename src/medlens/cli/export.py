"""`medlens export RUN --out FOLDER --format csv|parquet|json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables; must be free.")] = Path("tables"),
    format: Annotated[str, typer.Option(help="`csv`, `parquet` or `json`.")] = "csv",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Write all tables of a run for other programs, one file a table."""
    import medlens

    files = medlens.export(run, out, format)
    if as_json:
        say({"tables": out, "files": files})
        return
    print(f"{len(files)} tables: {out}")
