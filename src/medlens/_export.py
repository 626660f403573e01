"""A run's tables for other programs: CSV that a spreadsheet opens without harm, parquet, JSON. (The function is `export`.)"""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from medlens import store
from medlens.errors import BadInput, BadRun
from medlens.unfinished import writing

FORMATS = ("csv", "parquet", "json")
FORMULA = r"^[=+\-@\t\r]"  # how a cell begins that a spreadsheet would run


def export(run: store.Run | str | Path, out: str | Path, format: str = "csv") -> list[Path]:
    """Write all tables of a run to the new folder `out`, one file a table: `rows.csv`, `samples.csv`, ...; returns the files.

    format: csv (lists as JSON; text that begins with = + - @ gets a ' in front, so that no spreadsheet takes words of a data set
    for a formula; numbers are untouched), parquet (as in the run), or json (a list of objects; what is undefined is null). Whole or
    not at all. Raises BadInput for another format; BadRun for what is no finished run, and where `out` holds something already;
    CannotWrite.
    """
    if format not in FORMATS:
        raise BadInput(f"format is one of {', '.join(FORMATS)}; got {format!r}")
    run = run if isinstance(run, store.Run) else store.open_run(run)
    out = Path(out)
    store.check_place(out)
    if out.is_dir() and any(out.iterdir()):
        raise BadRun(f"{out} is there already and is not empty; choose another --out")
    names = [name for name in store.TABLES if (run.path / f"{name}.parquet").is_file()]
    with writing(out) as folder:
        for name in names:
            if format == "parquet":
                shutil.copyfile(run.path / f"{name}.parquet", folder / f"{name}.parquet")
            else:
                frame = getattr(run, name)
                store.write(folder / f"{name}.{format}", as_csv(frame) if format == "csv" else frame.write_json())
    return [out / f"{name}.{format}" for name in names]


def as_csv(frame: pl.DataFrame) -> str:
    """A table as CSV with its head; empty cells are null, NaN is written as such. Text that looks like a formula is guarded."""
    lists = [name for name, kind in frame.schema.items() if kind.is_nested()]
    flat = frame.with_columns(
        pl.col(name).map_elements(_listed, return_dtype=pl.String, skip_nulls=True) for name in lists
    )  # fmt: skip
    guarded = pl.when(pl.col(pl.String).str.contains(FORMULA)).then("'" + pl.col(pl.String)).otherwise(pl.col(pl.String))
    return flat.with_columns(guarded.name.keep()).write_csv()


def _listed(values: pl.Series) -> str:
    """A list cell as JSON."""
    return pl.DataFrame({"values": [values]}).write_json().removeprefix('[{"values":').removesuffix("}]")
