"""The columns of every table of a run, by contract: people's scripts call these names."""

from __future__ import annotations

from typing import Any

from medlens.tables import maps, neurons, pruned, reliance, study, thinned, viewing

TABLES: dict[str, dict[str, Any]] = {
    **study.COLUMNS, **neurons.COLUMNS, **maps.COLUMNS, **reliance.COLUMNS, **viewing.COLUMNS, **thinned.COLUMNS, **pruned.COLUMNS,
}  # fmt: skip
