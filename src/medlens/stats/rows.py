"""Where sums do not suffice: a bounded sample of rows, and a bounded count of distinct rows."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.flat import DIGEST, need


class RowSample:
    """At most `cap` rows, drawn without replacement and independent of the order in which they come.

    Every row has a priority (a hash of what it is); the `cap` smallest are kept. So the sample of a merge is the merge of samples.
    """

    def __init__(self, cap: int) -> None:
        if cap < 1:
            raise BadInput(f"a sample of rows holds at least one; got cap={cap}")
        self.cap = cap
        self.seen = 0
        self.rows: Tensor | None = None
        self.priorities: Tensor | None = None

    @classmethod
    def empty(cls, cap: int) -> RowSample:
        return cls(cap)

    @property
    def n(self) -> int:
        """Rows seen, kept or not."""
        return self.seen

    def update(self, rows: Tensor, priorities: Tensor) -> None:
        """rows (n, d); priorities (n,) int64, distinct for distinct rows of the study."""
        if len(rows) != len(priorities):
            raise BadInput(f"{len(rows)} rows but {len(priorities)} priorities")
        self.seen += len(rows)
        self._keep(rows, priorities)

    def merge(self, other: RowSample) -> RowSample:
        if other.cap != self.cap:
            raise BadInput(f"samples of at most {self.cap} and of at most {other.cap} rows do not merge")
        if other.rows is not None and other.priorities is not None:
            self.seen += other.seen
            self._keep(other.rows, other.priorities)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved; `from_tensors` is the exact inverse."""
        counts = {"cap": torch.tensor(self.cap), "seen": torch.tensor(self.seen)}
        return (
            counts if self.rows is None or self.priorities is None else {**counts, "rows": self.rows, "priorities": self.priorities}
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> RowSample:
        """Raises BadRun for missing or unknown names."""
        kept = ["rows", "priorities"]
        need("sample of rows", tensors, ["cap", "seen", *(kept if set(kept) & set(tensors) else [])])
        new = cls(int(tensors["cap"]))
        new.seen, new.rows, new.priorities = int(tensors["seen"]), tensors.get("rows"), tensors.get("priorities")
        return new

    def _keep(self, rows: Tensor, priorities: Tensor) -> None:
        if self.rows is not None and self.priorities is not None:
            rows = torch.cat([self.rows, rows])
            priorities = torch.cat([self.priorities, priorities])
        # Sorted also below the cap: what is computed from the rows must not depend on the order in which they came.
        order = priorities.argsort()[: self.cap]
        self.rows, self.priorities = rows[order], priorities[order]


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
