"""The figures of what makes a model smaller: blocks that go, image tokens and units that go."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from medlens import store
from medlens._figures.figure import Figure
from medlens.report import pruned, thin

OVER_IMAGES = "Bars and bands: 95 % intervals, leaving out whole images (patients, where the data name them)"


def of_pruned(run: store.Run) -> Iterator[Figure]:
    """What is kept against what is left, of answers and, where that was asked, of those that follow the image."""
    ruled = (
        pl.col("chosen") | pl.col("rule").is_in(["none", "random"]) | ((pl.col("rule") == "magnitude") & (pl.col("how") == "drop"))
    )
    for measure, title in pruned.TITLES.items():
        rows = run.pruned.filter(ruled, pl.col(measure).is_not_null())
        if rows.height > 1:
            yield Figure(
                f"pruned-{measure}", title.removesuffix(", %").capitalize(), {"": pruned.curve(run, measure)}, rows,
                "Blocks chosen by the rule that does best on other images, dropped (blue) or replaced by linear maps (orange); "
                "dashed: those with the smallest weights; grey: random choices of as many, from lowest to highest, and their mean.",
                "Gromov et al. 2024; Men et al. 2024", OVER_IMAGES,
            )  # fmt: skip


def of_thin(run: store.Run) -> Iterator[Figure]:
    """One panel for each thing that goes."""
    named = {thin.SAID[what][0]: what for what in run.thinned["what"].unique(maintain_order=True)}
    rows = run.thinned.with_columns(panel=pl.col("what").replace_strict({what: name for name, what in named.items()}))
    panels = dict(zip(named, thin.thin_chart(run.thinned)["hconcat"], strict=True))
    yield Figure(
        "thinned", "Answers kept when image tokens or units go", panels, rows,
        "Blue: tokens that get the least attention, and units that write least, go first; grey: as many at random.",
        "Chen et al. 2024; Bolya et al. 2023; Sun et al. 2024", OVER_IMAGES,
    )  # fmt: skip
