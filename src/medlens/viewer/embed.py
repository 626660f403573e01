"""The viewer inside another page, with its data: for reports, which are one file and ask for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from medlens.store import Run
from medlens.viewer.data import Shown
from medlens.viewer.files import STATIC
from medlens.viewer.packing import as_json

SHOWN = 3  # samples, where none are named,
MOST = 1_500_000  # as long as their data are no larger: a report is to be sent by mail
BEGIN = 'for (const place of document.querySelectorAll("[data-medlens-viewer]")) mount(place, inside(place));\n'


class Embedded(NamedTuple):
    """html: a fragment with data and script. script_hash: for the page's policy (`script-src 'sha256-...'`). style: CSS."""

    html: str
    script_hash: str
    style: str


def fragment(run: Run, samples: Sequence[str] | None = None) -> Embedded | None:
    """The viewer for a few samples, by name; by default those of which most is known, as many as fit into MOST characters. None
    where there are none."""
    shown = Shown(run)
    index = shown.index
    every = enumerate(index["samples"])
    if samples is None:
        seen = [(-len(about["seen"]), k) for k, about in every if "looks" in about["seen"]]
        places = [k for _, k in sorted(seen)[:SHOWN]]
    else:
        places = [k for k, about in every if about["id"] in samples]
    inside = _inside(shown, places)
    while samples is None and places and len(inside) > MOST:
        places = places[:-1]
        inside = _inside(shown, places)
    if not places:
        return None
    script = f"\n{STATIC['viewer.js']}\n{BEGIN}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = (
        f'<section data-medlens-viewer aria-label="Viewer"><script type="application/json">{inside}</script></section>\n'
        f'<script type="module">{script}</script>'
    )
    return Embedded(html, f"'sha256-{digest}'", STATIC["viewer.css"])


def _inside(shown: Shown, places: Sequence[int]) -> str:
    """Their data as JSON. What stands in <script> ends at the first "</script", whatever it is: no "<" is left in it."""
    index = shown.index
    data = {
        "index": [index | {"samples": [index["samples"][k] for k in places]}],
        "samples": [[shown.sample(k) for k in places]],
    }
    return as_json(data).decode().replace("<", "\\u003c")
