"""Who walks what, when several walk: whole images, by fold, so that each has the sums of few folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medlens.walk.cases import Case


def shares(laid: Sequence[Case], fold_of: Mapping[str, int], count: int) -> list[list[Case]]:
    """Cut the cases into `count` shares of about the same number of tokens. Always the same, whoever asks."""
    tokens = dict.fromkeys(fold_of, 0)
    for case in laid:
        tokens[case.image] += len(case.pack.ids)
    order = sorted(fold_of, key=lambda image: fold_of[image])  # sorted is stable: within a fold, as they come
    share_of, walked, whole = {}, 0, sum(tokens.values())
    for image in order:
        share_of[image] = (walked + tokens[image] // 2) * count // whole
        walked += tokens[image]
    return [[case for case in laid if share_of[case.image] == k] for k in range(count)]
