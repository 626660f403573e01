"""Mergeable sums: each has `empty`, `update`, `merge`; any split of the rows into batches or machines gives the same result."""

from medlens.stats.cosines import CosineSums
from medlens.stats.folds import Folds
from medlens.stats.moments import Moments
from medlens.stats.pairs import PairSums
from medlens.stats.rows import RowSample, distinct_rows

__all__ = ["CosineSums", "Folds", "Moments", "PairSums", "RowSample", "distinct_rows"]
