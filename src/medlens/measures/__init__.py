"""Measures of geometry: pure functions of arrays, and of sums. This table is the list of them.

To add one: write the two functions in a file of its own and add a row. The conformance test picks it up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from medlens.measures.alignment import cka, cka_from_sums
from medlens.measures.contextual import intra_similarity as intra_similarity
from medlens.measures.contextual import mev as mev
from medlens.measures.contextual import mev_centred as mev_centred
from medlens.measures.contextual import self_similarity as self_similarity
from medlens.measures.cosines import mean_cosine, mean_cosine_between, mean_cosine_between_from_sums, mean_cosine_from_sums
from medlens.measures.linear import (
    linearity,
    linearity_from_sums,
    linearity_of_update,
    linearity_of_update_from_sums,
)
from medlens.measures.neighbours import intrinsic_dimension, intrinsic_dimension_from_sums
from medlens.measures.neighbours import intrinsic_dimension_between as intrinsic_dimension_between
from medlens.measures.spectrum import (
    anisotropy,
    anisotropy_from_sums,
    effective_rank,
    effective_rank_from_sums,
    participation_ratio,
    participation_ratio_from_sums,
)
from medlens.measures.turns import angular_distance as angular_distance
from medlens.measures.turns import block_influence as block_influence
from medlens.types import Value

Needs = Literal["pairs", "moments", "cosines", "rows"]


@dataclass(frozen=True)
class Measure:
    """One measure: its function of arrays, its function of sums, and which sums (`needs`) those are."""

    of_arrays: Callable[..., Value]
    of_sums: Callable[..., Value]
    needs: Needs


MEASURES: dict[str, Measure] = {
    "linearity": Measure(linearity, linearity_from_sums, "pairs"),
    "linearity_of_update": Measure(linearity_of_update, linearity_of_update_from_sums, "pairs"),
    "cka": Measure(cka, cka_from_sums, "pairs"),
    "anisotropy": Measure(anisotropy, anisotropy_from_sums, "moments"),
    "participation_ratio": Measure(participation_ratio, participation_ratio_from_sums, "moments"),
    "effective_rank": Measure(effective_rank, effective_rank_from_sums, "moments"),
    "mean_cosine": Measure(mean_cosine, mean_cosine_from_sums, "cosines"),
    "mean_cosine_between": Measure(mean_cosine_between, mean_cosine_between_from_sums, "cosines"),
    "intrinsic_dimension": Measure(intrinsic_dimension, intrinsic_dimension_from_sums, "rows"),
}
