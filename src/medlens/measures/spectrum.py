"""How many directions the rows use: three numbers from the eigenvalues of their covariance.

All three depend on the number of rows: compare groups and layers only at equal n (isotropic rows, 2747 x 1024: participation ratio
746 where the truth is 1024).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import eigsh
from torch import Tensor

from medlens.stats.moments import Moments
from medlens.types import Value

SMALL = 512  # rows of the matrix up to which all eigenvalues cost no more than the largest


def anisotropy(x: Tensor) -> Value:
    """Largest eigenvalue of the centred covariance of rows x (n, d) over its trace: 1/d (a ball) to 1 (a line).

    Undefined where the rows do not vary. Raises NotFinite, and BadInput for another shape.
    Source: Razzhigaev et al. 2024, The Shape of Learning.
    """
    return anisotropy_from_sums(Moments.of(x))


def participation_ratio(x: Tensor) -> Value:
    """(Sum of eigenvalues)^2 / sum of squared eigenvalues of the centred covariance of rows x (n, d): 1 to d.

    Undefined where the rows do not vary. Raises NotFinite, and BadInput for another shape. Source: Gao et al. 2017.
    """
    return participation_ratio_from_sums(Moments.of(x))


def effective_rank(x: Tensor) -> Value:
    """exp of the entropy of the covariance's eigenvalues over their sum, rows x (n, d): 1 to d.

    Roy & Vetterli (2007) take singular values of x instead: another number. Undefined where the rows do not vary. Raises NotFinite.
    """
    return effective_rank_from_sums(Moments.of(x))


def anisotropy_from_sums(moments: Moments) -> Value:
    """`anisotropy` of the rows summed in `moments`."""
    if (why := _flat(moments)) is not None:
        return why
    products = moments.products()
    if len(products) <= SMALL:
        largest = float(moments.eigenvalues()[-1])
    else:
        # The iteration must not start from equal entries: they are a null vector of every centred Gram matrix.
        start = np.random.default_rng(0).standard_normal(len(products))
        largest = float(eigsh(products.cpu().numpy(), k=1, which="LA", v0=start, return_eigenvectors=False)[0])
    return Value(largest / float(products.trace()), moments.n)


def participation_ratio_from_sums(moments: Moments) -> Value:
    """`participation_ratio` of the rows summed in `moments`."""
    if (why := _flat(moments)) is not None:
        return why
    products = moments.products()
    return Value(float(products.trace().square() / (products.ravel() @ products.ravel())), moments.n)


def effective_rank_from_sums(moments: Moments) -> Value:
    """`effective_rank` of the rows summed in `moments`."""
    if (why := _flat(moments)) is not None:
        return why
    share = moments.eigenvalues() / moments.eigenvalues().sum()
    return Value(float((-share.xlogy(share).sum()).exp()), moments.n)


def _flat(moments: Moments) -> Value | None:
    if moments.n < 2:
        return Value.undefined(moments.n, f"{moments.n} rows")
    return Value.undefined(moments.n, "the rows do not vary") if moments.constant_columns().all() else None
