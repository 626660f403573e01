"""How linear a block is on images that the linear map was not fitted on: no score for having as many columns as rows."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.measures.linear import FAINTEST
from medlens.stats.folds import Folds
from medlens.stats.pairs import PairSums
from medlens.stats.sums import Residuals
from medlens.types import Value


def held_out_linearity(x: Tensor, y: Tensor, fold: Sequence[Hashable] | Tensor) -> Value:
    """Cross-validated linearity of the map from rows x to rows y: 1 - sum of squared errors / sum of squares, over all folds.

    x, y: (n, d), the same tokens before and after a block; fold: of each row, the same for all rows of an image. For each fold
    the best affine map is fitted to the other folds; its errors, and the squares of y, are counted on that fold about the
    means of the others. At most 1; below 0 where the fit is worse than the mean: unrelated rows score -d/(m - d - 2), m rows
    being fitted. Columns that are constant among these are left out, and where their scatter has not full rank (tolerance
    1e-12 on the eigenvalues, columns scaled) the shortest map is taken. Undefined (NaN, with the reason in `.note`) for fewer
    than two folds; where a fold leaves no more than d + 1 rows; where y does not vary, measurably beside x. Raises NotFinite,
    and BadInput unless x and y have the same shape and `fold` as many entries as rows.

    Source: Stone 1974, Cross-Validatory Choice and Assessment of Statistical Predictions; the score: as `linearity`.
    """
    return held_out_linearity_from_folds(_folds(x, y, fold))


def held_out_linearity_of_update(x: Tensor, y: Tensor, fold: Sequence[Hashable] | Tensor) -> Value:
    """`held_out_linearity(x, y - x, fold)`: of the block's own contribution. Shapes, errors and source as there."""
    return held_out_linearity_of_update_from_folds(_folds(x, y, fold))


def held_out_linearity_from_folds(folds: Folds[PairSums], without: int | None = None) -> Value:
    """`held_out_linearity` of the pairs summed in `folds`.

    without: a fold that is left out altogether, the cross-validation rerun on the others; for `jackknife`. A fit without folds j
    and k serves both reruns, so all K of them cost K (K - 1) / 2 fits, each a Cholesky factor, two triangular solves and a
    product of d x d matrices.
    """
    return _score(folds, without, of_update=False)


def held_out_linearity_of_update_from_folds(folds: Folds[PairSums], without: int | None = None) -> Value:
    """`held_out_linearity_of_update` of the pairs summed in `folds`; the fits are those of `held_out_linearity_from_folds`."""
    return _score(folds, without, of_update=True)


def _score(folds: Folds[PairSums], without: int | None, of_update: bool) -> Value:
    used = [k for k in folds.filled if k != without]
    n = sum(folds[k].n for k in used)
    if len(used) < 2:
        return Value.undefined(n, f"rows in {len(used)} fold{'s' * (len(used) != 1)}: none to fit on and others to try it on")
    least, d = n - max(folds[k].n for k in used), folds[used[0]].x.d
    if least <= d + 1:
        return Value.undefined(n, f"{least} rows to fit {d} columns on, one fold held out; more than {d + 1} are needed")
    error, total, scale = 0.0, 0.0, 0.0
    for k in used:
        tried = _residuals(folds, frozenset({k} if without is None else {k, without}))[k][0 if of_update else 1]
        error += float(tried.error)
        total += float(tried.uu if of_update else tried.yy)
        scale += float(tried.xx + tried.uu)
    if total <= FAINTEST * scale:
        flat = "the update does not vary" if of_update else "the output does not vary"
        return Value.undefined(n, flat if total <= 0 else f"{flat} measurably beside the input")
    return Value(1 - error / total, n)


def _residuals(folds: Folds[PairSums], out: frozenset[int]) -> dict[int, tuple[Residuals, Residuals]]:
    """For each of the folds that are out: residuals of the update, and of y, under the maps fitted to all other folds."""

    def find() -> dict[int, tuple[Residuals, Residuals]]:
        of_update, of_y = _fitted_to(sums for k, sums in enumerate(folds) if k not in out)
        found = {}
        for k in out:
            residuals = folds[k].residuals(of_update)
            found[k] = residuals, residuals if of_y is of_update else folds[k].residuals(of_y)
        return found

    return folds.remember(("held out", out), find)


def _fitted_to(parts: Iterable[PairSums]):
    merged = PairSums(moments_of_y=False)  # a matrix less
    for sums in parts:
        merged.merge(sums)
    return merged.fits()


def _folds(x: Tensor, y: Tensor, fold: Sequence[Hashable] | Tensor) -> Folds[PairSums]:
    names = fold.tolist() if isinstance(fold, Tensor) else list(fold)
    if len(names) != len(x):
        raise BadInput(f"{len(x)} rows but {len(names)} names of folds")
    number = {name: k for k, name in enumerate(dict.fromkeys(names))}
    of_row = torch.tensor([number[name] for name in names], dtype=torch.int64)
    folds = Folds(lambda: PairSums(moments_of_y=False), max(1, len(number)))
    for k in range(len(number)):
        folds[k].update(x[of_row == k], y[of_row == k])
    return folds
