"""`python -m tools.fuzz [--inputs N] [--seed S] [--target NAME] [--only K] [--json]`.

Each target is read in a process of its own, under `guard`. Input K of a target and seed is always the same, so what is found is
found again: `--target NAME --only K`.
"""

from __future__ import annotations

SHARES = {
    "picture": 26, "mask": 12, "dicom": 12, "csv": 8, "json": 9, "folder": 3, "published sets": 7, "tables": 6, "figures": 4,
}  # fmt: skip
