"""What swaps of the image did, as tables: of each question, and summed up by question type, organ, modality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medlens._gate import Gate, Swapped
from medlens._swaps import ALIKE, KINDS
from medlens.errors import BadInput
from medlens.scoring import right
from medlens.stats import grouped
from medlens.types import Sample
from medlens.walk.cases import Prompt
from medlens.walk.subgroups import values_of

Row = dict[str, Any]


class Judged(NamedTuple):
    """One number of one sample, and what it is counted with when intervals are made."""

    sample: str
    unit: str
    number: float


def of_swaps(rows: Sequence[Swapped]) -> list[Row]:
    """Table `reliance`."""
    return [
        {
            "sample": row.sample,
            "swap": row.swap.kind,
            "draw": row.swap.draw,
            "donor": row.swap.donor,
            "before": row.before,
            "after": row.after,
            "shift": row.shift,
            "changed": row.changed,
            "divergence": row.divergence,
        }
        for row in rows
    ]


def of_gates(found: Sequence[Gate]) -> list[Row]:
    """Table `gates`."""
    return [dict(vars(gate)) for gate in found]


def summed_up(
    prompts: Sequence[Prompt], said: Sequence[str], rows: Sequence[Swapped], gates: Sequence[Gate], by: Sequence[str]
) -> list[Row]:  # fmt: skip
    """Table `reliance_by`: of all samples, and of each value of each field, means with intervals over patients (images)."""
    unit = {prompt.sample.id: prompt.unit for prompt in prompts}
    judged: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for gate in gates:
        judged["all", "rests"].append(Judged(gate.sample, unit[gate.sample], float(gate.rests)))
    for row in rows:
        for measure, number in (("changed", float(row.changed)), ("shift", abs(row.shift)), ("divergence", row.divergence)):
            judged[row.swap.kind, measure].append(Judged(row.sample, unit[row.sample], number))
    truths = [(p.sample, text) for p, text in zip(prompts, said, strict=True) if p.sample.answer is not None]
    for sample, text in truths:
        judged["all", "right"].append(Judged(sample.id, unit[sample.id], right(text, str(sample.answer))))
    found = []
    for field, group, members in _groups([prompt.sample for prompt in prompts], by):
        for swap, measure in sorted(judged, key=lambda key: ("all", *KINDS).index(key[0])):
            if kept := [one for one in judged[swap, measure] if one.sample in members]:
                found.append({"by": field, "group": group, "swap": swap, "measure": measure, **mean_of(kept, measure)})
        if own := [sample for sample, _ in truths if sample.id in members]:
            found.append({"by": field, "group": group, "swap": "all", "measure": "guess", **_guess(own, unit)})
    return found


def mean_of(judged: Sequence[Judged], measure: str) -> Row:
    """The mean, with the interval by leaving out one patient (image) at a time."""
    numbers, units = [one.number for one in judged], [one.unit for one in judged]
    value, interval = (grouped.mean_of if measure in ("shift", "divergence") else grouped.share_of)(numbers, units)
    low, high, note = interval
    return {"value": value, "low": low, "high": high, "n": len(judged), "images": len(set(units)), "note": note}


def _guess(samples: Sequence[Sample], unit: Mapping[str, str]) -> Row:
    """The share of the commonest true answer to each type of question: what one reaches who never looks."""
    answers: dict[object, list[str]] = defaultdict(list)
    for sample in samples:
        answers[sample.question_type].append(str(sample.answer).strip().casefold())
    most = sum(max(of.count(answer) for answer in set(of)) for of in answers.values())
    units = len({unit[sample.id] for sample in samples})
    return {"value": most / len(samples), "low": None, "high": None, "n": len(samples), "images": units, "note": ""}


def _groups(samples: Sequence[Sample], by: Sequence[str]) -> list[tuple[str, str, frozenset[str]]]:
    """(field, value, ids of its samples): all, then each value of question type, organ, modality and the fields asked for."""
    tags = {name for sample in samples for name in sample.tags if any(word in name.casefold() for word in ALIKE)}
    fields = [] if all(sample.question_type is None for sample in samples) else ["question_type"]
    found = [("all", "all", frozenset(sample.id for sample in samples))]
    for field in dict.fromkeys([*fields, *sorted(tags), *by]):
        found += _values(samples, field, field in by)
    return found


def _values(samples: Sequence[Sample], field: str, asked: bool) -> list[tuple[str, str, frozenset[str]]]:
    """Nobody asked for organ and modality: where they cannot be used (too many values), they are left out."""
    try:
        return [(field, value, frozenset(ids)) for value, ids in values_of(samples, field).items()]
    except BadInput:
        if asked:
            raise
        return []
