"""The published study's own arithmetic, where it differs from ours: to compare with its figures, and for nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from medlens.measures.linear import FAINTEST
from medlens.measures.neighbours import two_nearest
from medlens.stats.checked import as_rows
from medlens.stats.pairs import PairSums
from medlens.types import Value

NEAREST = 1e-8  # of the mean row norm: a nearer neighbour counts as a duplicate
FIRST = 5  # the smallest fifth of the ratios is fitted
EXACTLY_ONE = "{} rows <= {} columns: exactly 1 for any data; the published 0.999x is float noise"


def published_linearity(x: Tensor, y: Tensor) -> Value:
    """Linearity in sample of the map from rows x to rows y, (n, d) both, whatever n is: 1 - min_A |XA - Y|^2, X and Y centred and
    of Frobenius norm 1.

    For n <= d it is exactly 1 for any data, and `.note` says so. Undefined below two rows and where y does not vary, measurably
    beside x. Raises NotFinite, and BadInput unless x and y have the same shape.

    Source: Razzhigaev et al. 2024, as llm-microscope 0.0.7 computes it (there in float32, without a cut of small singular values).
    """
    return published_linearity_from_sums(PairSums.of(x, y, moments_of_y=False))


def published_linearity_of_update(x: Tensor, y: Tensor) -> Value:
    """`published_linearity(x, y - x)`. Shapes, errors and source as there."""
    return published_linearity_of_update_from_sums(PairSums.of(x, y, moments_of_y=False))


def published_linearity_from_sums(pairs: PairSums) -> Value:
    """`published_linearity` of the rows summed in `pairs`."""
    return _score(pairs, of_update=False)


def published_linearity_of_update_from_sums(pairs: PairSums) -> Value:
    """`published_linearity_of_update` of the rows summed in `pairs`."""
    return _score(pairs, of_update=True)


def _score(pairs: PairSums, of_update: bool) -> Value:
    n, d = pairs.n, pairs.x.d
    if n < 2:
        return Value.undefined(n, f"{n} rows")
    found = pairs.regression()
    explained, uu, yy = found.explained.sum(), found.uu.sum(), found.yy.sum()
    total = uu if of_update else yy
    if total <= FAINTEST * (pairs.x.products().trace() + uu):
        return Value.undefined(n, f"the {'update' if of_update else 'output'} does not vary measurably")
    if n <= d:
        return Value(1.0, n, EXACTLY_ONE.format(n, d))
    return Value(1 - float((uu - explained).clamp_min(0) / total), n)


def published_dimension(x: Tensor) -> Value:
    """TwoNN of rows x (n, d) as the study has it: the slope, through the origin, of -log(1 - i/n) on log(mu), mu = r2/r1.

    Rows are centred and divided by their mean norm. A row nearer than 1e-8 to another has mu = -1. Rows with mu <= 1 + 1e-8 are
    dropped, but stay counted in i and n. Of the n_kept others the floor(n_kept / 5) with the smallest mu are fitted. Undefined
    where none is left. Raises NotFinite, and BadInput for another shape.

    Source: Facco et al. 2017, as llm-microscope 0.0.7 computes it.
    """
    x = as_rows(x)
    n = len(x)
    if n < 3:
        return Value.undefined(n, f"{n} rows; two neighbours need 3")
    x = x - x.mean(0)
    mean_norm = x.norm(dim=1).mean()
    if mean_norm == 0:
        return Value.undefined(n, "the rows do not vary")
    first, second = two_nearest(x / mean_norm).unbind(1)
    mu = torch.where(first < NEAREST, -1.0, second / first.clamp_min(NEAREST)).sort().values
    dropped = int((mu <= 1 + NEAREST).sum())
    kept = n - dropped
    fitted = min(kept // FIRST, kept - 1)
    if fitted < 1:
        return Value.undefined(n, f"{kept} ratios above 1, of which a fifth is fitted")
    log_mu = mu[dropped : dropped + fitted].log()
    i = torch.arange(dropped + 1, dropped + fitted + 1, dtype=torch.float64, device=x.device)
    note = f"{dropped} rows dropped (repeats, or next to a row and its repeat) and still counted" if dropped else ""
    return Value(float(-torch.log1p(-i / n) @ log_mu / (log_mu @ log_mu)), n, note)


def uncentred_mev(v: Tensor) -> Value:
    """Largest squared singular value of rows v (n, d), not centred, over the sum of all. Undefined below two rows, or for zeros.

    Raises NotFinite, and BadInput for another shape. Source: Ethayarajh 2019, maximum explainable variance, as its formula has it.
    """
    v = as_rows(v)
    if len(v) < 2:
        return Value.undefined(len(v), f"{len(v)} rows")
    squares = torch.linalg.svdvals(v).square()
    if squares[0] == 0:
        return Value.undefined(len(v), "all rows are 0")
    return Value(float(squares[0] / squares.sum()), len(v))


def cosine_to_mean(x: Tensor) -> Value:
    """Mean cosine of the rows x (n, d) of one sample to their mean. Rows of length zero are left out; undefined where none is left,
    or their mean is 0. Raises NotFinite, and BadInput for another shape. Source: Ethayarajh 2019, intra-sentence similarity.
    """
    x = as_rows(x)
    lengths, mean = x.norm(dim=1), x.mean(0) if len(x) else x.sum(0)
    alive = lengths > 0
    n = int(alive.sum())
    if n == 0 or mean.norm() == 0:
        return Value.undefined(n, "rows without a direction, or without a mean")
    return Value(float((x[alive] @ mean / (lengths[alive] * mean.norm())).mean()), n)


def adjusted(value: Value, baseline: Value) -> Value:
    """value - baseline; undefined where either is."""
    return Value(float(value) - float(baseline), value.n, value.note or baseline.note)
