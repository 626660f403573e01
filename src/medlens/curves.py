"""The tables of a run, read as curves over the layers: what claims are judged by, and runs are compared by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medlens.store import Run


class Key(NamedTuple):
    """Which curve."""

    protocol: str
    measure: str
    tokens: str
    group: str
    variant: str


@dataclass(frozen=True)
class Curve:
    """A measure over L layers. layers (L,); values (L,), NaN where undefined; n (L,): rows it stands on; low, high (L,): interval
    of each layer for itself; notes: why undefined, of each layer; folds (K,) and without (K, L): the values without each fold, NaN
    where there is none. K is 0 where nothing was left out.
    """

    layers: NDArray[np.int64]
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: NDArray[np.int64]
    notes: tuple[str, ...]
    folds: tuple[int, ...]
    without: NDArray[np.float64]

    @property
    def sure(self) -> NDArray[np.bool_]:
        """(L,): where the value is defined, and so it is without each of the folds."""
        return np.isfinite(self.values) & np.isfinite(self.without).all(axis=0)

    def within(self, span: tuple[int, int] | None) -> Curve:
        """Only the layers from the first to the last of `span`."""
        return self if span is None else self.at((self.layers >= span[0]) & (self.layers <= span[1]))

    def at(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Curve:
        """Only these places of it."""
        places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        values, low, high = (part[places] for part in (self.values, self.low, self.high))
        notes = tuple(self.notes[place] for place in places)
        return Curve(self.layers[places], values, low, high, self.n[places], notes, self.folds, self.without[:, places])


def curves(run: Run) -> dict[Key, Curve]:
    """Every curve of a run. Nulls too."""
    columns = list(Key._fields)
    without = run.left_out.partition_by(columns, as_dict=True)
    return {
        Key(*key): _curve(rows.sort("layer"), without.get(key))
        for key, rows in run.rows.partition_by(columns, as_dict=True).items()
    }


def _curve(rows: pl.DataFrame, left_out: pl.DataFrame | None) -> Curve:
    layers = rows["layer"].cast(pl.Int64).to_numpy()
    folds = () if left_out is None else tuple(left_out["fold"].unique().sort().to_list())
    without = np.full((len(folds), len(layers)), np.nan)
    if left_out is not None:
        place, row = {layer: k for k, layer in enumerate(layers.tolist())}, {fold: k for k, fold in enumerate(folds)}
        for layer, fold, value in left_out.select("layer", "fold", "value").iter_rows():
            if layer in place and value is not None:
                without[row[fold], place[layer]] = value
    values, low, high = (rows[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in ("value", "low", "high"))
    return Curve(layers, values, low, high, rows["n"].to_numpy(), tuple(rows["note"].fill_null("")), folds, without)


def spans(layers: Collection[int]) -> str:
    """Layers as a person writes them: 0 to 3, 7."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs)
