"""What a command says in the end: for people, or with `--json` one JSON object and nothing else on stdout."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_said: list[None] = []  # one for each object printed


def say(result: Mapping[str, Any]) -> None:
    """Print the one object. Paths are text; a number that is none (NaN, infinity) is null, since JSON has neither."""
    print(json.dumps(_plain(result), allow_nan=False))
    _said.append(None)


def say_error(words: str, code: int) -> None:
    """The object that stands in the place of a result: `{"error": ..., "code": 2}`. The line on stderr stays."""
    say({"error": words, "code": code})


def wanted() -> bool:
    """Whether this command was given `--json`: an error has to know it even where the options could not be read."""
    return "--json" in sys.argv[1:]


def said() -> bool:
    """Whether the one object is printed already."""
    return bool(_said)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
