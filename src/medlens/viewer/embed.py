"""The viewer inside another page, with its data: for reports, which are one file and ask for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from medlens.store import Run
from medlens.viewer.data import Shown
from medlens.viewer.files import STATIC
from medlens.viewer.pieces import packed

SHOWN = 3  # samples, where none are named,
MOST = 1_500_000  # as long as their data are no larger: a report is to be sent by mail
BEGIN = 'for (const place of document.querySelectorAll("[data-medlens-viewer]")) mount(place, inside(place));\n'


class Embedded(NamedTuple):
    """html: a fragment with data and script. script_hash: for the page's policy (`script-src 'sha256-...'`). style: CSS."""

    html: str
    script_hash: str
    style: str


def fragment(run: Run, samples: Sequence[str] | None = None) -> Embedded | None:
    """The viewer for a few samples, by name; by default those of which most is known, as many as fit into MOST characters: of a
    single one that does not, the last block, and as many before it, evenly spread, as do. None where there are none."""
    shown = Shown(run)
    every = enumerate(shown.index["samples"])
    if samples is None:
        known = [(-len(about["seen"]), k) for k, about in every if "looks" in about["seen"]]
        pieces = _fitting(shown, [k for _, k in sorted(known)[:SHOWN]])
    else:
        pieces = _pieces(shown, [k for k, about in every if about["id"] in samples])
    if len(pieces) < 2:
        return None
    script = f"\n{STATIC['viewer.js']}\n{BEGIN}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(pieces)  # base64: no "<" that could end the script
    html = (
        f'<section data-medlens-viewer aria-label="Viewer"><script type="application/json">{data}</script></section>\n'
        f'<script type="module">{script}</script>'
    )
    return Embedded(html, f"'sha256-{digest}'", STATIC["viewer.css"])


def _fitting(shown: Shown, places: Sequence[int]) -> dict[str, str]:
    for count in range(len(places), 1, -1):
        if _length(pieces := _pieces(shown, places[:count])) <= MOST:
            return pieces
    step = 1
    while _length(pieces := _pieces(shown, places[:1], step)) > MOST:
        if step > shown.depth:
            return {}
        step *= 2
    return pieces


def _pieces(shown: Shown, places: Sequence[int], step: int = 1) -> dict[str, str]:
    """By path: the index of these samples alone, the samples, and every `step`-th of their blocks, from the last one down."""
    index = shown.index | {"samples": [shown.index["samples"][k] for k in places]}
    found = {"index": packed([index])}
    for number, place in enumerate(places):
        found[f"0/sample/{number}"] = shown.payload(place)
        for block in shown.blocks(place)[::-step]:
            found[f"0/sample/{number}/block/{block}"] = shown.payload(place, block)
    return {path: base64.b64encode(piece).decode() for path, piece in found.items()} if places else {}


def _length(pieces: Mapping[str, str]) -> int:
    return sum(map(len, pieces.values()))
