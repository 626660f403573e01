"""Pairs of rows (x, y) of one token before and after a block, mergeable: kept while they are few, summed once they are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.checked import batches, checked, need_columns
from medlens.stats.flat import need, nested, parts
from medlens.stats.gram import kept_rows
from medlens.stats.joint import Joint
from medlens.stats.moments import Moments
from medlens.stats.projection import Fit
from medlens.stats.scatter import Scatter
from medlens.stats.sums import KernelSums, Regression, Residuals

FLAGS = ("n", "x_is_complete", "moments_of_y")


class PairSums:
    """The moments of x and of y, and what joins them (`joint`). While n <= d that is the rows of x and y, in the same order.

    moments_of_y: False saves a third of the work where no alignment is asked for.
    """

    def __init__(self, x: Moments | None = None, *, moments_of_y: bool = True) -> None:
        self.n = 0
        self.x = x or Moments()
        self.x_is_complete = x is not None  # the y of the block before: its rows are already in
        self.y = Moments()
        self.joint: Joint | None = None
        self.moments_of_y = moments_of_y
        self._regression: Regression | None = None

    @classmethod
    def empty(cls) -> PairSums:
        return cls()

    @classmethod
    def of(cls, x: Tensor, y: Tensor, *, moments_of_y: bool = True) -> PairSums:
        pairs = cls(moments_of_y=moments_of_y)
        pairs.update(x, y)
        return pairs

    def follow(self) -> PairSums:
        """Sums for the next block: its x are this one's y. Their sums are complete and not summed again.

        Rows that are only kept come again with their y: in which order they come is then free, and it costs nothing.
        """
        complete = isinstance(self.y.form, Scatter)
        return PairSums(self.y.shared() if complete else None, moments_of_y=self.moments_of_y)

    def update(self, x: Tensor, y: Tensor) -> None:
        """x, y (n, d), any float type. Raises NotFinite, and BadInput unless both have the same shape."""
        x, y = checked(x), checked(y)
        if x.shape != y.shape:
            raise BadInput(f"x {tuple(x.shape)} and y {tuple(y.shape)} must have the same shape: the rows of the same tokens")
        for before, after in zip(batches(x), batches(y), strict=True):
            self._add(before, after)

    def _add(self, x: Tensor, y: Tensor) -> None:
        need_columns(self.x.d or x.shape[1], x.shape[1])
        kept = self._stay_kept(len(x), x.shape[1])
        if not kept:
            self._joint(x.double().mean(0), y.double().mean(0)).add(x, y)
        if not self.x_is_complete:
            self.x.add(x)
        if kept or self.moments_of_y:
            self.y.add(y)
        self._changed(len(x))

    def merge(self, other: PairSums) -> PairSums:
        """Add the other's pairs to these. An empty one is neutral."""
        if other.n == 0:
            return self
        if self.n == 0:
            self.x, self.x_is_complete = Moments(), other.x_is_complete
        need_columns(self.x.d or other.x.d, other.x.d)
        self.moments_of_y &= other.moments_of_y
        kept = other.joint is None and self._stay_kept(other.n, other.x.d)
        if not kept:
            of_y = other.y.kept.reference if other.joint is None else other.joint.of_y
            other._add_to(self._joint(other.x.form.reference, of_y))
        self.x.merge(other.x)
        if kept or self.moments_of_y:
            self.y.merge(other.y)
        self._changed(other.n)
        return self

    def _changed(self, more: int) -> None:
        self.n += more
        self._regression = None

    def _stay_kept(self, more: int, d: int) -> bool:
        return self.joint is None and not self.x_is_complete and self.n + more <= d

    def _joint(self, of_x: Tensor, of_y: Tensor) -> Joint:
        """The joint sums, to be written to. Pairs that were kept are summed now; without any, the references are the given ones."""
        if self.joint is None:
            before = self._kept_pairs() if self.n else []
            of_y = self.y.kept.reference if self.n else of_y
            self.joint = Joint(self.x.as_sums(of_x).reference, of_y)
            for x, y in before:
                self.joint.add(x, y)
            self.y.as_sums(of_y)
        if not self.moments_of_y:
            self.y = Moments()
        self.joint = self.joint.own()
        return self.joint

    def _kept_pairs(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.x.kept.batches(), self.y.kept.batches(), strict=True))

    def _add_to(self, joint: Joint, sign: int = 1) -> None:
        if self.joint is not None:
            self.joint.add_to(joint, self.x.summed, sign)
        else:
            for x, y in self._kept_pairs():
                joint.add(x, y, sign)

    def less(self, parts: Sequence[PairSums], distinct: set[bytes]) -> PairSums:
        """These pairs without those of the parts, as `Moments.less`."""
        joint = self.summed.copied()
        for part in parts:
            part._add_to(joint, -1)
        new = PairSums(self.x.less([part.x for part in parts], distinct), moments_of_y=self.moments_of_y)
        new.n, new.joint = joint.n, joint
        if self.moments_of_y:
            new.y = self.y.less([part.y for part in parts], distinct)
        return new

    def without(self, x: Tensor, y: Tensor) -> PairSums:
        """These pairs without some of them, as they came: (m, d)."""
        if not len(x):
            return self
        new = PairSums(moments_of_y=self.moments_of_y)
        if self.joint is None:
            stay = kept_rows(self.x.kept, x)
            if len(stay):
                new.update(self.x.kept.take(stay).stacked(), self.y.kept.take(stay).stacked())
            return new
        new.x, new.joint = self.x.without(x), self.joint.copied()
        new.joint.add(x, y, -1)
        new.n = new.joint.n
        if self.moments_of_y:
            new.y = self.y.without(y)
        return new

    @property
    def summed(self) -> Joint:
        assert self.joint is not None
        return self.joint

    def regression(self) -> Regression:
        """The least squares fit of the update y - x on x; computed once."""
        found = self._regression
        if found is None:
            if self.joint is None:
                found = self.x.kept.regression(self.y.kept, len(self.x.distinct))
            else:
                found = self.joint.regression(self.x.summed)
            self._regression = found
        return found

    def fits(self) -> tuple[Fit, Fit]:
        """The linear maps of x that fit the update best, and y, both as maps to the update. Needs more rows than columns."""
        if self.joint is None:
            raise BadInput(f"a map of {self.x.d} columns is fitted to more than {self.n} rows")
        return self.joint.fits(self.x.summed)

    def residuals(self, fit: Fit) -> Residuals:
        """What a fit made on other pairs leaves of these."""
        return self.x.kept.residuals(self.y.kept, fit) if self.joint is None else self.joint.residuals(self.x.summed, fit)

    def kernel_sums(self) -> KernelSums:
        """What alignment of x with y needs."""
        return self.x.kept.kernel_sums(self.y.kept) if self.joint is None else self.joint.kernel_sums(self.x.summed)

    def tensors(self, *, leave_out_x: bool = False) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved; `from_tensors` is the exact inverse.

        leave_out_x: without the moments of x where they are those of the block before (`follow`), for a receiver that has them.
        """
        flags = {name: torch.tensor(int(getattr(self, name))) for name in FLAGS}
        x = {} if leave_out_x and self.x_is_complete else nested("x", self.x.tensors())
        joint = {} if self.joint is None else nested("joint", self.joint.tensors())
        return {**flags, **x, **nested("y", self.y.tensors()), **joint}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], x: Moments | None = None) -> PairSums:
        """x: the moments of the y of the block before, where they were left out. Raises BadRun for missing or unknown names."""
        own, found = parts(tensors)
        need("pairs", own, FLAGS)
        if x is None or "x" in found:
            need("pairs", found, ["x", "y"], ["joint"])
            x = Moments.from_tensors(found["x"])
        else:
            need("pairs", found, ["y"], ["joint"])
            x = x.shared()
        new = cls(x, moments_of_y=bool(own["moments_of_y"]))
        new.n, new.x_is_complete = int(own["n"]), bool(own["x_is_complete"])
        new.y = Moments.from_tensors(found["y"])
        new.joint = Joint.from_tensors(found["joint"]) if "joint" in found else None
        return new
