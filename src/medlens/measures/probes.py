"""Linear probes: whether a state holds a property in a linear way, and how much of that is the probe's own doing.

The probe is ridge regression on the indicators of the classes, the largest wins (ridge classification): one factorisation serves
every penalty and every permutation of the labels, and there is nothing to converge.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.checked import as_rows
from medlens.stats.intervals import clustered, wilson
from medlens.types import Value

PENALTIES = tuple(10.0**k for k in range(3, -4, -1))  # of the mean squared length of the rows; of equals the first is taken
FEWEST_FOLDS = 3  # one is held out, and inside the others the penalty is chosen


@dataclass(frozen=True)
class Scored:
    """A value with its 95 % interval; neither end where it is undefined."""

    value: Value
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Probe:
    """What a probe reads. All are shares of held-out rows.

    accuracy: right ones; balanced: their mean over the classes. majority: of the commonest class of the training folds. control:
    the mean accuracy on labels that were shuffled over images, with the 2.5 and 97.5 % quantiles of its draws for ends.
    selectivity: accuracy - control (Hewitt and Liang 2019), with the wider of the
    accuracy's interval and of the spread of the draws, which knows that other images train other probes. p: the share of draws,
    the true labels among them, that are at least as accurate: never below 1 / (draws + 1). classes: images of each.
    """

    accuracy: Scored
    balanced: Scored
    majority: Scored
    control: Scored
    selectivity: Scored
    p: float
    classes: dict[str, int]


def linear_probe(
    x: Tensor, labels: Sequence[str], image: Sequence[Hashable], fold: Sequence[int], controls: int = 50, seed: int = 0
) -> Probe:
    """Read `labels` off rows x (n, d) by a linear map, each fold by a probe that has seen none of its images.

    image, fold: of each row. Rows of one image (or patient) lie in one fold. Columns are standardised by the training folds, and
    the penalty is chosen inside them, by accuracy on each of them in turn; for shuffled labels just so. Labels are shuffled over
    whole images where an image has one label, else over rows. Intervals count an image once (clustered). No image is on both
    sides, so a control cannot be memorised: it shows what chance gives with these images, classes and columns. The intervals of
    accuracies are of these probes on new images; that other images would train others is not in them. `p` is exact.

    Classes of fewer images than there are folds are left out, and said. Undefined where fewer than two classes are left, below
    three folds, and where no column varies. Raises NotFinite, and BadInput for lengths that differ or an image in two folds.

    Source: Alain and Bengio 2017; Hewitt and Liang 2019, Designing and Interpreting Probes with Control Tasks.
    """
    x = as_rows(x)
    _check(len(x), labels, image, fold, controls)
    kept, classes, said = _enough(labels, image, fold)
    folds = sorted({fold[i] for i in kept})
    why = "" if len(folds) >= FEWEST_FOLDS else f"images in {len(folds)} folds: {FEWEST_FOLDS} are needed to choose the penalty"
    why = said if len(classes) < 2 else why
    x = x[kept]
    if not why and not bool((x != x[0]).any()):
        why = "the states do not vary"
    if why:
        nothing = Scored(Value.undefined(len(kept), why))
        return Probe(nothing, nothing, nothing, nothing, nothing, math.nan, classes)
    names, of_row = sorted(classes), [image[i] for i in kept]
    truth = torch.tensor([names.index(labels[i]) for i in kept])
    shuffled = _shuffled(truth, of_row, controls, seed)
    sets = torch.stack([truth, *shuffled])
    right = (_held_out(x, sets, torch.tensor([folds.index(fold[i]) for i in kept]), len(names)) == sets).double()
    return _scored(right, truth, torch.tensor([fold[i] for i in kept]), of_row, classes, said)


def _check(n: int, labels: Sequence[str], image: Sequence[Hashable], fold: Sequence[int], controls: int) -> None:
    if not n == len(labels) == len(image) == len(fold):
        raise BadInput(f"{n} rows but {len(labels)} labels, {len(image)} images and {len(fold)} folds: one of each for every row")
    if controls < 1:
        raise BadInput(f"controls is {controls}; at least 1 draw of shuffled labels is needed")
    if len(set(zip(image, fold, strict=True))) > len(set(image)):
        raise BadInput("rows of one image lie in different folds: the probe would be tested on what it was trained on")


def _enough(labels: Sequence[str], image: Sequence[Hashable], fold: Sequence[int]) -> tuple[list[int], dict[str, int], str]:
    """The rows of classes with enough images, those classes with their images, and what is to be said of the others."""
    images = Counter(label for label, _ in dict.fromkeys(zip(labels, image, strict=True)))
    need = max(FEWEST_FOLDS, len(set(fold)))
    classes = {label: count for label, count in sorted(images.items()) if count >= need}
    kept = [i for i, label in enumerate(labels) if label in classes]
    if len(classes) < 2:
        found = ", ".join(f"{label} {count}" for label, count in images.most_common(6)) or "none"
        return kept, classes, f"two values with at least {need} images each are needed; images of each value: {found}"
    rare = len(images) - len(classes)
    return kept, classes, f"left out: {rare} value{'s' * (rare > 1)} of fewer than {need} images" if rare else ""


def _shuffled(truth: Tensor, image: Sequence[Hashable], controls: int, seed: int) -> list[Tensor]:
    """The labels of the rows, shuffled so many times."""
    generator = torch.Generator().manual_seed(seed)
    numbers = {name: k for k, name in enumerate(dict.fromkeys(image))}
    unit = torch.tensor([numbers[name] for name in image])
    of_unit = torch.zeros(len(numbers), dtype=truth.dtype).scatter_(0, unit, truth)
    if not torch.equal(of_unit[unit], truth):  # an image has several labels: of its questions
        unit, of_unit = torch.arange(len(truth)), truth
    return [of_unit[torch.randperm(len(of_unit), generator=generator)][unit] for _ in range(controls)]


def _held_out(x: Tensor, sets: Tensor, fold: Tensor, classes: int) -> Tensor:
    """What is read of each row by the probe trained without its fold, (sets, n); a penalty for each set of labels and fold."""
    folds, marks = range(int(fold.max()) + 1), torch.nn.functional.one_hot(sets, classes).double()
    read = torch.zeros_like(sets)
    tried: dict[tuple[int, int], Tensor] = {}  # right ones in fold j, without folds j and k, and the other way round
    for j in folds:
        for k in folds[j + 1 :]:
            fit = _Fit(x, marks, (fold != j) & (fold != k))
            for held, other in ((j, k), (k, j)):
                at = fold == held
                tried[held, other] = (fit.read(x[at]) == sets[:, at]).sum(-1)  # (penalties, sets)
    for k in folds:
        best = sum(tried[j, k] for j in folds if j != k)
        assert isinstance(best, Tensor)
        at = fold == k
        found = _Fit(x, marks, fold != k).read(x[at])
        read[:, at] = found[best.argmax(0), torch.arange(len(sets))]
    return read


class _Fit:
    """Ridge regression of the marks (sets, n, classes) on the rows of x (n, d) that are `trained`, at every penalty."""

    def __init__(self, x: Tensor, marks: Tensor, trained: Tensor) -> None:
        rows, self.marks = x[trained], marks[:, trained]
        self.mean, spread = rows.mean(0), rows.std(0, correction=0)
        self.varies = spread > 1e-9 * rows.abs().amax(0)
        self.spread = spread[self.varies]
        z = self._standardised(rows)
        u, self.s, self.vt = torch.linalg.svd(z, full_matrices=False)
        self.level = self.marks.mean(1, keepdim=True)
        self.along = torch.einsum("nr,tnc->trc", u, self.marks - self.level)
        self.weight = self.s.square().sum() / len(rows)

    def _standardised(self, rows: Tensor) -> Tensor:
        return (rows[:, self.varies] - self.mean[self.varies]) / self.spread

    def read(self, rows: Tensor) -> Tensor:
        """The class of each row, (penalties, sets, rows)."""
        along = self._standardised(rows) @ self.vt.T
        shrunk = [self.s / (self.s.square() + penalty * self.weight).clamp_min(1e-300) for penalty in PENALTIES]
        return torch.stack([(torch.einsum("nr,trc->tnc", along * s, self.along) + self.level).argmax(-1) for s in shrunk])


def _scored(
    right: Tensor, truth: Tensor, fold: Tensor, image: Sequence[Hashable], classes: dict[str, int], said: str
) -> Probe:  # fmt: skip
    """right: (1 + controls, n), 1.0 where the label that was read is the one that was given; the true labels come first."""
    own, draws, n = right[0], right[1:].mean(1), len(truth)
    common, accuracy = torch.zeros(n), _share(own, image, said)
    for k in fold.unique():
        common[fold == k] = (truth[fold == k] == truth[fold != k].bincount().argmax()).float()
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    control = float(draws.mean())
    return Probe(
        accuracy=accuracy,
        balanced=_balanced(own, truth, image, said),
        majority=_share(common, image, said),
        control=Scored(Value(control, n, said), low, high),
        selectivity=_selectivity(accuracy, draws, control, said),
        p=(1 + int((draws >= own.mean()).sum())) / (1 + len(draws)),
        classes=classes,
    )


def _share(right: Tensor, image: Sequence[Hashable], said: str) -> Scored:
    share, low, high = clustered(right.tolist(), image)
    return Scored(Value(share, len(right), said), low, high)


def _selectivity(accuracy: Scored, draws: Tensor, control: float, said: str) -> Scored:
    value, spread = float(accuracy.value) - control, 1.96 * float(draws.std()) if len(draws) > 1 else 0.0
    assert accuracy.low is not None
    assert accuracy.high is not None
    low, high = min(accuracy.low - control, value - spread), max(accuracy.high - control, value + spread)
    return Scored(Value(value, accuracy.value.n, said), low, high)


def _balanced(right: Tensor, truth: Tensor, image: Sequence[Hashable], said: str) -> Scored:
    """The mean of the classes' shares; Wilson's interval of as many units as would be as uncertain (see `clustered`)."""
    counts = truth.bincount().double()
    shares = truth.bincount(right) / counts
    mean, totals = float(shares.mean()), Counter[Hashable]()
    for off, name in zip(((right - shares[truth]) / (len(counts) * counts[truth])).tolist(), image, strict=True):
        totals[name] += off  # pyright: ignore[reportArgumentType]
    units, squares = len(totals), sum(total**2 for total in totals.values())
    variance = units / (units - 1) * squares
    return Scored(Value(mean, len(right), said), *wilson(mean, mean * (1 - mean) / variance if variance > 0 else units))
