"""A piece: what is sent at once, by the server, to a notebook and into a report alike.

It is deflated. Inflated: the length of its JSON (4 bytes), the JSON, and the arrays that stand in it as {"array": [kind, at,
count]}, `at` bytes behind its end. Of an array first the lowest bytes of all its numbers, then the next ones, so that like lies
beside like; all little endian. `static/viewer/pieces.js` opens it in the browser.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np

LEVEL = 1  # of deflating: what more would save is a few percent


def packed(content: object) -> bytes:
    """JSON, and any arrays in it (int32, float32, uint16). Raises ValueError for what JSON cannot say (NaN)."""
    arrays: list[bytes] = []

    def beside(array: object) -> dict[str, Any]:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"a {type(array).__name__} cannot be packed")
        at, kind = sum(map(len, arrays)), array.dtype.newbyteorder("<")
        arrays.append(np.frombuffer(array.astype(kind).tobytes(), "u1").reshape(-1, kind.itemsize).T.tobytes())
        return {"array": [f"{kind.kind}{kind.itemsize}", at, array.size]}

    said = json.dumps(content, default=beside, allow_nan=False, separators=(",", ":")).encode()
    return zlib.compress(b"".join([len(said).to_bytes(4, "little"), said, *arrays]), LEVEL)


def opened(piece: bytes) -> Any:
    """What was packed; its arrays are flat."""
    content = zlib.decompress(piece)
    behind = 4 + int.from_bytes(content[:4], "little")

    def revived(found: dict[str, Any]) -> Any:
        if "array" not in found:
            return found
        kind, at, count = found["array"]
        size = np.dtype(kind).itemsize
        planes = np.frombuffer(content, "u1", count * size, behind + at).reshape(size, count)
        return np.frombuffer(planes.T.tobytes(), f"<{kind}")

    return json.loads(content[4:behind], object_hook=revived)
