"""How much a token's row depends on what stands around it: three numbers, and one variant."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.measures.cosines import mean_cosine
from medlens.stats.checked import as_rows
from medlens.types import Value

CONSTANT = 1e-12  # centred sum of squares over the raw one, below which rows are all the same
NEAR = 0.1  # of the largest eigenvalue: nearer than that, two are nearly tied


def self_similarity(v: Tensor) -> Value:
    """Mean cosine over all pairs of rows v (n, d), one token in n contexts: 1 where the context changes nothing.

    (|sum of unit rows|^2 - n) / (n (n - 1)), exact. Rows of length zero are left out and counted in `.note`. Undefined below two
    rows. Raises NotFinite, and BadInput for another shape.
    Source: Ethayarajh 2019, How Contextual are Contextualized Word Representations?, section 3.3.
    """
    return mean_cosine(v)


def intra_similarity(x: Tensor, sample: Sequence[Hashable] | Tensor | None = None) -> Value:
    """How alike the rows of one sample are: mean cosine of rows x (n, d) with their sample's mean row, averaged over samples.

    sample: names the sample of each row; without it all rows are one. Each sample counts once, however many rows it has. Rows of
    length zero enter the mean row alone: they have no direction. A sample whose mean row is zero is left out; both are counted in
    `.note`. `.n`: rows that have a cosine. Undefined where no sample is left. Raises NotFinite, and BadInput for another shape, or
    when `sample` does not name as many samples as there are rows. Source: Ethayarajh 2019, section 3.3 (intra-sentence similarity).
    """
    x = as_rows(x)
    names = [None] * len(x) if sample is None else sample.tolist() if isinstance(sample, Tensor) else sample
    if len(names) != len(x):
        raise BadInput(f"{len(x)} rows but {len(names)} sample names")
    rows_of: dict[Hashable, list[int]] = {}
    for i, name in enumerate(names):
        rows_of.setdefault(name, []).append(i)
    return averaged([intra_of_sample(x[rows]) for rows in rows_of.values()])


def intra_of_sample(x: Tensor) -> Value:
    """`intra_similarity` of rows x (n, d) of one sample."""
    x, mean = directed(as_rows(x))
    if not len(x) or not mean.any():
        return Value.undefined(0, "rows whose mean is zero")
    rows = x / x.abs().amax(1, keepdim=True)
    cosines = rows @ (mean / mean.norm()) / rows.norm(dim=1)
    return Value(float(cosines.mean()), len(x))


def directed(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that have a direction, and the mean of all of them; both over the largest entry, so that no square overflows."""
    largest = x.abs().max() if len(x) else x.new_zeros(())
    scaled = x / largest if largest > 0 else x
    return scaled[scaled.abs().amax(1) > 0], scaled.sum(0) / max(len(x), 1)


def averaged(of_samples: Sequence[Value]) -> Value:
    """The mean of what `intra_of_sample` found."""
    found = [value for value in of_samples if value == value]
    if not found:
        return Value.undefined(0, "no sample with rows that have a direction" if of_samples else "no rows")
    lost = len(of_samples) - len(found)
    note = f"{lost} samples whose mean row is zero left out" if lost else ""
    return Value(sum(found) / len(found), sum(value.n for value in found), note)


def mev(v: Tensor) -> Value:
    """Maximum explainable variance: largest squared singular value of rows v (n, d) over their sum, not centred; 1/n or 1/d to 1.

    Not centred, as in the paper's formula, it nearly repeats `self_similarity`; see `mev_centred`. It depends on n: compare at
    equal n. Undefined below two rows (one row scores 1 whatever it is), and where all are zero. `.note` says where the two largest
    are within 10 %: there no jackknife interval holds. Raises NotFinite, and BadInput for another shape.
    Source: Ethayarajh 2019, section 3.3.
    """
    return mev_of_gram(gram_of(as_rows(v)))


def mev_centred(v: Tensor) -> Value:
    """`mev` of the rows v (n, d) less their mean, as the paper's own code computes it: the share of the first principal component.

    Undefined below three rows (two score 1 whatever they are), and where the rows do not vary. Raises as `mev` does.
    Source: Ethayarajh 2019, section 3.3, and its code.
    """
    v = as_rows(v)
    return mev_centred_of_gram(centred_gram_of(v), float(gram_of(v).trace()))


def gram_of(v: Tensor) -> Tensor:
    """Products of rows v (n, d) with each other, (n, n), up to a common factor: rows over their largest entry."""
    largest = v.abs().max() if len(v) else v.new_ones(())
    scaled = v / largest if largest > 0 else v
    return scaled @ scaled.T


def centred_gram_of(v: Tensor) -> Tensor:
    """The same, by the same factor, of the rows less their mean; twice, since the mean of a large column is rounded itself."""
    largest = v.abs().max() if len(v) else v.new_ones(())
    scaled = v / largest if largest > 0 else v
    scaled = scaled - scaled.mean(0)
    scaled = scaled - scaled.mean(0)
    return scaled @ scaled.T


def mev_of_gram(gram: Tensor) -> Value:
    """`mev` of rows from their products with each other, (n, n)."""
    n = len(gram)
    if n < 2:
        return Value.undefined(n, f"{n} rows: one row scores 1 whatever it is")
    if not gram.trace() > 0:
        return Value.undefined(n, "all rows are zero")
    return _largest_share(gram)


def mev_centred_of_gram(centred: Tensor, raw: float) -> Value:
    """`mev_centred` from the products of centred rows (of these, or of more of them: centred again here).

    raw: sum of squares of the same rows, not centred: rounding is told from variation by it.
    """
    n = len(centred)
    if n < 3:
        return Value.undefined(n, f"{n} rows less their mean: two score 1 whatever they are")
    centred = centred - centred.mean(0)
    centred = centred - centred.mean(1, keepdim=True)
    if not centred.trace() > CONSTANT * raw:
        return Value.undefined(n, "the rows do not vary")
    return _largest_share(centred)


def _largest_share(gram: Tensor) -> Value:
    values = torch.linalg.eigvalsh((gram + gram.T) / 2)
    tie = bool(values[-2] >= (1 - NEAR) * values[-1])
    return Value(float(values[-1] / values.sum()), len(gram), "the two largest eigenvalues are within 10 %" if tie else "")
