"""How linear a block is: the share of its output that the best linear map of its input explains."""

from __future__ import annotations

from torch import Tensor

from medlens.stats.pairs import PairSums
from medlens.types import Value

FAINTEST = 1e-9  # of the variance of input and update together: what is fainter drowns in their rounding


def linearity(x: Tensor, y: Tensor) -> Value:
    """Linearity of the map from rows x to rows y: 1 - min_A |XA - Y|^2, X and Y centred and of Frobenius norm 1.

    x, y: (n, d), the same tokens before and after a block. Returns a `Value` in 0..1. Undefined (NaN, with the reason in `.note`)
    where distinct rows - 1 <= numerical rank of X (relative tolerance 1e-12 on the eigenvalues of the covariance of scaled
    columns): the exact value is then 1 for any data; below two rows; where Y (the update) does not vary; and where |Y|^2 is below
    1e-9 of |X|^2, so that float64 has no digits left for it. Raises NotFinite, and BadInput unless x and y have the same shape.

    Source: Razzhigaev et al. 2024, Your Transformer is Secretly Linear, section 3.1.
    """
    return linearity_from_sums(PairSums.of(x, y, moments_of_y=False))


def linearity_of_update(x: Tensor, y: Tensor) -> Value:
    """`linearity(x, y - x)`: of the block's own contribution, the residual stream taken out ("centred" in the study).

    Shapes, errors and source as for `linearity`.
    """
    return linearity_of_update_from_sums(PairSums.of(x, y, moments_of_y=False))


def linearity_from_sums(pairs: PairSums, standardised: bool = False) -> Value:
    """`linearity` of the rows summed in `pairs`. standardised: every column of y (and of x, which changes nothing) divided by its
    standard deviation first; columns of y that do not vary are left out."""
    return _score(pairs, lambda left, uu, yy: (left, yy), "the output does not vary", standardised)


def linearity_of_update_from_sums(pairs: PairSums, standardised: bool = False) -> Value:
    """`linearity_of_update` of the rows summed in `pairs`; standardised: the columns of the update, as there."""
    return _score(pairs, lambda left, uu, yy: (left, uu), "the update does not vary", standardised)


def _score(pairs: PairSums, parts, flat: str, standardised: bool) -> Value:
    n = pairs.n
    if n < 2:
        return Value.undefined(n, f"{n} rows")
    explained, rank, uu, yy = pairs.regression()
    distinct = len(pairs.x.distinct)
    if distinct - 1 <= rank:
        return Value.undefined(n, f"{distinct} distinct rows - 1 <= rank {rank}: any data would score 1")
    # y = x + u and x explains itself, so what is left of y is what is left of u: one factorisation for both scores.
    left, total = parts((uu - explained).clamp_min(0), uu, yy)
    faintest = FAINTEST * (pairs.x.products().trace() + uu.sum())
    if total.sum() <= faintest:
        return Value.undefined(n, flat if total.sum() <= 0 else f"{flat} measurably beside the input")
    if not standardised:
        return Value(1 - float(left.sum() / total.sum()), n)
    varying = total > faintest / len(total)
    return Value(1 - float((left[varying] / total[varying]).mean()), n)
