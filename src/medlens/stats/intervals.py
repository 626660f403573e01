"""Intervals of shares."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` independent units (Wilson 1927, JASA 22:209): sensible at 0 and 1 too.

    Where units come in groups, give the number of groups: that is the widest the interval can honestly be.
    """
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
