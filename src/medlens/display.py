"""How an object shows itself in a notebook: a card with a title, what there is to tell, and pictures. Everything is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from io import BytesIO
from typing import Any

from PIL import Image


def card(title: str, told: Mapping[str, Any], pictures: Iterable[tuple[Image.Image | str | None, str]] = ()) -> str:
    """HTML without scripts, links or styles from elsewhere. told: what has no value is left out. pictures: with what stands below
    each: an image, an SVG, or None for one that cannot be shown."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in told.items()
        if value not in (None, "")
    )
    shown = "".join(_figure(picture, below) for picture, below in pictures)
    strip = f"<div style='display:flex;flex-wrap:wrap;gap:8px'>{shown}</div>" if shown else ""
    return f"<div><b>{escape(title)}</b>{strip}<table>{rows}</table></div>"


def _figure(picture: Image.Image | str | None, below: str) -> str:
    said = escape(below)
    if picture is None:
        return f"<div style='border:1px solid #8a8a8a;padding:8px'>{said}<br><i>not shown here</i></div>"
    if isinstance(picture, str):
        source, wide = f"svg+xml;base64,{base64.b64encode(picture.encode()).decode()}", 300
    else:
        buffer = BytesIO()
        picture.save(buffer, "PNG")
        source, wide = f"png;base64,{base64.b64encode(buffer.getvalue()).decode()}", picture.width
    image = f"<img src='data:image/{source}' alt='{escape(below, quote=True) or 'picture'}' width='{wide}'>"
    return f"<figure style='margin:0'>{image}<figcaption>{said}</figcaption></figure>"
