"""Whether a configuration asks for a model that the weights beside it can fill: before anything of that size is built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medlens.errors import BadModel
from medlens.jsontext import parse
from medlens.models.weights import places_in

LAYERS = {"num_hidden_layers", "num_layers", "n_layers", "n_layer", "depth"}  # each has a weight of its own
SIDES = {"hidden_size", "intermediate_size", "vocab_size", "embed_dim"}  # each is a side of some weight


def check_asked(folder: Path, files: dict[str, Path]) -> None:
    """Raises BadModel where config.json names more layers than `files` (tensor -> file) hold tensors, or a size beyond the longest
    side of any: a few bytes could ask for all memory, or for years."""
    places = [place for file in set(files.values()) for place in places_in(file).values()]
    most, longest = len(places), max((side for place in places for side in place.shape), default=0)
    for key, value in _numbers(parse((folder / "config.json").read_text(encoding="utf-8"))):
        allowed = most if key in LAYERS else longest if key in SIDES else value
        if value > allowed:
            raise BadModel(
                f"{folder}: config.json says {key} = {value}, the weights beside it allow {allowed} at most; "
                "they do not belong together"
            )


def _numbers(told: Any) -> Iterator[tuple[str, int]]:
    """Every whole number that is called something, wherever it stands."""
    left = [told]
    while left:
        found = left.pop()
        for key, value in found.items() if isinstance(found, dict) else ():
            of_none = key in SIDES and "text_config" in found  # PaliGemma's: its parts have sizes of their own
            if isinstance(value, int) and not of_none:
                yield key, value
        left += found.values() if isinstance(found, dict) else found if isinstance(found, list) else []
