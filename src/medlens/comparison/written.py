"""Where a comparison is written: a page and a table, in a folder that holds nothing else."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import polars as pl

from medlens import store
from medlens.errors import BadRun

PAGE, TABLE = "compare.html", "differences.parquet"


def write_comparison(out: str | Path, page: str, differences: pl.DataFrame) -> Path:
    """Returns the page's path. Raises CannotWrite, or BadRun where something else is in the folder."""
    out = Path(out)
    store.check_place(out)
    if out.is_dir() and (others := {p.name for p in out.iterdir()} - {PAGE, TABLE}):
        raise BadRun(f"{out} is there already and is no comparison (it holds {min(others)}); choose another --out")
    buffer = BytesIO()
    differences.write_parquet(buffer)
    store.write(out / TABLE, buffer.getvalue())
    store.write(out / PAGE, page)
    return out / PAGE
