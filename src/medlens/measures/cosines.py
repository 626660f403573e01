"""How alike the directions of rows are: mean cosines over pairs, exact and linear in the number of rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from medlens.errors import BadInput
from medlens.stats.checked import as_rows
from medlens.stats.cosines import CosineSums
from medlens.types import Value


def mean_cosine(x: Tensor) -> Value:
    """Mean cosine over all pairs i != j of rows x (n, d): (|sum of unit rows|^2 - n) / (n (n - 1)).

    Rows of length zero have no direction: they are left out (also of `.n`), and `.note` counts them. Undefined below two rows.
    Raises NotFinite, and BadInput for another shape.
    Source: Ethayarajh 2019, How Contextual are Contextualized Word Representations?
    """
    sums = CosineSums()
    sums.update(as_rows(x))
    return mean_cosine_from_sums(sums)


def mean_cosine_between(x: Tensor, image: Sequence[Hashable] | Tensor) -> Value:
    """Mean cosine over the pairs of rows x (n, d) that come from different images; `image` names the image of each row.

    (|sum|^2 - sum of |sums of each image|^2) / (n^2 - sum of n_g^2): the exact baseline for cosines, no draws needed. Undefined
    for fewer than two images. Rows of length zero are left out, as in `mean_cosine`. Raises NotFinite, and BadInput when
    `image` does not name as many images as there are rows. Source: the baseline of Ethayarajh 2019, in closed form.
    """
    x, sums = as_rows(x), CosineSums()
    image = image.tolist() if isinstance(image, Tensor) else image  # elements of a tensor are never equal as keys
    if len(image) != len(x):
        raise BadInput(f"{len(x)} rows but {len(image)} image names")
    rows_of: dict[Hashable, list[int]] = {}
    for i, name in enumerate(image):
        rows_of.setdefault(name, []).append(i)
    for i, rows in enumerate(rows_of.values()):
        sums.update(x[rows], i)
        sums.close()
    return mean_cosine_between_from_sums(sums)


def mean_cosine_from_sums(sums: CosineSums) -> Value:
    """`mean_cosine` of the rows summed in `sums`."""
    n = sums.n
    if n < 2:
        return Value.undefined(n, f"{n} rows that have a direction")
    return Value((float(sums.total.square().sum()) - n) / (n * (n - 1)), n, _zeros(sums))


def mean_cosine_between_from_sums(sums: CosineSums) -> Value:
    """`mean_cosine_between` of the rows summed in `sums`."""
    n, images = sums.n, sums.images
    if images < 2:
        return Value.undefined(n, f"rows of {images} image{'s' * (images != 1)}: no pairs between images")
    pairs, cosines = sums.within()
    return Value(float(sums.total.square().sum() - cosines) / (n * n - pairs), n, _zeros(sums))


def _zeros(sums: CosineSums) -> str:
    return f"{sums.zeros} rows of length zero left out" if sums.zeros else ""
