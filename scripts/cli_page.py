"""Every command and flag of the command line, as docs/cli.md. `--check` says whether the page is up to date.

python scripts/cli_page.py [--check]
"""

from __future__ import annotations

import sys
from html import unescape
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from medlens.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = "# Reference: command line\n\nWritten from `--help` by `scripts/cli_page.py`.\n\n"


def page() -> str:
    command = typer.main.get_command(app)
    told = get_docs_for_click(obj=command, ctx=typer.Context(command), name="medlens")
    return HEAD + unescape(told).removeprefix("# `medlens`\n\n").rstrip() + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == page() else f"{PAGE.name} is old: python scripts/cli_page.py")
    PAGE.write_text(page(), encoding="utf-8")
