"""The command line: each command parses, calls one public function and prints. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import signal
import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import typer

from medlens.cli import (
    answer,
    bench,
    claims,
    compare,
    data,
    doctor,
    edit,
    explain,
    export,
    figures,
    lens,
    merge,
    neurons,
    phantom,
    probe,
    prune,
    reliance,
    report,
    result,
    study,
    thin,
    view,
)
from medlens.errors import MedlensError, MedlensWarning

USAGE = 2  # how the parser of the command line leaves
app = typer.Typer(
    help="Look inside vision-language models that answer medical questions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("study")(study.command)
app.command("merge")(merge.command)
app.command("claims")(claims.command)
app.command("compare")(compare.command)
app.command("view")(view.command)
app.command("probe")(probe.command)
app.command("explain")(explain.command)
app.command("neurons")(neurons.command)
app.command("reliance")(reliance.command)
app.command("report")(report.command)
app.command("thin")(thin.command)
app.command("answer")(answer.command)
app.command("doctor")(doctor.command)
app.command("prune")(prune.command)
app.command("edit")(edit.command)
app.command("bench")(bench.command)
app.command("figures")(figures.command)
app.command("export")(export.command)
app.add_typer(lens.app, name="lens")
app.add_typer(phantom.app, name="phantom")
app.add_typer(data.app, name="data")


def _say_version(asked: bool) -> None:
    if asked:
        print(f"medlens {version('medlens')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Look inside vision-language models that answer medical questions."""


class _Stopped(BaseException):
    """A signal asked us to stop: everything on the way out cleans up behind itself."""


def _stop(number: int, _frame: object) -> None:
    raise _Stopped(number)


def main() -> None:
    """Entry point. Our own errors: one line, with `--json` an object too, exit code 2; `--debug` shows where they are from."""
    debug = "--debug" in sys.argv
    warnings.showwarning = _warn
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except MedlensError as e:
        if debug:
            raise
        _leave(str(e), 2)
    except _Stopped as e:
        _leave("stopped; nothing was lost: the same command goes on where it was", 128 + e.args[0])
    except Exception as e:
        if debug:
            raise
        _leave(f"a bug of ours: {type(e).__name__}: {str(e).strip().splitlines()[:1]}; repeat with --debug and report it", 1)
    except SystemExit as e:
        if e.code == USAGE and result.wanted() and not result.said():
            result.say_error("the command line could not be read; what is wrong with it stands on stderr", USAGE)
        raise


def _warn(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: object) -> None:
    """Ours in one line, like our errors."""
    ours = issubclass(category, MedlensWarning)
    print(f"medlens: {message}" if ours else warnings.formatwarning(message, category, filename, lineno), file=sys.stderr)


def _leave(words: str, code: int) -> None:
    print(f"medlens: {words}", file=sys.stderr)
    if result.wanted() and not result.said():
        result.say_error(words, code)
    sys.exit(code)
