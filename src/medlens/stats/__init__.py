"""Mergeable sums: each has `empty`, `update`, `merge`; any split of the rows into batches or machines gives the same result."""

from medlens.stats.cosines import CosineSums
from medlens.stats.moments import Moments, PairSums
from medlens.stats.rows import RowSample, distinct_rows

__all__ = ["CosineSums", "Moments", "PairSums", "RowSample", "distinct_rows"]
