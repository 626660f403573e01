"""Subgroups of the samples (one modality, one organ, ages from 40 to 55): which rows are theirs, and their own folds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from torch import Tensor

from medlens.errors import BadInput
from medlens.types import Sample
from medlens.walk.cases import Case
from medlens.walk.layout import Layout, layout_of

MOST = 20  # values of one field
FIELDS = ("question_type",)  # of a sample; all else are its tags


@dataclass(frozen=True, eq=False)
class Subgroup:
    """samples: whose own rows belong to it. prefixes: the first sample of each prefix (image and what stands before it) that does:
    of those that any of its samples reads. layout: its own folds, as of a study of these samples alone."""

    samples: frozenset[str]
    prefixes: frozenset[str]
    layout: Layout

    def view(self, case: Case) -> Case:
        """The case with only the rows counted that belong to the subgroup."""
        return _view(case, self.samples, self.prefixes)


class Restricted:
    """An instrument that reads one subgroup."""

    def __init__(self, instrument: Any, subgroup: Subgroup) -> None:
        self.instrument, self.subgroup = instrument, subgroup
        self._views: dict[int, Case] = {}  # kept: instruments know a case again by its identity

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        if any((view := self._view(case)).counted):
            self.instrument.visit(block, view, before, after)

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        if any((view := self._view(case)).counted):
            self.instrument.finish(view, raw, normed)

    def _view(self, case: Case) -> Case:
        if id(case) not in self._views:
            self._views[id(case)] = self.subgroup.view(case)
        return self._views[id(case)]

    def __getattr__(self, name: str) -> Any:
        """All else is the instrument's own."""
        return getattr(self.instrument, name)


def subgroups_of(laid: Sequence[Case], by: Sequence[str], folds: int) -> dict[str, Subgroup]:
    """By name ("modality=CT"), in the order of `by` and of their values. laid: all cases of a study. Raises BadInput for a field
    that no sample has, or one of more than 20 values that are no numbers."""
    samples = {prompt.sample.id: prompt.sample for case in laid for prompt in case.prompts}
    found: dict[str, Subgroup] = {}
    for field in dict.fromkeys(by):
        for value, chosen in values_of(list(samples.values()), field).items():
            found[f"{field}={value}"] = _subgroup(laid, frozenset(chosen), folds)
    return found


def refuse_subgroups(by: Sequence[str]) -> None:
    """Raise BadInput where a study that is shared out is to look at subgroups."""
    if by:
        raise BadInput(f"by {' and '.join(by)}: not with --workers, --cluster or --shard yet; leave it out, or walk in one process")


def _subgroup(laid: Sequence[Case], chosen: frozenset[str], folds: int) -> Subgroup:
    prefixes: set[str] = set()
    first = ""
    for case in laid:
        if not any(s == 0 and not c for s, c in zip(case.pack.segments, case.counted, strict=True)):
            first = case.prompts[0].sample.id  # else its prefix is counted with a case before it
        if any(prompt.sample.id in chosen for prompt in case.prompts):
            prefixes.add(first)
    views = [_view(case, chosen, prefixes) for case in laid]
    return Subgroup(chosen, frozenset(prefixes), layout_of([view for view in views if any(view.counted)], folds))


def _view(case: Case, samples: frozenset[str], prefixes: set[str] | frozenset[str]) -> Case:
    own = [case.prompts[0].sample.id in prefixes, *(prompt.sample.id in samples for prompt in case.prompts)]
    return replace(case, counted=tuple(c and own[s] for s, c in zip(case.pack.segments, case.counted, strict=True)))


def values_of(samples: Sequence[Sample], field: str) -> dict[str, list[str]]:
    """The samples (ids) of each value of a field; of many numbers, of each quartile. Those without one are left out."""
    found = {s.id: getattr(s, field) if field in FIELDS else s.tags.get(field) for s in samples}
    found = {sample: value for sample, value in found.items() if value is not None and str(value).strip()}
    if not found:
        known = [f for f in FIELDS if any(getattr(s, f) for s in samples)] + sorted({str(tag) for s in samples for tag in s.tags})
        near = get_close_matches(field, known, 1)
        said = f"; nearest: {near[0]}" if near else ""
        raise BadInput(f"by is {field!r}, which no sample has; there are {', '.join(known) or 'no fields at all'}{said}")
    named = _quartiles(found) or {sample: str(value).strip() for sample, value in found.items()}
    chosen: dict[str, list[str]] = {}
    for sample, name in named.items():
        chosen.setdefault(name, []).append(sample)
    if len(chosen) > MOST:
        raise BadInput(f"by is {field!r}, which has {len(chosen)} values; at most {MOST}: give a tag with fewer")
    numbers = _numbers(found)
    return dict(sorted(chosen.items(), key=(lambda one: numbers[one[1][0]]) if numbers else None))


def _quartiles(found: dict[str, Any]) -> dict[str, str]:
    """The range of each sample's quartile, where the values are more than four numbers; in their order."""
    numbers = _numbers(found)
    if len(set(numbers.values())) <= 4:
        return {}
    cuts = np.quantile(list(numbers.values()), [0.25, 0.5, 0.75])
    quartile = {sample: int(np.searchsorted(cuts, number)) for sample, number in numbers.items()}
    ranges: dict[int, str] = {}
    for k in sorted(set(quartile.values())):
        within = [numbers[sample] for sample, q in quartile.items() if q == k]
        ranges[k] = "-".join(f"{edge:g}" for edge in dict.fromkeys((min(within), max(within))))
    return {sample: ranges[quartile[sample]] for sample in sorted(numbers, key=lambda sample: numbers[sample])}


def _numbers(found: dict[str, Any]) -> dict[str, float]:
    """All values as numbers; empty where any is none."""
    try:
        numbers = {sample: float(value) for sample, value in found.items() if not isinstance(value, bool)}
    except (TypeError, ValueError):
        return {}
    return numbers if len(numbers) == len(found) and all(map(math.isfinite, numbers.values())) else {}
