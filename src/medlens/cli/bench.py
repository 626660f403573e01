"""`medlens bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medlens._bench.run import SECTIONS, bench
from medlens.cli import options
from medlens.cli.result import say


def command(
    only: Annotated[list[str] | None, typer.Option(help=f"One section, again for more: {', '.join(SECTIONS)}.")] = None,
    rounds: Annotated[int, typer.Option(help="Runs of each job; their median counts.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One round, without what takes a peer many minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the page; without one it is printed.")] = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Measure time and memory on this machine, ours beside the peers', and make a page of it (markdown)."""
    page = bench(only or (), rounds=1 if quick else rounds, quick=quick, out=out, tell=_tell)
    if as_json:
        say({"page": out, "markdown": page})
        return
    print(page if out is None else f"page: {out}")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
