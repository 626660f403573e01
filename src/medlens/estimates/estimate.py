"""A value, and the same without each fold of whole images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from medlens.types import Value

Key = TypeVar("Key")


@dataclass(frozen=True)
class Estimate:
    """without: by fold; empty where no interval is to be made. conservative: its interval is wider than need be."""

    value: Value
    without: Mapping[int, Value] = field(default_factory=dict)
    conservative: bool = False

    def map(self, change: Callable[[Value], Value]) -> Estimate:
        return Estimate(change(self.value), {k: change(value) for k, value in self.without.items()}, self.conservative)


def estimates(values: Mapping[Key, Value], without: Iterator[tuple[int, Mapping[Key, Value]]]) -> dict[Key, Estimate]:
    """Of many values at once. without: fold by fold, the same values (or some of them) without that fold."""
    rest: dict[Key, dict[int, Value]] = {key: {} for key in values}
    for fold, found in without:
        for key, value in found.items():
            rest[key][fold] = value
    return {key: Estimate(value, rest[key]) for key, value in values.items()}
