"""`medlens figures RUN --style nature|slides --format pdf,svg,png --out F`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    style: Annotated[
        str, typer.Option(help="`nature`: 89 or 183 mm wide, letters of 5 to 7 points. `slides`: a panel each, large letters.")
    ] = "nature",
    format: Annotated[str, typer.Option(help="With commas between them.")] = "pdf,svg,png",
    only: Annotated[list[str] | None, typer.Option(help="One figure, such as anisotropy; may be given several times.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the figures; new, or one of earlier figures.")] = Path("figures"),
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Write each chart of a run as a figure for a paper or a slide, with its rows as CSV and a caption."""
    import medlens

    made = medlens.figures(run, style=style, formats=[kind.strip() for kind in format.split(",")], only=only or (), out=out)
    if as_json:
        say({"figures": made.folder, "captions": made.captions, "names": made.names})
        return
    print(f"{len(made.names)} figures: {made.folder}\ncaptions: {made.captions}")
