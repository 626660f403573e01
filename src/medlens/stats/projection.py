"""Least squares without the rows or without the columns: how much of the update lies in the columns of x, and their rank."""

from __future__ import annotations

import torch
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


def explained_from_rows(x: Tensor, u: Tensor) -> tuple[Tensor, int]:
    """The same from the rows x, u (n, d), both centred, by the Gram matrix of x: for n <= d.

    Centred rows have rank n - 1 at most, the missing direction being that of equal entries. It is filled in before Cholesky: if
    that then finds full rank, the columns of x span all there is, and all of u is explained.
    """
    scaled = x / x.norm(dim=0)
    gram = scaled @ scaled.T
    largest = gram.diagonal().max()
    factor, failed = torch.linalg.cholesky_ex(gram + largest / len(gram))
    if not failed and factor.diagonal().min().square() > SAFE_PIVOT * largest:
        return u.square().sum(), len(gram) - 1
    values, vectors = torch.linalg.eigh(gram)
    kept = values > RANK_TOLERANCE * values[-1]
    return (vectors[:, kept].T @ u).square().sum(), int(kept.sum())
