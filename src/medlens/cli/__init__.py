"""The command line: each command parses, calls one public function and prints. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from medlens.cli import study
from medlens.errors import MedlensError

app = typer.Typer(
    help="Look inside vision-language models that answer medical questions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("study")(study.command)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"medlens {version('medlens')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Look inside vision-language models that answer medical questions."""


def main() -> None:
    """Entry point. Our own errors are one line and exit code 2; `--debug` shows where they came from."""
    try:
        app()
    except MedlensError as e:
        if "--debug" in sys.argv:
            raise
        print(f"medlens: {e}", file=sys.stderr)
        sys.exit(2)
