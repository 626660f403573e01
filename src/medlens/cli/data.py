"""`medlens data qa50 [--download]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say

app = typer.Typer(help="Data sets whose images have to be fetched first.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Data sets whose images have to be fetched first."""


@app.command("qa50")
def qa50(
    folder: Annotated[
        Path, typer.Option("--out", help="The folder that holds the authors' two lists (questions, image URLs).")
    ] = Path("qa50"),
    download: Annotated[
        bool, typer.Option("--download", help="Fetch what is missing. Without it nothing goes over the network.")
    ] = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """List, and fetch, the 50 figures of LLaVA-Med's 193 questions from PubMed Central."""
    from medlens.cli.progress import Bars
    from medlens.data.figures import fetch_figures, figures, missing, write_list

    wanted = figures(folder)
    to_fetch = missing(folder, wanted)
    if not download:
        place, archives = write_list(folder)
        if as_json:
            say({"list": place, "figures": len(wanted), "missing": len(to_fetch), "archives": archives})
            return
        print(f"{len(wanted) - len(to_fetch)} of {len(wanted)} figures are here; {archives} archives to fetch: {place}")
        return
    with Bars() as bars:
        bars.begin("fetching", len(to_fetch))
        failed = fetch_figures(folder, bars.tick)
    for line in failed:
        typer.echo(f"medlens: {line}", err=True)
    left = len(missing(folder, wanted))
    if as_json:
        say({"images": folder / "images", "figures": len(wanted), "missing": left, "failed": failed})
    else:
        print(f"{len(wanted) - left} of {len(wanted)} figures are in {folder / 'images'}")
    if failed:
        raise typer.Exit(2)
