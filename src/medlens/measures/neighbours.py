"""On how many coordinates the rows lie, judged from each row's two nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.checked import as_rows
from medlens.stats.rows import RowSample
from medlens.types import Value

CHUNK = 1024  # rows of the distance matrix in memory at a time
CANDIDATES = 4  # nearest by matrix product, looked at again exactly


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
    if not 0 < keep < 1:
        raise BadInput(f"keep is a share between 0 and 1; got {keep}")
    x = as_rows(x)
    if len(x) < 3:
        return Value.undefined(len(x), f"{len(x)} rows; two neighbours need 3")
    first, second = two_nearest(x).unbind(1)
    apart = first > resolution * x.norm(dim=1).mean()
    dropped = int((~apart).sum())
    n = len(x) - dropped
    log_mu = (second[apart] / first[apart]).log().sort().values[: int(n * keep)]
    if len(log_mu) < 2:
        why = (
            f"of {n} rows that are no duplicates, keep={keep:g} leaves {len(log_mu)}"
            if n
            else "every row is a duplicate of another"
        )
        return Value.undefined(n, why)
    if log_mu[-1] <= 0:
        return Value.undefined(n, "every row is as far from its second neighbour as from its first")
    rank = -torch.log1p(-torch.arange(1, len(log_mu) + 1, dtype=torch.float64, device=x.device) / n)
    return Value(float(rank @ log_mu / (log_mu @ log_mu)), n, f"{dropped} duplicate rows dropped" if dropped else "")


def intrinsic_dimension_from_sums(sample: RowSample, keep: float = 0.9, resolution: float = 0.0) -> Value:
    """`intrinsic_dimension` of the rows kept in `sample`; `.note` says when they are not all."""
    if sample.rows is None:
        return Value.undefined(0, "0 rows")
    value = intrinsic_dimension(sample.rows, keep, resolution)
    if sample.seen <= sample.cap:
        return value
    notes = [f"{sample.cap} of {sample.seen} rows", value.note]
    return Value(value, value.n, "; ".join(filter(None, notes)))


def two_nearest(x: Tensor) -> Tensor:
    """Distances (n, 2) of each row of x (n, d) to its two nearest others, in float64.

    One matrix product finds candidates; their distances are then computed again from the difference itself, because the product
    loses the digits of what is very near.
    """
    x = x - x.mean(0)
    squares = x.square().sum(1)
    k = min(CANDIDATES, len(x) - 1)
    found = []
    for start in range(0, len(x), CHUNK):
        rows = x[start : start + CHUNK]
        distance = squares - 2 * rows @ x.T  # of one row to all others, but for a constant
        own = torch.arange(len(rows), device=x.device)
        distance[own, start + own] = torch.inf
        near = distance.topk(k, largest=False).indices
        found.append((rows[:, None] - x[near]).norm(dim=2).sort(dim=1).values[:, :2])
    return torch.cat(found)
