"""From a valid file to a hostile one: bytes that flip, move and end; JSON values of every wrong kind and size."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

NUMBERS = (0, 1, -1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**30, -(2**31), -(2**63))
FLOATS = (float("nan"), float("inf"), -float("inf"), 1e308, -0.0, 5e-324)
OUTWARD = (
    "../outside/secret.png",
    "/etc/passwd",
    "..\\..\\secret",
    "file:///etc/passwd",
    "https://example.org/x",
    "~/x",
    "/dev/zero",
)
TEXTS = (
    *OUTWARD, "", " ", "\0", "a\0b", "\ud800", "\ufeff", "\u202e", "\x1b[2J", "=1+1", "=cmd|' /C calc'!A0", "@SUM(1)",
    "<script>alert(1)</script>", "{{7*7}}", "{% for x in range(10**9) %}x{% endfor %}", "%s%n", "'; drop table x", "a" * 100_000,
    "nan", "None", "__class__", ".", "..", "os:system",
)  # fmt: skip
DEEP = 10_000
Random = random.Random


def some_bytes(data: bytes, rng: Random) -> bytes:
    """One to four changes of single bytes, runs of them, lengths written in them, or the end."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not made:
            return bytes(rng.randbytes(rng.randint(0, 64)))
        rng.choice(BYTES)(made, rng)
    return bytes(made)


def _flip(made: bytearray, rng: Random) -> None:
    made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)


def _flip_early(made: bytearray, rng: Random) -> None:
    made[rng.randrange(min(len(made), 256))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut(made: bytearray, rng: Random) -> None:
    del made[rng.randrange(len(made)) :]


def _remove(made: bytearray, rng: Random) -> None:
    at = rng.randrange(len(made))
    del made[at : at + rng.choice((1, 2, 4, 64, 1024))]


def _insert(made: bytearray, rng: Random) -> None:
    at = rng.randrange(len(made) + 1)
    made[at:at] = rng.choice((b"\0", b"\xff" * 4, b"\n", b'"', rng.randbytes(rng.randint(1, 64)), b"[" * rng.choice((10, DEEP))))


def _number(made: bytearray, rng: Random) -> None:
    """A length or a size, as files write them: 2, 4 or 8 bytes, of either order."""
    form = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    at = rng.randrange(max(1, min(len(made), rng.choice((64, 512, len(made)))) - size))
    made[at : at + size] = struct.pack(form, rng.choice(NUMBERS) % 256**size)


def _double(made: bytearray, rng: Random) -> None:
    begin = rng.randrange(len(made))
    made[begin:begin] = made[begin : begin + rng.choice((4, 64, 1024))]


BYTES: tuple[Callable[[bytearray, Random], None], ...] = (
    _flip,
    _flip_early,
    _flip_early,
    _cut,
    _remove,
    _insert,
    _number,
    _number,
    _double,
)


def value(rng: Random, own: Any = None) -> Any:
    """What does not belong there: another type, a number of another size, a text that leads elsewhere, or itself many times."""
    times = 1000 if isinstance(own, str | int) else 3
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: rng.choice(NUMBERS), lambda: rng.choice(FLOATS), lambda: rng.choice(TEXTS), lambda: rng.choice((None, True, False)),
        lambda: rng.choice(([], {}, [[]], [{}], {"": {}})), lambda: [own] * times, lambda: {str(own): own},
    )  # fmt: skip
    return rng.choice(kinds)()


def some_json(told: Any, rng: Random) -> Any:
    """A copy with one to three of its places changed, removed, renamed or doubled; rarely nested DEEP."""
    made = copy.deepcopy(told)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(made))
        if not places:
            return value(rng, made)
        holder, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind < 7:
            holder[key] = value(rng, holder[key])
        elif kind == 7:
            del holder[key]
        elif kind == 8 and isinstance(holder, dict):
            holder[str(rng.choice((*TEXTS, "auto_map", "__metadata__", "weight_map", "_target_", "trust_remote_code")))] = (
                holder.pop(key)
            )
        else:
            holder[key] = Deep(rng.choice(("[", '{"a":')))
    return made


class Deep:
    """Stands for a value nested DEEP: written by `as_text`, because `json` cannot write one."""

    def __init__(self, opening: str) -> None:
        self.text = opening * DEEP + ("1" if opening != "[" else "") + {"[": "]", '{"a":': "}"}[opening] * DEEP


def as_text(told: Any) -> str:
    """JSON, with what `Deep` stands for."""
    deep: list[Deep] = []

    def other(found: Any) -> str:
        if not isinstance(found, Deep):
            return repr(found)
        deep.append(found)
        return f"@deep{len(deep) - 1}@"

    text = json.dumps(told, default=other)
    for k, found in enumerate(deep):
        text = text.replace(f'"@deep{k}@"', found.text)
    return text


def _places(told: Any, depth: int = 0) -> Any:
    """Every (holder, key) in it; of long lists some."""
    if depth > 20:
        return
    pairs = told.items() if isinstance(told, dict) else enumerate(told[:20]) if isinstance(told, list) else ()
    for key, inner in list(pairs):
        yield told, key
        yield from _places(inner, depth + 1)
