"""First and second moments of rows, and of pairs of rows, as sums that merge: one pass, memory constant in the number of rows.

Everything is float64, about a fixed reference row (the mean of the first batch): a column of mean 3e5 would otherwise lose the
digits that matter. Pairs are kept as x and the update u = y - x, because x'y loses 2e-5 of the update's score on such a column
where x'u loses nothing. Merging sums about different references first carries one over to the other's (`about`), exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from medlens.errors import BadInput, NotFinite
from medlens.stats.rows import distinct_rows

BATCH = 2048  # rows taken at a time, so that float64 copies stay small
COLUMNS = 512  # of a block of z'z


class Moments:
    """Sums over rows x about the reference r, with z = x - r and k = |z|^2.

    n; s = sum z (d,); zz = sum zz' (d, d); k1 = sum k; k2 = sum k^2; kz = sum k z (d,); distinct: hashes of distinct rows, at most
    d + 2 of them (more are never needed to know whether there are more than the rank).
    """

    def __init__(self) -> None:
        self.n = 0
        self.reference: Tensor | None = None
        self.distinct: set[bytes] = set()
        self.cache: dict[str, Any] = {}  # what was computed from these sums; emptied whenever they change

    @classmethod
    def empty(cls) -> Moments:
        return cls()

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        moments = cls()
        moments.update(x)
        return moments

    def update(self, x: Tensor) -> None:
        """x (n, d), any float type."""
        for batch in batches(checked(x)):
            self._add(batch)

    def _add(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One batch; returns its z and k, which pairs need too."""
        if self.reference is None:
            self._start(x.mean(0))
        assert self.reference is not None
        _need_columns(self.d, x.shape[1])
        z = x - self.reference
        k = torch.linalg.vecdot(z, z)
        if not torch.isfinite(k @ k):
            raise NotFinite("rows so large that their squares overflow float64; rescale them")
        self.n += len(x)
        self.s += z.sum(0)
        add_gram(self.zz, z)
        self.k1 += k.sum()
        self.k2 += k @ k
        self.kz += k @ z
        distinct_rows(x, self.distinct, x.shape[1] + 2)
        self.cache.clear()
        return z, k

    def _start(self, reference: Tensor) -> None:
        d = len(reference)
        self.reference = reference
        self.s, self.kz = reference.new_zeros(d), reference.new_zeros(d)
        self.zz = reference.new_zeros(d, d)
        self.k1, self.k2 = reference.new_zeros(()), reference.new_zeros(())

    def about(self, reference: Tensor) -> Moments:
        """The same sums about another reference."""
        assert self.reference is not None
        a = self.reference - reference
        aa = a @ a
        new = copy.copy(self)
        new.reference = reference
        new.distinct = set(self.distinct)
        new.s = self.s + self.n * a
        new.zz = self.zz + torch.outer(self.s, a) + torch.outer(a, self.s) + self.n * torch.outer(a, a)
        new.k1 = self.k1 + 2 * a @ self.s + self.n * aa
        new.k2 = (
            self.k2 + 4 * a @ self.zz @ a + self.n * aa**2
            + 4 * a @ self.kz + 2 * aa * self.k1 + 4 * aa * (a @ self.s)
        )  # fmt: skip
        new.kz = (
            self.kz + a * self.k1 + 2 * self.zz @ a + 2 * a * (a @ self.s) + aa * self.s + self.n * aa * a
        )  # fmt: skip
        new.cache = {}
        return new

    def merge(self, other: Moments) -> Moments:
        """Add the other's rows to these. An empty one is neutral."""
        if other.reference is None:
            return self
        if self.reference is None:
            self.__dict__.update(copy.deepcopy(other).__dict__)
            return self
        _need_columns(self.d, other.d)
        moved = other.about(self.reference)
        for name in ("n", "s", "zz", "k1", "k2", "kz"):
            setattr(self, name, getattr(self, name) + getattr(moved, name))
        self.distinct = set(sorted(self.distinct | other.distinct)[: self.d + 2])
        self.cache.clear()
        return self

    @property
    def d(self) -> int:
        return 0 if self.reference is None else len(self.reference)

    def scatter(self) -> Tensor:
        """Centred sum of squares and products, (d, d): n times the covariance."""
        return self.zz - torch.outer(self.s, self.s) / self.n

    def constant_columns(self) -> Tensor:
        """(d,) bool: centred sum of squares below 1e-12 of the raw one, all that float32 inputs could tell from rounding."""
        assert self.reference is not None
        centred = self.zz.diagonal() - self.s.square() / self.n
        raw = self.zz.diagonal() + 2 * self.reference * self.s + self.n * self.reference.square()
        return centred <= 1e-12 * raw

    def eigenvalues(self) -> Tensor:
        """Eigenvalues of `scatter()`, ascending, clipped at 0; computed once."""
        if "eigenvalues" not in self.cache:
            self.cache["eigenvalues"] = torch.linalg.eigvalsh(self.scatter()).clamp_min(0)
        return self.cache["eigenvalues"]


class PairSums:
    """Sums over pairs of rows (x, y) of one token before and after a block: the moments of x and y, and what joins them.

    With z, w = x, y minus their references and v = w - z the update about its own: s = sum v; zv = sum zv'; vv = sum |v|^2; and,
    with k = |z|^2 and l = |w|^2: l1 = sum l; and for kernel alignment kl = sum k l; lz = sum l z; kw = sum k w.
    """

    def __init__(self, x: Moments | None = None) -> None:
        self.x = x or Moments()
        self._x_is_complete = x is not None  # the y of the block before: its rows are already in
        self.y = Moments()
        self.n = 0
        self.cache: dict[str, Any] = {}

    @classmethod
    def empty(cls) -> PairSums:
        return cls()

    @classmethod
    def of(cls, x: Tensor, y: Tensor, *, moments_of_y: bool = True) -> PairSums:
        pairs = cls()
        pairs.update(x, y, moments_of_y=moments_of_y)
        return pairs

    def follow(self) -> PairSums:
        """Sums for the next block: its x are this one's y, whose moments are complete and not summed again."""
        return PairSums(copy.deepcopy(self.y))

    def update(self, x: Tensor, y: Tensor, *, moments_of_y: bool = True) -> None:
        """x, y (n, d). `moments_of_y=False` saves a third of the work where no alignment is asked for."""
        x, y = checked(x), checked(y)
        if x.shape != y.shape:
            raise BadInput(f"x {tuple(x.shape)} and y {tuple(y.shape)} must have the same shape: the rows of the same tokens")
        for before, after in zip(batches(x), batches(y), strict=True):
            self._add(before, after, moments_of_y)

    def _add(self, x: Tensor, y: Tensor, moments_of_y: bool) -> None:
        k = None
        if self._x_is_complete:
            assert self.x.reference is not None
            z = x - self.x.reference
        else:
            z, k = self.x._add(x)
        if self.n == 0:
            assert self.x.reference is not None
            self._start(self.x.reference, y.mean(0))
        w = y - self.reference_of_y
        v = w - z
        l_ = torch.linalg.vecdot(w, w)
        self.n += len(x)
        self.s += v.sum(0)
        self.zv.addmm_(z.T, v)
        self.vv += v.square().sum()
        self.l1 += l_.sum()
        if moments_of_y:
            if self.y.reference is None:
                self.y._start(self.reference_of_y)
            self.y._add(y)
            k = torch.linalg.vecdot(z, z) if k is None else k
            self.kl += k @ l_
            self.lz += l_ @ z
            self.kw += k @ w
        self.cache.clear()

    def _start(self, of_x: Tensor, of_y: Tensor) -> None:
        d = len(of_x)
        self.reference_of_x, self.reference_of_y = of_x, of_y
        self.s, self.lz, self.kw = of_x.new_zeros(d), of_x.new_zeros(d), of_x.new_zeros(d)
        self.zv = of_x.new_zeros(d, d)
        self.vv, self.l1, self.kl = of_x.new_zeros(()), of_x.new_zeros(()), of_x.new_zeros(())

    def merge(self, other: PairSums) -> PairSums:
        """Add the other's pairs to these. An empty one is neutral."""
        if other.n == 0:
            return self
        if self.n == 0:
            self.__dict__.update(copy.deepcopy(other).__dict__)
            return self
        moved = other._about(self.reference_of_x, self.reference_of_y)
        self.x.merge(other.x)
        self.y.merge(other.y)
        for name in ("n", "s", "zv", "vv", "l1", "kl", "lz", "kw"):
            setattr(self, name, getattr(self, name) + getattr(moved, name))
        self.cache.clear()
        return self

    def _about(self, of_x: Tensor, of_y: Tensor) -> PairSums:
        a, b = self.reference_of_x - of_x, self.reference_of_y - of_y
        c, aa, bb = b - a, a @ a, b @ b
        x, n = self.x.about(self.reference_of_x), self.n
        z1, zz, k1 = x.s, x.zz, x.k1
        w1 = z1 + self.s
        zw = zz + self.zv
        l1 = self.l1
        new = PairSums()
        new.n, new.reference_of_x, new.reference_of_y = n, of_x, of_y
        new.s = self.s + n * c
        new.zv = self.zv + torch.outer(z1, c) + torch.outer(a, self.s) + n * torch.outer(a, c)
        new.vv = self.vv + 2 * c @ self.s + n * c @ c
        new.l1 = l1 + 2 * b @ w1 + n * bb
        new.kl = (
            self.kl + 2 * b @ self.kw + bb * k1 + 2 * a @ self.lz + 4 * a @ zw @ b + 2 * bb * (a @ z1)
            + aa * l1 + 2 * aa * (b @ w1) + n * aa * bb
        )  # fmt: skip
        new.lz = self.lz + a * l1 + 2 * zw @ b + 2 * a * (b @ w1) + bb * z1 + n * bb * a
        new.kw = self.kw + b * k1 + 2 * zw.T @ a + 2 * b * (a @ z1) + aa * w1 + n * aa * b
        return new

    def update_scatter(self) -> tuple[Tensor, Tensor, Tensor]:
        """Centred sums of the update u = y - x: x'u (d, d), |u|^2 and |y|^2."""
        s_x = self.x.about(self.reference_of_x).s
        xu = self.zv - torch.outer(s_x, self.s) / self.n
        uu = self.vv - self.s @ self.s / self.n
        w1 = s_x + self.s
        yy = self.l1 - w1 @ w1 / self.n
        return xu, uu, yy


def _need_columns(expected: int, got: int) -> None:
    if got != expected:
        raise BadInput(f"rows of {got} columns cannot be added to sums over rows of {expected}")


def add_gram(total: Tensor, z: Tensor) -> None:
    """total += z'z, by blocks of columns: what lies below the diagonal is copied, not computed."""
    for start in range(0, total.shape[0], COLUMNS):
        rows, rest = slice(start, start + COLUMNS), slice(start, None)
        total[rows, rest].addmm_(z[:, rows].T, z[:, rest])
        total[start + COLUMNS :, rows] = total[rows, start + COLUMNS :].T


def batches(x: Tensor) -> Iterator[Tensor]:
    """Rows x as float64, some at a time; none where there are none."""
    return (batch.double() for batch in x.split(BATCH) if len(batch))


def checked(x: Tensor) -> Tensor:
    """Rows (n, d). Raises BadInput for another shape, and NotFinite for a NaN or infinity, named by row and column."""
    x = torch.as_tensor(x).detach()
    if x.is_complex():
        raise BadInput("rows are real numbers; got complex ones")
    if x.ndim != 2 or x.shape[1] == 0:
        raise BadInput(f"rows are (n, d) with d > 0; got shape {tuple(x.shape)}")
    if not torch.isfinite(x.sum(dtype=torch.float64)) and not torch.isfinite(x).all():  # the sum is the faster look
        row, column = torch.nonzero(~torch.isfinite(x))[0].tolist()
        raise NotFinite(f"{x[row, column].item()} in row {row}, column {column}: nothing is averaged over it")
    return x


def as_rows(x: Tensor) -> Tensor:
    """The same as float64."""
    return checked(x).double()
