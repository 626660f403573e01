"""`medlens claims RUN [--claim "anisotropy/image falls"]`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say

if TYPE_CHECKING:
    from medlens.claims import Verdict

COLOURS = {"supported": "green", "not supported": "red", "cannot be said": "yellow"}


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    claim: options.Claims = None,
    protocol: Annotated[str, typer.Option(help="Whose rows are looked at: `sound`, or `published` (no intervals).")] = "sound",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Judge the published study's claims on a run, and your own: supported, not supported, or cannot be said."""
    import medlens
    from medlens.errors import BadInput

    opened = medlens.open_run(run)
    if opened.rows.is_empty():
        raise BadInput(f"{run} holds no measures of hidden states: claims are judged on runs of `medlens study`")
    verdicts = medlens.judge(opened, claim or (), protocol)
    if as_json:
        say({"run": run, "claims": [verdict._asdict() for verdict in verdicts]})
    else:
        _print(verdicts)


def _print(verdicts: list[Verdict]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for column, least in (("verdict", 14), ("claim", 24), ("figure", 10), ("interval", 16), ("why", 30)):
        shown.add_column(column, min_width=least, overflow="fold")
    for v in verdicts:
        value = "" if v.value is None else f"{v.value:.4g}"
        interval = "" if v.low is None or v.high is None else f"{v.low:.4g} to {v.high:.4g}"
        said = "\n".join(filter(None, (v.sentence, v.claim)))
        shown.add_row(f"[{COLOURS[v.verdict]}]{v.verdict}[/]", escape(said), value, interval, escape(v.note), end_section=True)
    Console(width=130).print(shown, highlight=False)
