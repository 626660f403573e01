"""Sums of unit rows, of all and by image: all that mean cosines need."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from hashlib import blake2b

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.checked import as_rows
from medlens.stats.flat import DIGEST, digests_from_tensor, digests_to_tensor, need

COUNTS = ("n", "zeros", "pairs_within")


class CosineSums:
    """How many rows, the sum of their unit rows, and for each image the squared norm of its own sum.

    An image is open, its sum in memory, until `close()`: then only numbers are left of it, and eight bytes to know it by. Feed
    the images one after the other with `close()` between them, and memory does not grow with them. Sums whose images are still
    open merge also where both have rows of one image; where either has closed it, update and merge raise BadInput: the cosines
    between its rows could not be taken out any more. Rows of length zero have no direction: left out and counted.
    """

    def __init__(self) -> None:
        self.n = 0
        self.zeros = 0
        self.total = torch.zeros((), dtype=torch.float64)  # (d,) with the first row
        self.open: dict[bytes, tuple[int, Tensor]] = {}  # of each image: rows, and their sum
        self.closed: set[bytes] = set()
        self.pairs_within = 0  # ordered pairs, i = j too, within the closed images; and the sum of their cosines
        self.cosines_within = torch.zeros((), dtype=torch.float64)

    @classmethod
    def empty(cls) -> CosineSums:
        return cls()

    def update(self, x: Tensor, image: Hashable = None) -> None:
        """x (n, d): rows of one image, named by anything that has the same `repr` wherever its rows are summed."""
        x, key = as_rows(x), blake2b(repr(image).encode(), digest_size=DIGEST).digest()
        if key in self.closed:
            raise BadInput(f"rows of image {image!r} come after it was closed")
        # Scaled by its largest entry first: the squares of float64 overflow from 1e154 on.
        scale = x.abs().amax(1, keepdim=True)
        alive = scale[:, 0] > 0
        unit = x[alive] / scale[alive]
        unit = unit / unit.norm(dim=1, keepdim=True)
        self.zeros += int((~alive).sum())
        if len(unit):
            self.n += len(unit)
            self.total = self.total + unit.sum(0)
            self._add(key, len(unit), unit.sum(0))

    def close(self) -> None:
        """No more rows of the images that are open will come, neither here nor in sums to be merged."""
        pairs, self.cosines_within = self.within()
        self.pairs_within, self.closed, self.open = pairs, self.closed | self.open.keys(), {}

    def merge(self, other: CosineSums) -> CosineSums:
        """Add the other's rows to these. An empty one is neutral. Raises BadInput for an image that either of them has closed."""
        again = (self.closed & (other.closed | other.open.keys())) | (self.open.keys() & other.closed)
        if again:
            raise BadInput(
                f"{len(again)} images are in both of these sums, and closed in one: close an image where all its rows are"
            )
        self.n += other.n
        self.zeros += other.zeros
        self.total = self.total + other.total
        self.pairs_within += other.pairs_within
        self.cosines_within = self.cosines_within + other.cosines_within
        self.closed = self.closed | other.closed
        for key, (count, total) in other.open.items():
            self._add(key, count, total)
        return self

    def _add(self, key: bytes, count: int, total: Tensor) -> None:
        known, before = self.open.get(key, (0, 0))
        self.open[key] = known + count, before + total

    @property
    def images(self) -> int:
        return len(self.closed) + len(self.open)

    def within(self) -> tuple[int, Tensor]:
        """Ordered pairs of rows of the same image, a row with itself among them, and the sum of their cosines."""
        pairs = self.pairs_within + sum(count * count for count, _ in self.open.values())
        return pairs, self.cosines_within + sum(total @ total for _, total in self.open.values())

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved; `from_tensors` is the exact inverse."""
        keys = sorted(self.open)
        sums = [self.open[key][1] for key in keys]
        return {
            **{name: torch.tensor(getattr(self, name)) for name in COUNTS},
            "total": self.total,
            "cosines_within": self.cosines_within,
            "open": digests_to_tensor(keys),
            "open_rows": torch.tensor([self.open[key][0] for key in keys], dtype=torch.int64),
            "open_sums": torch.stack(sums) if sums else torch.zeros(0, 0, dtype=torch.float64),
            "closed": digests_to_tensor(self.closed),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> CosineSums:
        """Raises BadRun for missing or unknown names."""
        new = cls()
        need("sums for cosines", tensors, new.tensors())
        for name in COUNTS:
            setattr(new, name, int(tensors[name]))
        new.total, new.cosines_within = tensors["total"], tensors["cosines_within"]
        counts, keys = tensors["open_rows"].tolist(), digests_from_tensor(tensors["open"])
        new.open = dict(zip(keys, zip(counts, tensors["open_sums"], strict=True), strict=True))
        new.closed = set(digests_from_tensor(tensors["closed"]))
        return new
