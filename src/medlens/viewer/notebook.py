"""The viewer in a notebook: the same component, its data asked for over the notebook's own channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medlens.errors import BadInput, MedlensError
from medlens.store import Run
from medlens.viewer.data import Shown, open_shown, piece
from medlens.viewer.files import STATIC


def view(run: Run | str | Path, other: Run | str | Path | None = None) -> Any:
    """Look at a run, or at two side by side, in a notebook: a widget.

    run, other: opened, or their folders. Raises BadRun for a folder that is none; BadInput where anywidget is not installed.
    """
    try:
        import anywidget
    except ImportError as e:
        raise BadInput("medlens.view needs anywidget: pip install 'medlens[notebook]'") from e
    runs = [Shown(r) if isinstance(r, Run) else open_shown(r) for r in (run, other) if r is not None]

    class Viewer(anywidget.AnyWidget):
        _esm, _css = STATIC["viewer.js"], STATIC["viewer.css"]

    def answer(widget: Any, asked: Any, _buffers: Any) -> None:
        """asked: {path}, as in `piece`; the piece itself goes beside what is said."""
        path = str(asked.get("path"))
        try:
            found, failed = piece(runs, path), "nothing is here"
        except MedlensError as e:  # of a damaged run: the next sample may be whole
            found, failed = None, str(e)
        widget.send({"path": path, "failed": None if found else failed}, [found] if found else [])

    widget = Viewer()
    widget.on_msg(answer)
    return widget
