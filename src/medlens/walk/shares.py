"""Who walks what, when several walk: whole images, by fold, so that each has the sums of few folds."""

from __future__ import annotations

from collections.abc import Sequence

from medlens.walk.cases import Case
from medlens.walk.layout import Layout, rings


def shares(laid: Sequence[Case], layout: Layout, count: int) -> list[list[Case]]:
    """Cut the cases into `count` shares of about as many tokens; partners stay together. Always the same, whoever asks."""
    tokens = dict.fromkeys(layout.fold_of, 0)
    for case in laid:
        tokens[case.image] += len(case.pack.ids)
    share_of, walked, whole = {}, 0, sum(tokens.values())
    for ring in rings(layout.fold_of):
        size = sum(tokens[image] for image in ring)
        share_of |= dict.fromkeys(ring, (walked + size // 2) * count // whole)
        walked += size
    return [[case for case in laid if share_of[case.image] == k] for k in range(count)]
