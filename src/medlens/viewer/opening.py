"""A link opened in the reader's browser, where other users of the machine do not see it."""

from __future__ import annotations

import html
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread


@contextmanager
def opened(link: str) -> Iterator[None]:
    """Open it by way of a page that leads there, in a folder of the reader's own: what a browser is started with, everybody on the
    machine can list, and the link is a key. In a thread, since a browser may keep whoever starts it waiting."""
    with tempfile.TemporaryDirectory(prefix="medlens-") as folder:
        page = Path(folder) / "view.html"
        page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(link)}">', encoding="utf-8")
        Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()
        yield
