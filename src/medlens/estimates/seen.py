"""What is kept of one state beside its moments: cosines by fold, and a bounded sample of rows; and what is read off them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medlens.estimates.estimate import Estimate, estimates
from medlens.estimates.variants import ORDINARY, RAW, STANDARDISED, Values
from medlens.measures import MEASURES
from medlens.measures.neighbours import dimensions, intrinsic_dimension, intrinsic_dimension_between
from medlens.stats import CosineSums, Folds, RowSample
from medlens.stats.flat import nested, parts
from medlens.stats.gram import centred
from medlens.types import GROUPS, Value

RESOLUTION = 1e-5  # of a row's norm: the contract's tolerance for one state computed in two batches
WITH_ALL = (*GROUPS, "all")
VARIANTS = (RAW, ORDINARY)
COSINES = [name for name, measure in MEASURES.items() if measure.needs == "cosines"]
NOT_AT_SCALES = ("intrinsic_dimension", "intrinsic_dimension_between")
AT_SCALES = ("intrinsic_dimension_of_half", "intrinsic_dimension_of_quarter", "intrinsic_dimension_of_eighth")


class Seen:
    """Of every token group. Rows of all are fed again to its cosines: closed images do not merge across groups."""

    def __init__(self, cap: int, folds: int) -> None:
        self.cap = cap
        self.cosines = {v: {g: Folds(CosineSums, folds) for g in WITH_ALL} for v in VARIANTS}
        self.rows = {g: RowSample(cap) for g in GROUPS}
        self.heavy: set[int] = set()  # priorities of rows with a massive activation

    def update(self, group: str, x: Tensor, image: str, priorities: Tensor, labels: Tensor, ordinary: Tensor) -> None:
        """x (n, d): rows of one image. labels (n, 2): image and fold, the same for all. ordinary (n,): is not massive."""
        fold = int(labels[0, 1])
        for to in (group, "all"):
            self.cosines[RAW][to][fold].update(x, image)
            self.cosines[ORDINARY][to][fold].update(x[ordinary], image)
        self.rows[group].update(x, priorities, labels)
        self.heavy.update(priorities[~ordinary].tolist())

    @property
    def width(self) -> int:
        return max((sample.rows.shape[1] for sample in self.rows.values() if sample.rows is not None), default=0)

    def close(self) -> None:
        for of_group in self.cosines.values():
            for folds in of_group.values():
                for cosines in folds:
                    cosines.close()

    # ---- what is read off

    def cosine_values(self, group: str, thorough: bool) -> dict[tuple[str, str], Estimate]:
        found: dict[tuple[str, str], Estimate] = {}
        for variant in VARIANTS:
            folds = self.cosines[variant][group]

            def values(sums: CosineSums, variant: str = variant) -> Values:
                return {(name, variant): MEASURES[name].of_sums(sums) for name in COSINES}

            if variant == RAW or thorough or self.heavy:
                filled = folds.filled if len(folds.filled) > 1 else []
                found |= estimates(values(folds.total()), ((k, values(folds.without(k))) for k in filled))
        if thorough:
            found |= {(name, STANDARDISED): Estimate(v) for name, v in self._standardised_cosines(group).items()}
        return found

    def sample(self, group: str) -> RowSample:
        """The sample of a group; that of all is the merge of the groups'."""
        if group != "all":
            return self.rows[group]
        merged = RowSample(self.cap)
        for sample in self.rows.values():
            merged.merge(sample)
        return merged

    def kept(self, group: str, layer: int, most: int) -> dict[str, Tensor]:
        """The first rows of the sample in single precision, and their priorities, by which the same tokens are known again."""
        sample = self.rows[group]
        if sample.rows is None or sample.priorities is None:
            return {}
        rows = sample.rows[:most].float().cpu().clone()
        return {f"{group}/{layer:02d}": rows, f"priorities/{group}": sample.priorities[:most].cpu().clone()}

    def sample_values(self, group: str, keep: float, variants: bool) -> dict[tuple[str, str], Estimate]:
        """Intrinsic dimensions, of the rows of the sample. Intervals, for which neighbours are sought again without each fold, are
        conservative; the other variants have none, and are not sought at scales."""
        sample = self.sample(group)
        found = {(name, RAW): e for name, e in _dimensions(sample, keep).items()}
        if not variants:
            return found
        others = {STANDARDISED: _standardised(sample)}
        if self.heavy:
            others[ORDINARY] = _without(sample, self.heavy)
        else:
            found |= {(name, ORDINARY): found[name, RAW] for name in NOT_AT_SCALES}
        for variant, changed in others.items():
            found |= {(name, variant): Estimate(value) for name, value in _plain_dimensions(changed, keep).items()}
        return found

    def _standardised_cosines(self, group: str) -> dict[str, Value]:
        sample = _standardised(self.sample(group))
        sums = CosineSums()
        if sample.rows is not None and sample.labels is not None:
            for image in sample.labels[:, 0].unique().tolist():
                sums.update(sample.rows[sample.labels[:, 0] == image], image)
                sums.close()
        return {name: _of_sample(MEASURES[name].of_sums(sums), sample) for name in COSINES}

    # ---- across machines

    def merge(self, other: Seen) -> None:
        for variant, of_group in self.cosines.items():
            for group, folds in of_group.items():
                folds.merge(other.cosines[variant][group])
        for group, rows in self.rows.items():
            rows.merge(other.rows[group])
        self.heavy |= other.heavy

    def tensors(self) -> dict[str, Tensor]:
        found = {"cap": torch.tensor(self.cap), "heavy": torch.tensor(sorted(self.heavy), dtype=torch.int64)}
        for variant, of_group in self.cosines.items():
            for group, folds in of_group.items():
                found |= nested(f"cosines/{variant}/{group}", folds.tensors())
        for group, sample in self.rows.items():
            found |= nested(f"rows/{group}", sample.tensors())
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Seen:
        own, found = parts(tensors)
        new = cls(int(own["cap"]), int(found[f"cosines/{RAW}/all"]["folds"]))
        new.heavy = set(own["heavy"].tolist())
        for variant, of_group in new.cosines.items():
            for group in of_group:
                mine = found[f"cosines/{variant}/{group}"]
                of_group[group] = Folds.from_tensors(mine, lambda _, sums: CosineSums.from_tensors(sums), CosineSums)
        new.rows = {g: RowSample.from_tensors(found[f"rows/{g}"]) for g in GROUPS}
        return new


def _dimensions(sample: RowSample, keep: float) -> dict[str, Estimate]:
    found = dimensions(sample, keep, RESOLUTION)
    named = dict(zip(NOT_AT_SCALES, (found.whole, found.between), strict=True))
    named |= dict(zip(AT_SCALES, (found.half, found.quarter, found.eighth), strict=True))
    return {name: Estimate(e.value, e.without, conservative=True) for name, e in named.items()}


def _plain_dimensions(sample: RowSample, keep: float) -> dict[str, Value]:
    if sample.rows is None or sample.labels is None:
        return dict.fromkeys(NOT_AT_SCALES, Value.undefined(0, "0 rows"))
    whole = intrinsic_dimension(sample.rows, keep, RESOLUTION)
    between = intrinsic_dimension_between(sample.rows, sample.labels[:, 0], keep, RESOLUTION)
    return {name: _of_sample(value, sample) for name, value in zip(NOT_AT_SCALES, (whole, between), strict=True)}


def _without(sample: RowSample, heavy: set[int]) -> RowSample:
    """The rows of the sample that have no massive activation."""
    new = RowSample(sample.cap)
    if sample.rows is not None and sample.priorities is not None and sample.labels is not None:
        stay = torch.tensor([p not in heavy for p in sample.priorities.tolist()])
        new.update(sample.rows[stay], sample.priorities[stay], sample.labels[stay])
    return new


def _standardised(sample: RowSample) -> RowSample:
    """The rows of the sample, every column of them divided by its standard deviation."""
    new = RowSample(sample.cap)
    if sample.rows is not None and sample.priorities is not None and len(sample.rows) > 1:
        z = centred(sample.rows.double())
        scale = z.square().mean(0).sqrt()
        rows = sample.rows.double() / torch.where(scale > 0, scale, 1.0)
        new.update(rows, sample.priorities, sample.labels)
        new.seen = sample.seen
    return new


def _of_sample(value: Value, sample: RowSample) -> Value:
    if value != value or sample.seen <= sample.cap:
        return value
    return Value(value, value.n, "; ".join(filter(None, [f"{sample.cap} of {sample.seen} rows", value.note])))
