"""`medlens edit MODEL --scale BLOCK.UNIT=FACTOR --out FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say
from medlens.errors import BadInput


def command(
    model: options.ModelName,
    scale: Annotated[
        list[str], typer.Option(help="A unit and its factor, such as 12.431=0 to take unit 431 of block 12 out. Repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new checkpoint; must be free.")],
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Write a checkpoint with some units scaled: the same layout, every other byte the same."""
    import medlens

    factors = dict(_parsed(one) for one in scale)
    folder = medlens.edit(model, factors, out)
    if as_json:
        say({"checkpoint": folder, "scaled": factors})
        return
    print(f"checkpoint: {folder}")


def _parsed(said: str) -> tuple[str, float]:
    unit, _, factor = said.partition("=")
    try:
        return unit, float(factor)
    except ValueError as e:
        raise BadInput(f"--scale is BLOCK.UNIT=FACTOR, such as 12.431=0; got {said!r}") from e
