"""Is the intrinsic dimension a dimension? Only if the number stays when half, a quarter, an eighth of the rows are looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from medlens.curves import spans
from medlens.report.lines import main_protocol
from medlens.report.readings import SCALES

WITHIN = 0.1  # of their mean
PLATEAU, NONE, OPEN = "a plateau", "no plateau: the number depends on the scale, so it is not a dimension", "cannot be said"


class Scale(NamedTuple):
    """A value, with its interval where it has one."""

    value: float
    low: float | None
    high: float | None


def plateau(scales: Sequence[Scale | None]) -> str:
    """The verdict at one layer, from the values at all rows, a half, a quarter, an eighth of them (None: undefined).

    A plateau: they differ by less than 10 % of their mean, or one number lies in all of their intervals. Neighbours of fewer rows
    are farther apart, so this is the same cloud seen at coarser scales. Source: Facco et al. 2017, figure 3; Denti et al. 2022.
    """
    known = [scale for scale in scales if scale is not None]
    if len(known) < len(SCALES):
        return OPEN
    values = [scale.value for scale in known]
    if max(values) - min(values) < WITHIN * sum(values) / len(values):
        return PLATEAU
    ends = [(scale.low, scale.high) for scale in known if scale.low is not None and scale.high is not None]
    if len(ends) == len(known) and max(low for low, _ in ends) <= min(high for _, high in ends):
        return PLATEAU
    return NONE


def plateaus(rows: pl.DataFrame, tokens: str) -> list[tuple[str, str]]:
    """Each verdict that occurs, with the layers it holds at: ("a plateau", "0 to 3, 7"). rows: of all samples."""
    mine = rows.filter(pl.col("tokens") == tokens, pl.col("variant") == "raw", pl.col("measure").is_in(list(SCALES)))
    mine = mine.filter(pl.col("protocol") == main_protocol(mine))
    found: dict[int, dict[str, Scale]] = defaultdict(dict)
    for row in mine.iter_rows(named=True):
        known = found[row["layer"]]
        if row["value"] == row["value"]:
            known[row["measure"]] = Scale(row["value"], row["low"], row["high"])
    said: dict[str, list[int]] = defaultdict(list)
    for layer in sorted(found):
        said[plateau([found[layer].get(name) for name in SCALES])].append(layer)
    return [(verdict, spans(said[verdict])) for verdict in (PLATEAU, NONE, OPEN) if verdict in said]
