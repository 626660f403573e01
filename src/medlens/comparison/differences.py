"""Differences of two runs, layer by layer, with intervals that hold at all layers of a curve together."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medlens.curves import Curve, Key, curves
from medlens.grammar import OF_PAIRS
from medlens.spread import jackknife_error, student, welch
from medlens.store import Run

LEVEL = 0.05
ROUNDING = 1e-6  # of the values: states are float32, and what differs by less than its rounding does not differ


class Matched(NamedTuple):
    """One curve of two runs, at layers that belong together. how: paired, unpaired, or empty where there are no intervals."""

    key: Key
    other_protocol: str
    first: Curve
    other: Curve
    low: NDArray[np.float64]  # of other - first, at each layer; NaN where there is none
    high: NDArray[np.float64]
    how: str
    note: str


def same_folds(first: Run, other: Run) -> bool:
    """Whether both runs saw the same data, cut into the same folds of whole images."""
    return all(
        first.manifest[part].get(what) == other.manifest[part].get(what)
        for part, what in (("data", "fingerprint"), ("plan", "folds"))
    )


def matched(first: Run, other: Run) -> list[Matched]:
    """Every curve that both runs have, nulls left aside. Where they share no protocol for it, two protocols are compared."""
    mine, theirs = (_by_protocol(curves(run)) for run in (first, other))
    depths, paired = (first.manifest["model"]["blocks"], other.manifest["model"]["blocks"]), same_folds(first, other)
    found = []
    for what, of_first in mine.items():
        of_other = theirs.get(what, {})
        shared = [(protocol, protocol) for protocol in of_first if protocol in of_other]
        for protocol, other_protocol in shared or [(p, q) for p in of_first for q in of_other]:
            pair = _at_same_depth(of_first[protocol], of_other[other_protocol], depths, what[0] in OF_PAIRS)
            if len(pair[0].layers):
                found.append(_differ(Key(protocol, *what), other_protocol, *pair, paired))
    return found


def _by_protocol(found: dict[Key, Curve]) -> dict[tuple[str, str, str, str], dict[str, Curve]]:
    known: dict[tuple[str, str, str, str], dict[str, Curve]] = {}
    for key, curve in found.items():
        if not key.protocol.startswith("null"):
            known.setdefault(key[1:], {})[key.protocol] = curve
    return known


def _at_same_depth(first: Curve, other: Curve, depths: tuple[int, int], of_pairs: bool) -> tuple[Curve, Curve]:
    """Both at the layers that belong together: equal numbers if the models are equally deep, else the nearest relative depth (of a
    block, that of its middle)."""
    middle = 0.5 if of_pairs else 0.0
    if depths[0] == depths[1]:
        wanted = first.layers
    else:
        relative = (first.layers + middle) / depths[0]
        wanted = np.rint(relative * depths[1] - middle).astype(np.int64)
    place = {layer: k for k, layer in enumerate(other.layers.tolist())}
    there = np.array([layer in place for layer in wanted.tolist()], dtype=bool)
    return first.at(there), other.at(np.array([place[layer] for layer in wanted[there].tolist()], dtype=np.int64))


def _differ(key: Key, other_protocol: str, first: Curve, other: Curve, paired: bool) -> Matched:
    low = np.full(len(first.layers), np.nan)
    high, sure = low.copy(), first.sure & other.sure
    without = [protocol for protocol, curve in ((key.protocol, first), (other_protocol, other)) if len(curve.folds) < 2]
    if without or not sure.any():
        note = f"no intervals under protocol {without[0]}" if without else "undefined in one of the runs"
        return Matched(key, other_protocol, first, other, low, high, "", note)
    level, difference = LEVEL / 2 / int(sure.sum()), (other.values - first.values)[sure]
    if paired and first.folds == other.folds:
        errors = jackknife_error((other.without - first.without)[:, sure])
        half, how = student(len(first.folds) - 1, level) * errors, "paired"
    else:
        folds = (len(first.folds), len(other.folds))
        each = zip(*(jackknife_error(curve.without[:, sure]).tolist() for curve in (first, other)), strict=True)
        half, how = np.array([error * float(student(df, level)) for error, df in (welch(two, folds) for two in each)]), "unpaired"
    scale = np.maximum(np.abs(first.values), np.abs(other.values))[sure]
    half = np.where(np.abs(difference) <= ROUNDING * scale, np.maximum(half, np.abs(difference)), half)
    low[sure], high[sure] = difference - half, difference + half
    return Matched(key, other_protocol, first, other, low, high, how, "")


def records(names: tuple[str, str], pair: Matched) -> list[dict[str, Any]]:
    """One line a layer: the columns of `Comparison.differences`."""
    looked_at = int(np.isfinite(pair.low).sum())
    found = []
    for k, layer in enumerate(pair.first.layers.tolist()):
        known = bool(np.isfinite(pair.low[k]))
        undefined = pair.first.notes[k] * (not np.isfinite(pair.first.values[k])) or pair.other.notes[k]
        found.append(
            dict(zip(("protocol", "measure", "tokens", "group", "variant"), pair.key, strict=True))
            | {"other_protocol": pair.other_protocol, "first": names[0], "other": names[1]}
            | {"layer": layer, "other_layer": int(pair.other.layers[k]), "value": float(pair.first.values[k])}
            | {"other_value": float(pair.other.values[k]), "difference": float(pair.other.values[k] - pair.first.values[k])}
            | {"low": float(pair.low[k]) if known else None, "high": float(pair.high[k]) if known else None}
            | {"significant": bool(pair.low[k] > 0 or pair.high[k] < 0) if known else None}
            | {"looked_at": looked_at, "how": pair.how, "n": int(pair.first.n[k]), "other_n": int(pair.other.n[k])}
            | {"note": pair.note or ("" if known else undefined)}
        )
    return found
