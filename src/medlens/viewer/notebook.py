"""The viewer in a notebook: the same component, its data asked for over the notebook's own channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medlens.errors import BadInput
from medlens.store import Run
from medlens.viewer.data import Shown, open_shown
from medlens.viewer.files import STATIC


def view(run: Run | str | Path, other: Run | str | Path | None = None) -> Any:
    """Look at a run, or at two side by side, in a notebook: a widget.

    run, other: opened, or their folders. Raises BadRun for a folder that is none; BadInput where anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as e:
        raise BadInput("medlens.view needs anywidget: pip install 'medlens[notebook]'") from e
    runs = [Shown(r) if isinstance(r, Run) else open_shown(r) for r in (run, other) if r is not None]

    class Viewer(anywidget.AnyWidget):
        _esm, _css = STATIC["viewer.js"], STATIC["viewer.css"]
        index = traitlets.List([shown.index for shown in runs]).tag(sync=True)

    def answer(widget: Any, asked: Any, _buffers: Any) -> None:
        """asked: {run, sample}, two places."""
        at, place = asked.get("run"), asked.get("sample")
        known = isinstance(at, int) and isinstance(place, int) and 0 <= at < len(runs) and 0 <= place < len(runs[at].samples)
        widget.send({"run": at, "sample": place, "payload": runs[at].sample(place) if known else None})

    widget = Viewer()
    widget.on_msg(answer)
    return widget
