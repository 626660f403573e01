"""One layer of the published study at its full size: 65 samples x 576 image tokens, 4096 wide."""

from __future__ import annotations

from collections.abc import Callable

import torch

from medlens._bench.geometry import rows
from medlens._bench.peers import microscope
from medlens._bench.turns import Job, Table, Turns, faster
from medlens.measures import MEASURES
from medlens.stats import CosineSums, Folds, PairSums, RowSample
from medlens.types import Value

SAMPLES, CELLS, WIDTH, FOLDS = 65, 576, 4096, 5
DIMENSION_ROWS = 4096  # of which the study took the dimension


def section(turns: Turns) -> str:
    if turns.quick:
        return ""
    table = Table(turns, "times faster", "rows", "ours: all measures, sums in 5 folds", "llm-microscope: the study's four")
    ours, theirs = turns(*(Job("layer", who, (SAMPLES, WIDTH)) for who in ("layer_ours", "layer_theirs")))
    table.add(faster(ours, theirs), f"{SAMPLES * CELLS} x {WIDTH}", ours, theirs)
    return f"## One layer at the study's full size\n\n{ABOUT}\n\n{table}"


ABOUT = f"""Image rows of one layer pair, {SAMPLES} samples of {CELLS}. Ours: every measure of `medlens.MEASURES`, from float64 sums
kept apart in {FOLDS} folds (which is what intervals are made from). Theirs: linearity and linearity of the update of all rows,
anisotropy, and intrinsic dimension of the first {DIMENSION_ROWS} rows, as the study did it."""


def layer_ours(samples: int, d: int) -> Callable[[], object]:
    x, y = rows(samples * CELLS, d)
    order = torch.randperm(len(x))

    def run() -> dict[str, Value]:
        folds = Folds(PairSums, FOLDS)
        cosines, sample = CosineSums(), RowSample(DIMENSION_ROWS)
        for k, (before, after, priorities) in enumerate(zip(x.split(CELLS), y.split(CELLS), order.split(CELLS), strict=True)):
            folds[k % FOLDS].update(before, after)
            cosines.update(before, str(k))
            sample.update(before, priorities)
            cosines.close()
        pairs = folds.total()
        given = {"pairs": (pairs,), "moments": (pairs.x,), "cosines": (cosines,), "rows": (sample,)}
        return {name: measure.of_sums(*given[measure.needs]) for name, measure in MEASURES.items()}

    return run


def layer_theirs(samples: int, d: int) -> Callable[[], object]:
    f, (x, y) = microscope(), rows(samples * CELLS, d)
    return lambda: (
        f.procrustes_similarity(x, y), f.procrustes_similarity_centered(x, y), f.calculate_anisotropy_torch(x),
        f.intrinsic_dimension(x[:DIMENSION_ROWS], "cpu"),
    )  # fmt: skip
