"""Least squares from products of columns or from rows: how much of the update x explains, its rank, and the fit itself."""

from __future__ import annotations

from functools import cached_property

import torch
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from medlens.stats.scatter import add_gram

RANK_TOLERANCE = 1e-12  # of the largest eigenvalue of the scaled covariance: a singular value of 1e-6
SAFE_PIVOT = 1e-8  # no Cholesky pivot below this: full rank without an eigendecomposition


class Fit:
    """A map of x to the update u = y - x, to be tried on other rows: u = mean_u + (x - mean_x) a; means (d,), a (d, d)."""

    def __init__(self, mean_x: Tensor, mean_u: Tensor, a: Tensor) -> None:
        self.mean_x, self.mean_u, self.a = mean_x, mean_u, a

    @cached_property
    def aa(self) -> Tensor:
        """aa', (d, d): with it tr(a'Pa) is a sum over the entries of P, for as many P as there are."""
        return add_gram(torch.zeros_like(self.a), self.a.T)


def explained_from_products(xx: Tensor, xu: Tensor) -> tuple[Tensor, int]:
    """The projection of u on the columns of x, squared, by column (d,), and the rank of x; from x'x and x'u (d, d), both centred.

    Both are overwritten (d x d matrices are large); no column may be constant.
    """
    _scale(xx, xu)
    factor = _cholesky(xx)
    if factor is not None:
        _solve(factor, xu, transposed=False)
        return xu.square_().sum(0), len(xx)
    values, vectors = _spectrum(xx)
    return ((vectors.T @ xu).square() / values[:, None]).sum(0), len(values)


def coefficients_from_products(xx: Tensor, xu: Tensor) -> tuple[Tensor, Tensor | None]:
    """The A (d, d) that fits u by x A best, from x'x and x'u, both centred and both overwritten; no column may be constant.

    Where x'x has not full rank, A is the shortest one for scaled columns, and what maps x to the part of itself that it leaves
    unused comes with it (d, d).
    """
    scale = _scale(xx, xu)
    factor = _cholesky(xx)
    if factor is not None:
        _solve(factor, xu, transposed=False)
        _solve(factor, xu, transposed=True)
        return xu.mul_(scale[:, None]), None
    values, vectors = _spectrum(xx)
    fitted = (vectors / values) @ (vectors.T @ xu)
    unused = torch.eye(len(xx), dtype=xx.dtype, device=xx.device) - scale[:, None] * (vectors @ vectors.T) / scale
    return fitted.mul_(scale[:, None]), unused


def _scale(xx: Tensor, xu: Tensor) -> Tensor:
    scale = xx.diagonal().rsqrt()
    xx.mul_(scale[:, None]).mul_(scale)
    xu.mul_(scale[:, None])
    return scale


def _cholesky(xx: Tensor) -> Tensor | None:
    factor, failed = torch.linalg.cholesky_ex(xx)
    return factor if not failed and factor.diagonal().min().square() > SAFE_PIVOT else None


def _solve(factor: Tensor, b: Tensor, *, transposed: bool) -> None:
    """b becomes L^-1 b, or L'^-1 b. Written as a system in b', the only form that is solved in place for a b stored by rows."""
    triangle = factor if transposed else factor.mT
    torch.linalg.solve_triangular(triangle, b.mT, upper=not transposed, left=False, out=b.mT)


def _spectrum(xx: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues above the tolerance, and their vectors as columns."""
    values, vectors = torch.linalg.eigh(xx)
    kept = values > RANK_TOLERANCE * values[-1]
    return values[kept], vectors[:, kept]


def explained_from_rows(x: Tensor, u: Tensor, most: int) -> tuple[Tensor, int]:
    """The same from the rows x, u (n, d), both centred, by the Gram matrix of x: for n <= d.

    most: the highest rank x can have, distinct rows - 1. Where it is reached x explains all that any data hold; Cholesky with
    pivots sees that at a fiftieth of the price of the eigenvectors.
    """
    scaled = x / x.norm(dim=0)
    gram = scaled @ scaled.T
    *_, pivots, _ = dpstrf(gram.cpu().numpy(), tol=SAFE_PIVOT * float(gram.diagonal().max()), lower=1)
    if pivots >= most:
        return u.square().sum(0), pivots
    values, vectors = _spectrum(gram)
    return (vectors.T @ u).square().sum(0), len(values)
