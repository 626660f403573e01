"""A picture of a run as a data URL; what the run says of its place is not believed."""

from __future__ import annotations

import base64
from pathlib import Path

from medlens.picture import within

KINDS = {".png": ("image/png", b"\x89PNG"), ".jpg": ("image/jpeg", b"\xff\xd8\xff"), ".jpeg": ("image/jpeg", b"\xff\xd8\xff")}
LARGEST = 4 * 2**20  # bytes


def data_url(folder: Path, name: str | None) -> str | None:
    """None where there is no such picture in the folder: a name that leads out of it (dots, links), and a file that begins as none.

    name: relative to the folder, from a table, which somebody else may have written.
    """
    path = within(folder, name) if name else None
    kind, begins = KINDS.get(path.suffix if path else "", ("", b""))
    if path is None or not kind or path.stat().st_size > LARGEST:
        return None
    data = path.read_bytes()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}" if data.startswith(begins) else None
