"""What the instruments of a walk have found so far: what becomes the tables of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from medlens.store import TABLES
from medlens.types import Row, Value


class LeftOut(NamedTuple):
    """A row's value once more, without one fold of whole images: what intervals, and tests across layers, stand on."""

    protocol: str
    measure: str
    layer: int
    tokens: str
    group: str
    variant: str
    fold: int
    value: float


class Massive(NamedTuple):
    """One massive activation: in which state, of which sample, at which token and column, and how large."""

    layer: int
    sample: str
    position: int
    token: str
    tokens: str  # its group
    column: int
    value: float


class Occurrence(NamedTuple):
    """How often the strongest units of an image's tokens write a word. protocol: also "null: all units ...", see `_units`."""

    protocol: str
    layer: int
    image: str | None
    word: str
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]


class UnitWord(NamedTuple):
    """One of the words that the strongest units of a block write most often, over all images: see the table `unit_words`."""

    protocol: str
    layer: int
    word: str
    count: float  # pyright: ignore[reportIncompatibleMethodOverride]
    low: float | None
    high: float | None
    expected: float
    ratio: float
    p: float
    images: int
    note: str


class Findings:
    """All of it. Instruments add to it; `noted` is what JSON holds of it (all but the states and the large
    tables), and `recall` takes that up again."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.left_out: list[LeftOut] = []
        self.massive: list[Massive] = []
        self.occurrence: list[Occurrence] = []
        self.unit_words: list[UnitWord] = []
        self.states: dict[str, Any] = {}  # "image/07": rows of state 7, (n, d) float32, the same tokens in every state; tensors
        self.tables: dict[str, list[pl.DataFrame]] = {}  # large ones, in pieces: lens, decisions

    def add(self, row: Row, without: Mapping[int, Value] | None = None) -> None:
        """A row, and its value without each of the folds where that was computed."""
        self.rows.append(row)
        for fold, value in (without or {}).items():
            self.left_out.append(LeftOut(*row[:6], fold, float(value)))

    def add_table(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        """A piece of the run's table `name`."""
        self.tables.setdefault(name, []).append(pl.DataFrame(list(records), schema=TABLES[name]))

    def noted(self) -> dict[str, list[tuple[Any, ...]]]:
        return {name: [tuple(found) for found in getattr(self, name)] for name in ("rows", "left_out", "massive")}

    def recall(self, noted: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        self.rows = [Row(*found) for found in noted["rows"]]
        self.left_out = [LeftOut(*found) for found in noted["left_out"]]
        self.massive = [Massive(*found) for found in noted["massive"]]
