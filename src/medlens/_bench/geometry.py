"""Geometry of one layer pair: our sums and the study's own functions, on the same rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medlens._bench.peers import microscope
from medlens._bench.turns import Job, Table, Turns, faster
from medlens.measures import anisotropy_from_sums, intrinsic_dimension, linearity_from_sums, linearity_of_update_from_sums
from medlens.stats import PairSums

LINEAR, DIMENSION = "linearity, of the update, anisotropy", "intrinsic dimension (TwoNN)"
PAIRS = [  # what, our and their job, rows and columns, whether it takes them many minutes
    (LINEAR, "linear", 8192, 1024, False),
    (LINEAR, "linear", 4096, 2048, False),
    (DIMENSION, "dimension", 2048, 2048, False),
    (DIMENSION, "dimension", 4096, 2048, True),
]


def section(turns: Turns) -> str:
    table = Table(turns, "times faster", "measure", "rows", "ours", "llm-microscope")
    for what, job, n, d, slow in PAIRS:
        if not (slow and turns.quick):
            ours, theirs = turns(Job("geometry", f"{job}_ours", (n, d)), Job("geometry", f"{job}_theirs", (n, d)))
            table.add(faster(ours, theirs), what, f"{n} x {d}", ours, theirs)
    return f"## Geometry of one layer pair\n\n{ABOUT}\n\n{table}"


ABOUT = """The same three numbers, or the same one, of the same rows. Their intrinsic dimension is a loop over rows that takes and
gives back a copy of all rows at every step; much of its time is the system's, for that memory."""


def rows(n: int, d: int) -> tuple[Tensor, Tensor]:
    """A layer pair as hidden states are: float32, a falling spectrum, a residual stream with a smaller non-linear update."""
    torch.manual_seed(0)
    x = torch.randn(n, d) * torch.logspace(0, -1.5, d) + torch.randn(d)
    return x, x + 0.3 * torch.tanh(x @ torch.randn(d, d) / d**0.5)


def linear_ours(n: int, d: int) -> Callable[[], object]:
    x, y = rows(n, d)

    def run() -> object:
        pairs = PairSums.of(x, y, moments_of_y=False)
        return linearity_from_sums(pairs), linearity_of_update_from_sums(pairs), anisotropy_from_sums(pairs.x)

    return run


def linear_theirs(n: int, d: int) -> Callable[[], object]:
    f, (x, y) = microscope(), rows(n, d)
    return lambda: (f.procrustes_similarity(x, y), f.procrustes_similarity_centered(x, y), f.calculate_anisotropy_torch(x))


def dimension_ours(n: int, d: int) -> Callable[[], object]:
    x, _ = rows(n, d)
    return lambda: intrinsic_dimension(x, keep=0.2)


def dimension_theirs(n: int, d: int) -> Callable[[], object]:
    f, (x, _) = microscope(), rows(n, d)
    return lambda: f.intrinsic_dimension(x, "cpu")
