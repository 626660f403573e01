"""The format of a run: its page is complete, and what older medlens wrote is refused in one line."""

import runpy
from pathlib import Path

import polars as pl
import pytest

from medlens import store
from medlens.errors import BadRun

ROOT = Path(__file__).parent.parent


def test_the_page_is_what_the_tables_say():
    written = runpy.run_path(str(ROOT / "scripts" / "run_format.py"))
    assert (ROOT / "docs" / "run-format.md").read_text() == written["page"](), "run: python scripts/run_format.py"
    told = written["said"]()
    assert set(told) == {(name, column) for name, columns in store.TABLES.items() for column in ["", *columns]}
    for name, columns in store.TABLES.items():
        section = written["page"]().partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")] == list(columns)


@pytest.fixture
def old(tmp_path):
    """A run as it was before maps knew their sample."""
    store.write_manifest(tmp_path, {"model": {"name": "phantom"}})
    schema = {name: kind for name, kind in store.TABLES["maps"].items() if name != "sample"}
    pl.DataFrame([{"map": 0, "method": "erf", "token": 0, "value": 1.0}], schema=schema).write_parquet(tmp_path / "maps.parquet")
    return tmp_path


def test_a_table_of_an_older_run(old):
    with pytest.raises(BadRun, match=r"maps\.parquet has no column sample: an older medlens wrote it; repeat the run"):
        _ = store.open_run(old).maps


def test_a_table_with_a_column_more_is_read(old):
    frame = pl.DataFrame([{"sample": "a", "map": 0}], schema=store.TABLES["maps"]).with_columns(new=pl.lit(1))
    frame.write_parquet(old / "maps.parquet")
    assert store.open_run(old).maps["new"].to_list() == [1]


@pytest.mark.parametrize("number", ["0", "2", "null", '"1"', "1.5"])
def test_another_format(tmp_path, number):
    (tmp_path / "manifest.json").write_text(f'{{"format": {number}}}')
    with pytest.raises(BadRun, match=r"is a run of format .*; this medlens reads format 1: repeat the study"):
        store.open_run(tmp_path)
