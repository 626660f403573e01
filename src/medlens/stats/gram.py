"""Few rows, kept as they came: what is asked of them is answered from their Gram matrix (n, n)."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from medlens.stats.projection import explained_from_rows
from medlens.stats.scatter import CONSTANT, Scatter, add_gram
from medlens.stats.sums import KernelSums, Regression


class Gram:
    """Rows, in the types in which they came. Never changed: with more rows it is another one, so tensors are shared freely."""

    def __init__(self, rows: tuple[Tensor, ...] = ()) -> None:
        self.rows = rows
        self.n = sum(map(len, rows))
        self.d = rows[0].shape[1] if rows else 0

    def __add__(self, other: Gram) -> Gram:
        return Gram(self.rows + other.rows)

    def stacked(self) -> Tensor:
        """All rows, (n, d), float64."""
        return torch.cat([rows.double() for rows in self.rows])

    def add_to(self, sums: Scatter) -> None:
        for rows in self.rows:
            sums.add(rows)

    @cached_property
    def reference(self) -> Tensor:
        """The mean row, (d,): what sums over these rows are kept about."""
        return torch.stack([rows.double().sum(0) for rows in self.rows]).sum(0) / self.n

    @cached_property
    def products(self) -> Tensor:
        """The Gram matrix of the centred rows, (n, n)."""
        z = centred(self.stacked())
        return add_gram(z.new_zeros(self.n, self.n), z.T)

    @cached_property
    def constant_columns(self) -> Tensor:
        return _constant(self.stacked())

    def kernel_sums(self, other: Gram | None = None) -> KernelSums:
        """Of the Gram matrices of these rows and of the other's (or twice of these)."""
        k, l_ = self.products, (other or self).products
        diagonal_k, diagonal_l = k.diagonal(), l_.diagonal()
        k1, l1 = k.sum(0) - diagonal_k, l_.sum(0) - diagonal_l
        return KernelSums(k.ravel() @ l_.ravel() - diagonal_k @ diagonal_l, k1.sum(), l1.sum(), k1 @ l1)

    def regression(self, y: Gram) -> Regression:
        """Of the update y - x on these rows x."""
        x, after = self.stacked(), y.stacked()
        u = centred(after - x)
        varying = ~_constant(x)
        x = centred(x)[:, varying]
        explained, rank = explained_from_rows(x, u) if varying.any() else (x.new_zeros(()), 0)
        return Regression(explained, rank, u.square().sum(), centred(after).square().sum())


def centred(x: Tensor) -> Tensor:
    """Rows minus their mean; twice, since the mean of a column around 3e5 is itself rounded."""
    x = x - x.mean(0)
    return x.sub_(x.mean(0))


def _constant(x: Tensor) -> Tensor:
    return centred(x).square().sum(0) <= CONSTANT * x.square().sum(0)
