"""First and second moments of rows, mergeable: the rows themselves while they are few, sums once they are more than their columns.

A Gram matrix (n, n) and a scatter matrix (d, d) of the same rows have the same non-zero eigenvalues: the smaller one is used.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medlens.stats.checked import batches, checked, need_columns
from medlens.stats.flat import digests_from_tensor, digests_to_tensor, need
from medlens.stats.gram import Gram, kept_rows
from medlens.stats.rows import distinct_rows
from medlens.stats.scatter import Scatter
from medlens.stats.sums import KernelSums


class Moments:
    """Rows x, kept (`Gram`) while n <= d, and summed (`Scatter`) from then on.

    distinct: hashes of distinct rows, at most d + 2 of them: more are never needed to know whether there are more than the rank.
    """

    def __init__(self) -> None:
        self.form: Gram | Scatter = Gram()
        self.distinct: set[bytes] = set()
        self._eigenvalues: Tensor | None = None

    @classmethod
    def empty(cls) -> Moments:
        return cls()

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        moments = cls()
        moments.update(x)
        return moments

    @property
    def n(self) -> int:
        return self.form.n

    @property
    def d(self) -> int:
        return self.form.d

    def update(self, x: Tensor) -> None:
        """x (n, d), any float type. Raises NotFinite, and BadInput for another shape."""
        for batch in batches(checked(x)):
            self.add(batch)

    def add(self, x: Tensor) -> None:
        """The same for checked rows, at least one of them and not too many."""
        self._join(Gram((x.clone(),)))  # a hook may write the next state over this one
        distinct_rows(x, self.distinct, self.d + 2)

    def merge(self, other: Moments) -> Moments:
        """Add the other's rows to these. An empty one is neutral."""
        if other.n:
            self._join(other.form)
            self.distinct = set(sorted(self.distinct | other.distinct)[: self.d + 2])
        return self

    def _join(self, form: Gram | Scatter) -> None:
        need_columns(self.d or form.d, form.d)
        self._eigenvalues = None
        if isinstance(self.form, Gram) and isinstance(form, Gram) and self.n + form.n <= form.d:
            self.form += form
        else:
            sums = self.as_sums(form.reference)
            self.form = sums.own()
            form.add_to(self.form)

    def less(self, parts: Sequence[Moments], distinct: set[bytes]) -> Moments:
        """These rows without those of the parts, all of which are among them, as sums of their own. More rows than columns must be
        left, and these be summed already. distinct: hashes of what is left."""
        new = Moments()
        new.form, new.distinct = self.summed.copied(), distinct
        for part in parts:
            part.form.add_to(new.form, -1)
        return new

    def without(self, rows: Tensor) -> Moments:
        """These rows without some of them, as they came: (m, d), each of them once for every time that it is among these."""
        if not len(rows):
            return self
        gone: set[bytes] = set()
        distinct_rows(rows, gone, self.d + 2)
        new = Moments()
        new.distinct = self.distinct - gone
        if isinstance(self.form, Gram):
            new.form = self.form.take(kept_rows(self.form, rows))
        else:
            new.form = self.summed.copied()
            new.form.add(rows, -1)
        return new

    def standardised(self) -> Moments:
        """These rows with every column divided by its standard deviation; for what is read off second moments only."""
        new = Moments()
        new.form, new.distinct = self.form.standardised(), self.distinct
        return new

    def as_sums(self, reference: Tensor) -> Scatter:
        """Rows that are still kept are summed now: about their mean or, where there are none, about `reference`."""
        if isinstance(self.form, Gram):
            sums = Scatter(self.form.reference if self.n else reference)
            self.form.add_to(sums)
            self.form = sums
        return self.form

    @property
    def kept(self) -> Gram:
        assert isinstance(self.form, Gram)
        return self.form

    @property
    def summed(self) -> Scatter:
        assert isinstance(self.form, Scatter)
        return self.form

    def shared(self) -> Moments:
        """Another one of the same rows, without a copy of them: whoever is changed first makes its own."""
        new = copy.copy(self)
        new.distinct = set(self.distinct)
        if isinstance(self.form, Scatter):
            self.form.shared = True
        return new

    def products(self) -> Tensor:
        """Of centred rows: the Gram matrix (n, n) or, where there are more rows than columns, the scatter matrix (d, d)."""
        return self.form.products

    def constant_columns(self) -> Tensor:
        """(d,) bool: centred sum of squares below 1e-12 of the raw one, all that float32 inputs could tell from rounding."""
        return self.form.constant_columns

    def kernel_sums(self) -> KernelSums:
        """What alignment of x with itself needs."""
        return self.form.kernel_sums()

    def eigenvalues(self) -> Tensor:
        """Eigenvalues of `products()`, ascending, clipped at 0; computed once."""
        values = self._eigenvalues
        if values is None:
            values = self._eigenvalues = torch.linalg.eigvalsh(self.products()).clamp_min(0)
        return values

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved; `from_tensors` is the exact inverse."""
        distinct = {"distinct": digests_to_tensor(sorted(self.distinct))}
        if isinstance(self.form, Scatter):
            return {**self.form.tensors(), **distinct}
        return {"rows": torch.cat(self.form.rows) if self.n else torch.zeros(0, 0), **distinct}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Moments:
        """Raises BadRun for missing or unknown names."""
        need("moments", tensors, ["distinct"], ["rows", "n", *Scatter.names])
        new, form = cls(), {name: tensor for name, tensor in tensors.items() if name != "distinct"}
        new.distinct = set(digests_from_tensor(tensors["distinct"]))
        if "rows" not in form:
            new.form = Scatter.from_tensors(form)
        else:
            need("kept rows", form, ["rows"])
            new.form = Gram((form["rows"],) if len(form["rows"]) else ())
        return new
