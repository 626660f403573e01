"""What a target is: a reader, and how hostile files for it are made."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Read = Callable[[], object]


@dataclass(frozen=True)
class Target:
    """name; share: of all inputs, in parts; setup: makes valid files in a folder, once; make: from what `setup` gave, writes one
    input into an empty folder and returns what reads it. aborts: the library that reads it ends the process, by itself and with
    nothing to catch, where a file claims a size that no memory holds; docs/security.md says so, and it is counted apart."""

    name: str
    share: int
    setup: Callable[[Path], Any]
    make: Callable[[Any, Path, random.Random], Read]
    aborts: bool = False
