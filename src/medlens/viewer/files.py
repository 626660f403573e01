"""The files of the component, as they are shipped; its modules as the one script that server, notebook and report are given."""

from __future__ import annotations

import re
from importlib.resources import files

MODULES = ("words", "colours", "elements", "pieces", "sample", "picture", "states", "units", "maps", "pane", "screen", "mount")
IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.M)
FOLDER = files("medlens.viewer").joinpath("static")


def _read(name: str) -> str:
    return FOLDER.joinpath(name).read_text(encoding="utf-8")


def joined() -> str:
    """One module of all, each behind those that it imports: what they import is there then, and the last alone exports. (A report
    is one file, and a notebook is given one text.)"""
    *inner, last = (IMPORT.sub("", _read(f"viewer/{name}.js")) for name in MODULES)
    return "\n".join([*(re.sub(r"^export ", "", text, flags=re.M) for text in inner), last])


STATIC = {name: _read(name) for name in ("index.html", "page.js", "viewer.css")} | {"viewer.js": joined()}
