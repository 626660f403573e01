"""On how many coordinates the rows lie, judged from each row's two nearest neighbours: of all rows, of other images, at scales."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.checked import as_rows
from medlens.stats.rows import RowSample
from medlens.types import Value

CHUNK = 1024  # rows of the distance matrix in memory at a time
CANDIDATES = 4  # nearest by matrix product, looked at again exactly
SCALES = (2, 4, 8)  # halves, quarters, eighths


def intrinsic_dimension(x: Tensor, keep: float = 0.9, resolution: float = 0.0) -> Value:
    """TwoNN: the slope, through the origin, of -log(1 - i/n) on the log of mu = r2/r1, over the smallest `keep` share of mu.

    x: (n, d) rows. r1, r2: distances of a row to its two nearest neighbours; i = 1 .. floor(keep n) counts rows by rising mu.
    Rows with r1 = 0 (duplicates) are dropped before n is counted; `.note` says how many. Distances up to `resolution` times the
    mean row norm count as 0: what was computed twice, in other batches, differs by rounding and is a duplicate all the
    same. Biased low from about 10 dimensions on
    (cubes at n = 4000: 5 -> 4.8, 10 -> 8.8, 20 -> 15.4). Undefined where fewer than two ratios above 1 are left.
    Raises NotFinite, and BadInput for `keep` outside (0, 1), the ends excluded: -log(1 - n/n) is infinite.

    Source: Facco et al. 2017, Estimating the intrinsic dimension of datasets by a minimal neighborhood information.
    """
    _check(keep)
    x = as_rows(x)
    return _slope(two_nearest(x), x.norm(dim=1), keep, resolution)


def intrinsic_dimension_between(x: Tensor, image: Sequence[Hashable] | Tensor, keep: float = 0.9, resolution: float = 0.0) -> Value:
    """`intrinsic_dimension` of rows x (n, d) whose neighbours are taken from other images only; `image` names the image of each.

    Patches of one image resemble each other more than the images do: their nearest neighbours say how an image varies within
    itself. These say how images vary. Rows with fewer than two rows in other images are left out, and `.note` counts them.
    Undefined for fewer than two images, and as there. Raises NotFinite, and BadInput for `keep` outside (0, 1) or where `image`
    does not name as many images as there are rows. Biased low as `intrinsic_dimension` is.

    Source: Facco et al. 2017; that neighbours of one origin mislead: Denti et al. 2022, The generalized ratios intrinsic
    dimension estimator.
    """
    _check(keep)
    x = as_rows(x)
    names = image.tolist() if isinstance(image, Tensor) else list(image)
    if len(names) != len(x):
        raise BadInput(f"{len(x)} rows but {len(names)} image names")
    number = {name: k for k, name in enumerate(dict.fromkeys(names))}
    of_row = torch.tensor([number[name] for name in names], dtype=torch.int64, device=x.device)
    if len(number) < 2:
        return _of_one_image(len(x))
    return _slope(two_nearest(x, of_row), x.norm(dim=1), keep, resolution)


def intrinsic_dimension_from_sums(sample: RowSample, keep: float = 0.9, resolution: float = 0.0) -> Value:
    """`intrinsic_dimension` of the rows kept in `sample`; `.note` says when they are not all."""
    if sample.rows is None:
        return Value.undefined(0, "0 rows")
    return _noted(intrinsic_dimension(sample.rows, keep, resolution), sample)


class Estimate(NamedTuple):
    """A value, and what it is without each fold of whole images, neighbours sought anew; for a jackknife, which is conservative:
    fewer rows lie further apart, so that these vary more than the value itself does."""

    value: Value
    without: dict[int, Value]


class Dimensions(NamedTuple):
    """Intrinsic dimension by neighbours among all rows, and in other images; and at scales: the mean over the two halves, the
    four quarters, the eight eighths of the rows, drawn at random. Where these do not agree there is no plateau, and none of them is
    a dimension. Those at scales have no `without`."""

    whole: Estimate
    between: Estimate
    half: Estimate
    quarter: Estimate
    eighth: Estimate


def dimensions(sample: RowSample, keep: float = 0.9, resolution: float = 0.0) -> Dimensions:
    """Every intrinsic dimension of the rows kept in `sample`, (n, d), from one pass over their distances.

    The sample's labels say the image and the fold of each row. Its rows lie in the order of their priorities, which are hashes:
    so the first half of them is a random half. Each value is what `intrinsic_dimension` (or `_between`) of those rows is, and
    `.n` the fewest rows that one of them stands on. Undefined, and errors, as there. Costs the matrix product of a single
    estimate, and three searches for the smallest in place of one. Source: Facco et al. 2017; Denti et al. 2022.
    """
    _check(keep)
    if sample.rows is None or sample.labels is None:
        return Dimensions(*(Estimate(Value.undefined(0, "0 rows"), {}) for _ in Dimensions._fields))
    x, (image, fold) = as_rows(sample.rows), sample.labels.unbind(1)
    lengths = x.norm(dim=1)
    found = _search(x - x.mean(0), image, fold)

    def of(near: Tensor, rows: Tensor | slice) -> Value:
        return _noted(_slope(near[rows], lengths[rows], keep, resolution), sample)

    def between(near: Tensor, rows: Tensor | slice) -> Value:
        return of(near, rows) if len(image[rows].unique()) > 1 else _of_one_image(len(image[rows]))

    everything = slice(None)
    return Dimensions(
        Estimate(of(found.whole, everything), {f: of(near, fold != f) for f, near in found.whole_without.items()}),
        Estimate(between(found.between, everything), {f: between(near, fold != f) for f, near in found.between_without.items()}),
        *(Estimate(_mean([of(near, part) for part in _parts(len(x), k)]), {}) for k, near in found.at_scale.items()),
    )


def two_nearest(x: Tensor, image: Tensor | None = None) -> Tensor:
    """Distances (n, 2) of each row of x (n, d) to its two nearest others, in float64; of other images, where `image` (n,) is given.
    Infinite where there are no two.

    One matrix product finds candidates; their distances are then computed again from the difference itself, because the product
    loses the digits of what is very near.
    """
    x = x - x.mean(0)
    found = [x.new_zeros(0, 2)]
    for rows, distance in _distances(x, range(0, len(x), CHUNK)):
        if image is not None:
            distance.masked_fill_(image[rows, None] == image, torch.inf)
        found.append(_exact(x, x[rows], _nearest(distance)))
    return torch.cat(found)


# ---- one pass for all of them


class _Found(NamedTuple):
    """Distances (n, 2) to the two nearest, by where these were sought; those without
    a fold mean nothing for the fold's own rows."""

    whole: Tensor
    between: Tensor
    whole_without: dict[int, Tensor]
    between_without: dict[int, Tensor]
    at_scale: dict[int, Tensor]


class _Near(NamedTuple):
    """Candidates of each row: how far by the matrix product (infinite: no candidate), and which rows they are."""

    far: Tensor
    rows: Tensor


def _search(x: Tensor, image: Tensor, fold: Tensor) -> _Found:
    n, folds = len(x), {f: (fold == f).nonzero()[:, 0] for f in fold.unique().tolist()}
    without, beside, at_scale = ({f: x.new_empty(n, 2) for f in by} for by in (folds, folds, SCALES))
    found = _Found(x.new_empty(n, 2), x.new_empty(n, 2), without, beside, at_scale)
    for rows, distance in _distances(x, _starts(n)):
        for k, near in found.at_scale.items():
            part = next(part for part in _parts(n, k) if part.start <= rows.start < part.stop)
            far, index = _nearest(distance[:, part])
            near[rows] = _exact(x, x[rows], _Near(far, index + part.start))
        found.whole[rows] = _by_fold(x, rows, distance, fold, folds, found.whole_without)
        distance.masked_fill_(image[rows, None] == image, torch.inf)
        found.between[rows] = _by_fold(x, rows, distance, fold, folds, found.between_without)
    return found


def _by_fold(
    x: Tensor, rows: slice, distance: Tensor, fold: Tensor, folds: dict[int, Tensor], without: dict[int, Tensor]
) -> Tensor:
    """The two nearest of these rows; and, into `without`, those outside of each fold. Nearest are sought in each fold by itself, so
    that leaving one out costs no search."""
    each = [(_nearest(distance[:, columns]), columns) for columns in folds.values()]
    all_ = _Near(torch.cat([near.far for near, _ in each], 1), torch.cat([columns[near.rows] for near, columns in each], 1))
    best = _best(all_)
    two = _exact(x, x[rows], best)
    for f, near in without.items():
        near[rows] = two  # of most rows, as none of the candidates was in the fold
        again = ((fold[best.rows] == f).any(1) & (fold[rows] != f)).nonzero()[:, 0]
        far, index = all_.far[again], all_.rows[again]
        rest = _best(_Near(far.masked_fill(fold[index] == f, torch.inf), index))
        near[rows.start + again] = _exact(x, x[rows.start + again], rest)
    return two


def _distances(x: Tensor, starts: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
    """Some rows at a time: their squared distances (rows, n) to all, but for a constant of each row; to themselves, infinite."""
    squares = x.square().sum(1)
    for start, stop in zip(starts, [*starts[1:], len(x)][: len(starts)], strict=True):
        distance = torch.addmm(squares, x[start:stop], x.T, alpha=-2)
        own = torch.arange(stop - start, device=x.device)
        distance[own, start + own] = torch.inf
        yield slice(start, stop), distance


def _starts(n: int) -> list[int]:
    """Of chunks that lie within the smallest parts."""
    return [start for part in _parts(n, SCALES[-1]) for start in range(part.start, part.stop, CHUNK)]


def _parts(n: int, k: int) -> list[slice]:
    """k stretches of n rows; quarters are made of eighths, halves of quarters."""
    return [slice(n * i // k, n * (i + 1) // k) for i in range(k)]


def _nearest(distance: Tensor) -> _Near:
    return _Near(*distance.topk(min(CANDIDATES, distance.shape[1]), largest=False))


def _best(near: _Near) -> _Near:
    far, at = _nearest(near.far)
    return _Near(far, near.rows.gather(1, at))


def _exact(x: Tensor, rows: Tensor, near: _Near) -> Tensor:
    """Distances (rows, 2) to the two nearest of the candidates, infinite where there are none."""
    distance = (rows[:, None] - x[near.rows]).norm(dim=2).masked_fill_(near.far.isinf(), torch.inf)
    two = distance.sort(dim=1).values[:, :2]
    return torch.nn.functional.pad(two, (0, 2 - two.shape[1]), value=torch.inf)


# ---- from neighbours to a dimension


def _slope(near: Tensor, lengths: Tensor, keep: float, resolution: float) -> Value:
    """near (n, 2): r1 and r2 of each row; lengths (n,): of the rows."""
    if len(near) < 3:
        return Value.undefined(len(near), f"{len(near)} rows; two neighbours need 3")
    first, second = near.unbind(1)
    reached = second.isfinite()
    apart = reached & (first > resolution * lengths.mean())
    alone, dropped = int((~reached).sum()), int((reached & ~apart).sum())
    n = int(apart.sum())
    log_mu = (second[apart] / first[apart]).log().sort().values[: int(n * keep)]
    if len(log_mu) < 2:
        why = (
            f"of {n} rows that are no duplicates, keep={keep:g} leaves {len(log_mu)}"
            if n
            else "no row has two neighbours"
            if alone
            else "every row is a duplicate of another"
        )
        return Value.undefined(n, why)
    if log_mu[-1] <= 0:
        return Value.undefined(n, "every row is as far from its second neighbour as from its first")
    rank = -torch.log1p(-torch.arange(1, len(log_mu) + 1, dtype=torch.float64, device=near.device) / n)
    notes = [f"{dropped} duplicate rows dropped"] * bool(dropped)
    notes += [f"{alone} rows with fewer than two neighbours left out"] * bool(alone)
    return Value(float(rank @ log_mu / (log_mu @ log_mu)), n, "; ".join(notes))


def _mean(values: list[Value]) -> Value:
    """Of the parts at one scale; undefined where one of them is."""
    for value in values:
        if value != value:
            return Value.undefined(value.n, f"one of {len(values)} parts: {value.note}")
    notes = "; ".join(dict.fromkeys(value.note for value in values if value.note))
    return Value(sum(values) / len(values), min(value.n for value in values), notes)


def _noted(value: Value, sample: RowSample) -> Value:
    if sample.seen <= sample.cap:
        return value
    return Value(value, value.n, "; ".join(filter(None, [f"{sample.cap} of {sample.seen} rows", value.note])))


def _of_one_image(n: int) -> Value:
    return Value.undefined(n, "rows of fewer than two images: no neighbours in others")


def _check(keep: float) -> None:
    if not 0 < keep < 1:
        raise BadInput(f"keep is a share between 0 and 1; got {keep}")
