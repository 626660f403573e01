"""`medlens view RUN [RUN]`"""

from __future__ import annotations

import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from medlens.cli import options
from medlens.cli.result import say


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    other: Annotated[Path | None, typer.Argument(help="Another one, side by side.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine; 0: any that is free.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the link, and open nothing.")] = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Look at a run token by token, in a browser: only on this machine, and only with the link that is printed. Ctrl-C ends it."""
    from medlens.viewer.data import open_shown
    from medlens.viewer.opening import opened
    from medlens.viewer.server import Server

    server = Server([open_shown(path) for path in (run, other) if path is not None], port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    with server:
        if as_json:
            say({"link": server.link})
        else:
            print(f"{server.link}\nOn this machine alone; the link is its key. Ctrl-C ends it.")
        sys.stdout.flush()  # who waits for the link reads it from a pipe
        with nullcontext() if no_browser else opened(server.link):
            server.serve_forever()


def _end(_number: int, _frame: Any) -> None:
    """Looking ends when the reader says so: nothing is lost, and nothing failed."""
    raise SystemExit(0)
