"""JSON that somebody else has written."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def parse(text: str | bytes, names: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """What the text says; names: makes something else of every object in it. Raises ValueError for what is no JSON, and for what is
    nested deeper than Python reads."""
    try:
        return json.loads(text, object_hook=names)
    except RecursionError as e:
        raise ValueError("nested too deep") from e
