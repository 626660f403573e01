"""What sums of rows have in common: named tensors that can be shared and saved."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from medlens.stats.flat import need


class Sums:
    """`n` and the tensors under `names`. `shared`: someone else reads the same tensors, so they are copied before they change."""

    names: ClassVar[tuple[str, ...]]
    n: int
    shared: bool

    def own(self) -> Self:
        """These sums, or a copy of them if they are shared: what may be written to."""
        if not self.shared:
            return self
        new = copy.copy(self)
        for name in self.names:
            setattr(new, name, getattr(self, name).clone())
        new.shared = False
        return new

    def copied(self) -> Self:
        """These sums again, to be written to."""
        new = copy.copy(self)
        new.shared = True
        return new.own()

    def tensors(self) -> dict[str, Tensor]:
        self.shared = True
        return {"n": torch.tensor(self.n), **{name: getattr(self, name) for name in self.names}}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        need(cls.__name__, tensors, ("n", *cls.names))
        new = cls.__new__(cls)
        for name in cls.names:
            setattr(new, name, tensors[name])
        new.n, new.shared = int(tensors["n"]), True
        return new


class KernelSums(NamedTuple):
    """Of two kernels K, L (n, n), diagonals set to 0: tr(KL), 1'K1, 1'L1 and 1'KL1, where 1 is a column of ones."""

    trace: Tensor
    ones_k: Tensor
    ones_l: Tensor
    ones_kl: Tensor


class Regression(NamedTuple):
    """The least squares fit of the centred update u = y - x on centred x. By column, (d,):

    explained: the fitted update squared; uu, yy: the centred update, and centred y, squared. rank: of x.
    """

    explained: Tensor
    rank: int
    uu: Tensor
    yy: Tensor


class Residuals(NamedTuple):
    """Of a `Fit` on rows: squared norms of what it leaves of the update, and of u, y and x less the means of the fit."""

    error: Tensor
    uu: Tensor
    yy: Tensor
    xx: Tensor
