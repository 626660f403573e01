"""How alike two sets of representations are, whatever rotation and scale separates them."""

from __future__ import annotations

from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.pairs import PairSums
from medlens.stats.sums import KernelSums
from medlens.types import Value


def cka(x: Tensor, y: Tensor) -> Value:
    """Linear centred kernel alignment of rows x, y (n, d), debiased: HSIC_1(x, y) / sqrt(HSIC_1(x, x) HSIC_1(y, y)).

    HSIC_1 is the unbiased estimator; so unrelated data score about 0 (plain CKA: about d/(n + d)), and slightly below 0 can happen.
    Undefined below four rows, or where x or y does not vary. Raises NotFinite, and BadInput unless x and y have the same shape.

    Source: Kornblith et al. 2019; the estimator: Song et al. 2012, equation 5.
    """
    return cka_from_sums(PairSums.of(x, y))


def cka_from_sums(pairs: PairSums) -> Value:
    """`cka` of the rows summed in `pairs`."""
    n = pairs.n
    if n < 4:
        return Value.undefined(n, f"{n} rows; the unbiased estimator needs 4")
    if pairs.y.n != n:
        raise BadInput("these sums were made with moments_of_y=False, which alignment needs")
    if pairs.x.constant_columns().all() or pairs.y.constant_columns().all():
        return Value.undefined(n, "the rows do not vary")
    own = _hsic(n, pairs.x.kernel_sums()) * _hsic(n, pairs.y.kernel_sums())
    if own <= 0:
        return Value.undefined(n, "the unbiased variance is not positive")
    return Value(float(_hsic(n, pairs.kernel_sums()) / own.sqrt()), n)


def _hsic(n: int, sums: KernelSums) -> Tensor:
    """Song's equation 5 with K = XX', L = YY', diagonals set to 0."""
    total = sums.trace + sums.ones_k * sums.ones_l / ((n - 1) * (n - 2)) - 2 * sums.ones_kl / (n - 2)
    return total / (n * (n - 3))
