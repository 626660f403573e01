"""The viewer: one screen on a run, in a browser (`medlens view`), in a notebook (`medlens.view`) and in a report (`embed`).

Reads the store alone: neither torch nor transformers.
"""

from __future__ import annotations

from importlib.resources import files

NAMES = ("index.html", "page.js", "viewer.js", "viewer.css")
STATIC = {name: files("medlens.viewer").joinpath("static", name).read_text(encoding="utf-8") for name in NAMES}
