"""Few rows, kept as they came: what is asked of them is answered from their Gram matrix (n, n)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from medlens.stats.checked import BATCH
from medlens.stats.projection import Fit, explained_from_rows
from medlens.stats.scatter import CONSTANT, Scatter, add_gram
from medlens.stats.sums import KernelSums, Regression, Residuals


class Gram:
    """Rows, in the types in which they came. Never changed: with more rows it is another one, so tensors are shared freely."""

    def __init__(self, rows: tuple[Tensor, ...] = ()) -> None:
        self.rows = rows
        self.n = sum(map(len, rows))
        self.d = rows[0].shape[1] if rows else 0

    def __add__(self, other: Gram) -> Gram:
        """Both rows. Neighbours of like size are put together: many middling pieces would leave the heap in shreds."""
        rows = [*self.rows, *other.rows]
        while len(rows) > 1 and len(rows[-2]) <= len(rows[-1]):
            rows[-2:] = [torch.cat(rows[-2:])]
        return Gram(tuple(rows))

    def batches(self) -> Iterator[Tensor]:
        """The rows, not too many at a time."""
        return (batch for rows in self.rows for batch in rows.split(BATCH))

    def stacked(self) -> Tensor:
        """All rows, (n, d), float64."""
        return torch.cat([rows.double() for rows in self.rows])

    def add_to(self, sums: Scatter, sign: int = 1) -> None:
        for rows in self.batches():
            sums.add(rows, sign)

    def standardised(self) -> Gram:
        """These rows, centred, every column divided by its standard deviation; constant columns become 0."""
        z, constant = centred(self.stacked()), self.constant_columns
        scale = torch.where(constant, 0.0, z.square().mean(0).rsqrt())
        return Gram((z.mul_(scale),))

    def take(self, rows: Tensor) -> Gram:
        """Some of these rows, by number."""
        return Gram((torch.cat(self.rows)[rows],)) if len(rows) else Gram()

    @cached_property
    def reference(self) -> Tensor:
        """The mean row, (d,): what sums over these rows are kept about."""
        return torch.stack([rows.double().sum(0) for rows in self.batches()]).sum(0) / self.n

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

    def regression(self, y: Gram, distinct: int) -> Regression:
        """Of the update y - x on these rows x, of which so many are distinct."""
        x, after = self.stacked(), y.stacked()
        u = centred(after - x)
        varying = ~_constant(x)
        x = centred(x)[:, varying]
        explained, rank = explained_from_rows(x, u, distinct - 1) if varying.any() else (torch.zeros_like(u[0]), 0)
        return Regression(explained, rank, u.square().sum(0), centred(after).square().sum(0))

    def residuals(self, y: Gram, fit: Fit) -> Residuals:
        """Of the fit on the pairs of these rows and y."""
        x, after = self.stacked(), y.stacked()
        u = (after - x).sub_(fit.mean_u)
        x -= fit.mean_x
        after -= fit.mean_x + fit.mean_u
        error = (u - x @ fit.a).square().sum()
        return Residuals(error, u.square().sum(), after.square().sum(), x.square().sum())


def centred(x: Tensor) -> Tensor:
    """Rows minus their mean; twice, since the mean of a column around 3e5 is itself rounded."""
    x = x - x.mean(0)
    return x.sub_(x.mean(0))


def kept_rows(form: Gram, gone: Tensor) -> Tensor:
    """The numbers of the rows that stay when these are taken out, one for one."""
    counts = Counter(row.tobytes() for row in (gone.double() + 0.0).cpu().numpy())
    stay = []
    for k, row in enumerate((form.stacked() + 0.0).cpu().numpy()):
        if counts[row.tobytes()]:
            counts[row.tobytes()] -= 1
        else:
            stay.append(k)
    return torch.tensor(stay, dtype=torch.int64)


def _constant(x: Tensor) -> Tensor:
    return centred(x).square().sum(0) <= CONSTANT * x.square().sum(0)
