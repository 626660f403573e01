"""Which of a data set's parts is read when its folder is named: the test set, and never a guess."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medlens.errors import BadData


def test_set(folder: Path, files: Iterable[Path]) -> Path:
    """The file (or folder) with `test` in its name, or the only one. Raises BadData where that leaves none or several."""
    found = sorted(files)
    chosen = [file for file in found if "test" in file.stem.lower()] or found
    if len(chosen) != 1:
        names = ", ".join(file.name for file in chosen) or "none"
        raise BadData(f"{folder.name}/ holds {len(chosen)} sets of questions ({names}); name the one to read")
    return chosen[0]
