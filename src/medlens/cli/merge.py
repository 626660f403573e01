"""`medlens merge RUN`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options


def command(
    out: Annotated[Path, typer.Argument(help="The --out of the shares: the folder of the run to be made.")],
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Merge the shares of a study (`medlens study --shard 3/16`) into its run."""
    from medlens.cli.progress import Bars
    from medlens.cli.study import say_run

    sys.path.insert(0, str(Path.cwd()))  # where measures of the user's own lie
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens

        merge = medlens.merge
        bars.tick()
        run = merge(out, watcher=bars)
    say_run(run, True, as_json)
