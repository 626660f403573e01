"""The files of the component, as they are shipped."""

from __future__ import annotations

from importlib.resources import files

NAMES = ("index.html", "page.js", "viewer.js", "viewer.css")
STATIC = {name: files("medlens.viewer").joinpath("static", name).read_text(encoding="utf-8") for name in NAMES}
