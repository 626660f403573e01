"""What a run's manifest says, read back from a folder in which somebody else may have written."""

from __future__ import annotations

from typing import Any

from medlens.errors import BadRun
from medlens.jsontext import parse

DEEPEST = 10_000  # blocks: no model has as many; a report that draws a scale of 2**53 does not end


class Told(dict[str, Any]):
    """A part of a manifest. What it does not say is BadRun to ask for by name (and `get` gives None)."""

    def __missing__(self, name: str) -> Any:
        raise BadRun(f"manifest.json says nothing of {name!r}, which is needed here: it was changed, or another command wrote it")


class Count:
    """A whole number, from 0 on."""

    def __init__(self, most: int = 2**53) -> None:
        self.most = most


# Of what is read again, by name, what it may be: a type, a Count, a list of such, parts of such names (`...`: of any name), or one
# of several. Nothing has to be there, and what is not listed may be anything.
COUNT, NUMBER, NOTHING = Count(), (int, float), type(None)
COUNTED = {"samples": COUNT, "images": COUNT}
ORIGIN = {
    "layout": str,
    "revision": str,
    "weights": str,
    "vision_tower": {"name": str, "used": str, "difference": (*NUMBER, NOTHING)},
}
SHAPE: dict[Any, Any] = {
    "key": str, "created": str, "medlens": str, "command": str, "versions": {...: str}, "identity": {...: str},
    "machine": {"system": str, "processor": str, "cores": (COUNT, NOTHING), "threads": COUNT},
    "peak_memory": COUNT, "seconds": {...: NUMBER}, "share": [COUNT], "shares": COUNT,
    "plan": {
        "instruments": [str], "nulls": [str], "claims": [str], "by": [str], "answers": str, "protocol": str, "folds": COUNT,
        "seed": int, "limit": (COUNT, NOTHING),
    },
    "model": (str, {
        "name": str, "blocks": Count(DEEPEST), "width": COUNT, "parameters": COUNT, "fingerprint": str, "dtype": str, "device": str,
        "vocabulary": (NOTHING, {"words": COUNT, "shares": {...: NUMBER}}), "checks": (NOTHING, {...: NUMBER}), "origin": ORIGIN,
    }),
    "data": COUNTED | {"name": str, "fingerprint": str, "skipped": [str], "may_hold_text": COUNT},
    "forecast": COUNTED | dict.fromkeys(("tokens", "tokens_unpacked", "memory", "disk", "scratch"), COUNT) | {"seconds": NUMBER},
    "neurons": {
        "concepts": [{"word": str, "true": COUNT, "samples": COUNT}], "left": [str], "units": COUNT, "top": COUNT,
        "known": {...: [(*NUMBER, NOTHING)]}, "gate": {...: {"answers": COUNT, "gated": COUNT, "words": str}},
    },
    "reliance": {"samples": COUNT, "left": COUNT, "no_flow": (str, NOTHING)},
    "benchmark": {"samples": COUNT, "tolerance": NUMBER, "nodes": COUNT, "measures": [str]},
    "probe": {"tags": [str], "controls": COUNT, "layers": (COUNT, NOTHING), "feeds": (int, NOTHING), "note": (str, NOTHING)},
    "prune": {
        "discovery": COUNT, "test": COUNT, "maps": [COUNT], "silent": {...: str},
        "checkpoint": {"blocks": [COUNT], "why": str, "tied": bool, "difference": (*NUMBER, NOTHING)},
    },
    "thin": {"draws": COUNT},
}  # fmt: skip


def read_manifest(text: str) -> Told:
    """A manifest from its text. Raises ValueError for what is none, and says where."""
    told = parse(text, Told)
    if not isinstance(told, Told):
        raise ValueError(f"it holds {str(told)[:40]!r}, and no names")
    if (at := _misfit(told, SHAPE)) is not None:
        raise ValueError(f"{' / '.join(at)} is not what medlens writes there")
    return told


def _misfit(value: Any, shape: Any) -> tuple[str, ...] | None:
    """The way to the first place where a value is not of its shape; None where it is."""
    if isinstance(shape, tuple):
        ways = [_misfit(value, one) for one in shape]
        return None if None in ways else max(ways, key=lambda way: len(way or ()))
    if isinstance(shape, dict) and isinstance(value, dict):
        parts = [(name, inner, shape.get(name, shape.get(...))) for name, inner in value.items()]
    elif isinstance(shape, list) and isinstance(value, list):
        parts = [(str(k), inner, shape[0]) for k, inner in enumerate(value)]
    else:
        fits = type(value) is int and 0 <= value <= shape.most if isinstance(shape, Count) else type(value) is shape
        return None if fits else ()
    ways = ((name, _misfit(inner, of)) for name, inner, of in parts if of is not None)
    return next(((name, *way) for name, way in ways if way is not None), None)
