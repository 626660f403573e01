"""The same sums once for each fold of whole images: what cross-validation and jackknife intervals stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.flat import need, nested, parts


class Mergeable(Protocol):
    @property
    def n(self) -> int: ...
    def merge(self, other: Any) -> Self: ...
    def tensors(self) -> dict[str, Tensor]: ...


S = TypeVar("S", bound=Mergeable)
T = TypeVar("T", bound=Mergeable)


class Folds(Generic[S]):
    """Sums by fold: `folds[k].update(...)` with the rows of one image, always the same k for the same image.

    new: makes empty sums (`PairSums`, or `lambda: RowSample(cap)`). count: how many folds.
    """

    def __init__(self, new: Callable[[], S], count: int) -> None:
        if count < 1:
            raise BadInput(f"at least one fold; got {count}")
        self.new = new
        self.sums = [new() for _ in range(count)]

    def __getitem__(self, k: int) -> S:
        return self.sums[k]

    def __iter__(self) -> Iterator[S]:
        return iter(self.sums)

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def filled(self) -> list[int]:
        """The folds that have rows."""
        return [k for k, sums in enumerate(self.sums) if sums.n]

    def merge(self, other: Folds[S]) -> Folds[S]:
        """Fold by fold. Raises BadInput for another number of folds."""
        if len(self) != len(other):
            raise BadInput(f"sums in {len(self)} and in {len(other)} folds do not merge")
        for mine, theirs in zip(self, other, strict=True):
            mine.merge(theirs)
        return self

    def total(self) -> S:
        """All folds merged, as sums of their own: one more set of matrices."""
        return self.without(None)

    def without(self, k: int | None) -> S:
        """All folds but k merged, as sums of their own."""
        merged = self.new()
        for j, sums in enumerate(self.sums):
            if j != k:
                merged.merge(sums)
        return merged

    def map(self, change: Callable[[S], T], new: Callable[[], T]) -> Folds[T]:
        """Something else of every fold, such as `follow()`; new: makes an empty one."""
        folds = Folds(new, len(self))
        folds.sums = [change(sums) for sums in self.sums]
        return folds

    def tensors(self, **options: bool) -> dict[str, Tensor]:
        """Those of each fold, with its `options`, under its number: "0.x.zz"."""
        all_ = {"folds": torch.tensor(len(self))}
        for k, sums in enumerate(self.sums):
            all_.update(nested(k, sums.tensors(**options)))
        return all_

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], read: Callable[[int, dict[str, Tensor]], S], new: Callable[[], S]
    ) -> Folds[S]:
        """read: makes the sums of fold k from its tensors. Raises BadRun for missing or unknown names."""
        own, found = parts(tensors)
        need("folds", own, ["folds"])
        folds = cls(new, int(own["folds"]))
        need("folds", found, [str(k) for k in range(len(folds))])
        folds.sums = [read(k, found[str(k)]) for k in range(len(folds))]
        return folds
