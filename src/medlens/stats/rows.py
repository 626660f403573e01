"""Where sums do not suffice: a bounded sample of rows, and a bounded count of distinct rows."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.flat import DIGEST, need

KEPT = ("rows", "priorities", "labels")


class RowSample:
    """At most `cap` rows, drawn without replacement and independent of the order in which they come.

    Every row has a priority (a hash of what it is); the `cap` smallest are kept. So the sample of a merge is the merge of samples.
    And it has labels, which are kept with it: the number of its image and that image's fold.
    """

    def __init__(self, cap: int) -> None:
        if cap < 1:
            raise BadInput(f"a sample of rows holds at least one; got cap={cap}")
        self.cap = cap
        self.seen = 0
        self.rows: Tensor | None = None
        self.priorities: Tensor | None = None
        self.labels: Tensor | None = None

    @classmethod
    def empty(cls, cap: int) -> RowSample:
        return cls(cap)

    @property
    def n(self) -> int:
        """Rows seen, kept or not."""
        return self.seen

    def update(self, rows: Tensor, priorities: Tensor, labels: Tensor | None = None) -> None:
        """rows (n, d); priorities (n,) int64, distinct for distinct rows of the study; labels (n, 2) int64, image and fold (None:
        zeros, one image in one fold). Raises BadInput where these are not as many as the rows."""
        if len(rows) != len(priorities):
            raise BadInput(f"{len(rows)} rows but {len(priorities)} priorities")
        if labels is None:
            labels = torch.zeros(len(rows), 2, dtype=torch.int64, device=rows.device)
        if labels.shape != (len(rows), 2):
            raise BadInput(f"labels are (image, fold) of each row, shape ({len(rows)}, 2); got {tuple(labels.shape)}")
        self.seen += len(rows)
        self._keep(rows, priorities, labels)

    def merge(self, other: RowSample) -> RowSample:
        if other.cap != self.cap:
            raise BadInput(f"samples of at most {self.cap} and of at most {other.cap} rows do not merge")
        if other.rows is not None and other.priorities is not None and other.labels is not None:
            self.seen += other.seen
            self._keep(other.rows, other.priorities, other.labels)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved; `from_tensors` is the exact inverse."""
        counts = {"cap": torch.tensor(self.cap), "seen": torch.tensor(self.seen)}
        kept = {name: getattr(self, name) for name in KEPT}
        return counts if self.rows is None else {**counts, **kept}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> RowSample:
        """Raises BadRun for missing or unknown names."""
        need("sample of rows", tensors, ["cap", "seen", *(KEPT if set(KEPT) & set(tensors) else [])])
        new = cls(int(tensors["cap"]))
        new.seen = int(tensors["seen"])
        new.rows, new.priorities, new.labels = (tensors.get(name) for name in KEPT)
        return new

    def _keep(self, rows: Tensor, priorities: Tensor, labels: Tensor) -> None:
        if self.rows is not None and self.priorities is not None and self.labels is not None:
            rows = torch.cat([self.rows, rows])
            priorities = torch.cat([self.priorities, priorities])
            labels = torch.cat([self.labels, labels])
        # Sorted also below the cap: what is computed from the rows must not depend on the order in which they came.
        order = priorities.argsort()[: self.cap]
        self.rows, self.priorities, self.labels = rows[order], priorities[order], labels[order]


def priority(seed: int, *what: object) -> int:
    """A stable 63-bit hash of what a row is (its sample, its position): the same on every machine and in every run."""
    digest = blake2b(repr((seed, *what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def distinct_rows(x: Tensor, known: set[bytes], cap: int) -> None:
    """Add the rows of `x` to the `known` ones, until `cap` of them are known: then nothing more needs to be."""
    if len(known) >= cap:
        return
    for row in (x.double() + 0.0).cpu().numpy():  # + 0.0: minus zero is zero
        known.add(blake2b(row.tobytes(), digest_size=DIGEST).digest())
        if len(known) >= cap:
            return
