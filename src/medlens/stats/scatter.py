"""Many rows: their first and second moments, as sums that merge. One pass, memory constant in the number of rows.

Everything is float64, about a fixed reference row (the mean of the first rows): a column of mean 3e5 would otherwise lose the
digits that matter. Merging sums about another reference first carries them over to this one, exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medlens.stats.sums import KernelSums, Sums

COLUMNS = 512  # of a block of z'z
CONSTANT = 1e-12  # centred sum of squares over the raw one, below which a column is constant: rounding, as far as float32 can tell


class Scatter(Sums):
    """Sums over rows x about the reference r, with z = x - r and k = |z|^2.

    n; s = sum z (d,); zz = sum zz' (d, d); k1 = sum k; k2 = sum k^2; kz = sum k z (d,).
    """

    names = ("reference", "s", "zz", "k1", "k2", "kz")

    def __init__(self, reference: Tensor) -> None:
        d = len(reference)
        self.n, self.shared = 0, False
        self.reference = reference
        self.s, self.kz = reference.new_zeros(d), reference.new_zeros(d)
        self.zz = reference.new_zeros(d, d)
        self.k1, self.k2 = reference.new_zeros(()), reference.new_zeros(())

    @property
    def d(self) -> int:
        return len(self.reference)

    def add(self, x: Tensor, sign: int = 1) -> None:
        """x (m, d), any float type. sign: -1 takes rows out again that are among these."""
        z = x.double() - self.reference
        k = torch.linalg.vecdot(z, z)
        self.n += sign * len(x)
        self.s += sign * z.sum(0)
        add_gram(self.zz, z, sign)
        self.k1 += sign * k.sum()
        self.k2 += sign * (k @ k)
        self.kz += sign * (k @ z)

    def add_to(self, sums: Scatter, sign: int = 1) -> None:
        """These rows too, into the others (or out of them): z of theirs is z of these plus a."""
        a, n, s = self.reference - sums.reference, self.n, self.s
        aa, a_s, zz_a = a @ a, a @ s, self.zz @ a
        sums.n += sign * n
        sums.s += sign * (s + n * a)
        sums.zz.add_(self.zz, alpha=sign).addr_(s, a, alpha=sign).addr_(a, s, alpha=sign).addr_(a, a, alpha=sign * n)
        sums.k1 += sign * (self.k1 + 2 * a_s + n * aa)
        sums.k2 += sign * (self.k2 + 4 * a @ zz_a + n * aa**2 + 4 * a @ self.kz + 2 * aa * self.k1 + 4 * aa * a_s)
        sums.kz += sign * (self.kz + a * self.k1 + 2 * zz_a + 2 * a * a_s + aa * s + n * aa * a)

    def standardised(self) -> Scatter:
        """The centred scatter of these rows with every column divided by its standard deviation; constant columns become 0."""
        squares = self.products.diagonal()
        scale = torch.where(self.constant_columns, 0.0, (squares / self.n).clamp_min(0).rsqrt())
        new = Scatter(torch.zeros_like(self.s))
        new.n, new.zz = self.n, self.products.mul_(scale[:, None]).mul_(scale)
        new.k1 = new.zz.diagonal().sum()
        return new

    @property
    def products(self) -> Tensor:
        """The scatter matrix, (d, d): centred sums of squares and products, n times the covariance."""
        return torch.addr(self.zz, self.s, self.s, alpha=-1 / self.n)

    @property
    def constant_columns(self) -> Tensor:
        centred = self.zz.diagonal() - self.s.square() / self.n
        raw = self.zz.diagonal() + 2 * self.reference * self.s + self.n * self.reference.square()
        return centred <= CONSTANT * raw

    def kernel_sums(self) -> KernelSums:
        """Of the Gram matrix of z, twice."""
        s, zz = self.s, self.zz
        ones = s @ s - self.k1
        return KernelSums(zz.ravel() @ zz.ravel() - self.k2, ones, ones, s @ zz @ s - 2 * s @ self.kz + self.k2)


def add_gram(total: Tensor, z: Tensor, sign: int = 1) -> Tensor:
    """total += sign z'z, by blocks of columns: what lies below the diagonal is copied, not computed."""
    for start in range(0, total.shape[0], COLUMNS):
        rows, rest = slice(start, start + COLUMNS), slice(start, None)
        total[rows, rest].addmm_(z[:, rows].T, z[:, rest], alpha=sign)
        total[start + COLUMNS :, rows] = total[rows, start + COLUMNS :].T
    return total
