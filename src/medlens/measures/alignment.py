"""How alike two sets of representations are, whatever rotation and scale separates them."""

from __future__ import annotations

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.moments import Moments, PairSums
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
    own = _hsic_of_one(pairs.x) * _hsic_of_one(pairs.y)
    if own <= 0:
        return Value.undefined(n, "the unbiased variance is not positive")
    return Value(float(_hsic_of_two(pairs) / own.sqrt()), n)


def _hsic_of_one(m: Moments) -> Tensor:
    return _hsic(m.n, m.zz, m.s, m.s, m.k1, m.k1, m.k2, m.kz, m.kz)


def _hsic_of_two(p: PairSums) -> Tensor:
    x = p.x.about(p.reference_of_x)
    return _hsic(p.n, x.zz + p.zv, x.s, x.s + p.s, x.k1, p.l1, p.kl, p.lz, p.kw)


def _hsic(n: int, zw: Tensor, z: Tensor, w: Tensor, k1: Tensor, l1: Tensor, kl: Tensor, lz: Tensor, kw: Tensor) -> Tensor:
    """Song's equation 5 with K = ZZ', L = WW', diagonals set to 0, written in sums over rows.

    zw = sum z w'; z, w = sums of rows; k, l = squared norms; kl = sum k l; lz = sum l z; kw = sum k w.
    """
    trace = zw.square().sum() - kl
    ones_k, ones_l = z @ z - k1, w @ w - l1
    ones_kl = z @ zw @ w - z @ lz - w @ kw + kl
    total = trace + ones_k * ones_l / ((n - 1) * (n - 2)) - 2 * ones_kl / (n - 2)
    return torch.as_tensor(total / (n * (n - 3)))
