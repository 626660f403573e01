"""Least squares without the rows or without the columns: how much of the update lies in the columns of x, and their rank."""

from __future__ import annotations

import torch
from scipy.linalg.lapack import dpstrf  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

RANK_TOLERANCE = 1e-12  # of the largest eigenvalue of the scaled covariance: a singular value of 1e-6
SAFE_PIVOT = 1e-8  # no Cholesky pivot below this: full rank without an eigendecomposition


def explained_from_products(xx: Tensor, xu: Tensor) -> tuple[Tensor, int]:
    """Squared norm of the projection of u on the columns of x, and the rank of x, from x'x and x'u (d, d), both centred.

    Columns are scaled here; none may be constant.
    """
    scale = xx.diagonal().rsqrt()
    scaled, target = (xx * scale[:, None]).mul_(scale), xu * scale[:, None]
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if not failed and factor.diagonal().min().square() > SAFE_PIVOT:
        half = torch.linalg.solve_triangular(factor, target, upper=False)
        return half.ravel() @ half.ravel(), len(scaled)
    values, vectors = torch.linalg.eigh(scaled)
    kept = values > RANK_TOLERANCE * values[-1]
    return ((vectors[:, kept].T @ target).square().sum(1) / values[kept]).sum(), int(kept.sum())


def explained_from_rows(x: Tensor, u: Tensor, most: int) -> tuple[Tensor, int]:
    """The same from the rows x, u (n, d), both centred, by the Gram matrix of x: for n <= d.

    most: the highest rank x can have, distinct rows - 1. Where it is reached x explains all that any data hold; Cholesky with
    pivots sees that at a fiftieth of the price of the eigenvectors.
    """
    scaled = x / x.norm(dim=0)
    gram = scaled @ scaled.T
    *_, pivots, _ = dpstrf(gram.cpu().numpy(), tol=SAFE_PIVOT * float(gram.diagonal().max()), lower=1)
    if pivots >= most:
        return u.square().sum(), pivots
    values, vectors = torch.linalg.eigh(gram)
    kept = values > RANK_TOLERANCE * values[-1]
    return (vectors[:, kept].T @ u).square().sum(), int(kept.sum())
