"""One target's inputs, one after another, in this process."""

from __future__ import annotations

import random
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tools.fuzz.guard import SECONDS, Guard, TooSlow, limit_memory
from tools.fuzz.target import Read, Target

from medlens.errors import MedlensError

SECRET = "this lies outside"


class Finding(NamedTuple):
    """What an input did that none may do."""

    target: str
    number: int
    wrong: str


class Done(NamedTuple):
    """An input is done with. outcome: read without an error, refused with one of ours, or wrong; grown: the most memory that was
    taken so far, MiB."""

    outcome: str
    grown: int


def run(target: Target, numbers: range, seed: int, place: Path, say: Callable[[Any], None]) -> None:
    """place: an empty folder; inputs are made in `place`/work from what lies in `place`/seed, and `place`/outside must stay as it
    is, and unread. `say` is told the number of each input, every Finding, and that it is Done.
    """
    work, outside, seeds = (place / name for name in ("work", "outside", "seed"))
    for folder in (work, outside, seeds):
        folder.mkdir()
    (outside / "secret.png").write_text(SECRET)
    made = target.setup(seeds)
    guard = Guard(work, outside)
    _read(target.make(made, _empty(work), random.Random(f"{target.name} warm")))  # imports, pools of threads
    limit_memory()
    before = _peak()
    for number in numbers:
        say(number)
        read = target.make(made, _empty(work), random.Random(f"{target.name} {seed} {number}"))
        began = time.monotonic()
        with guard.watching():
            outcome, why = _read(read)
        slow = time.monotonic() - began > SECONDS and not why
        changed = sorted({p.name for p in place.iterdir()} - {"work", "outside", "seed"}) + _changed(outside)
        for wrong in (why, *guard.seen, *(f"{name} was written" for name in changed), "over the time limit" if slow else ""):
            if wrong:
                say(Finding(target.name, number, wrong))
        say(Done(outcome, _peak() - before))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _read(read: Read) -> tuple[str, str]:
    """What became of it (read, refused, wrong) and, where that is wrong, why."""
    try:
        read()
        return "read", ""
    except MedlensError as e:
        several = len(str(e).splitlines()) != 1
        return ("wrong", f"an error of {len(str(e).splitlines())} lines: {e!r:.300}") if several else ("refused", "")
    except TooSlow:
        return "wrong", f"not done after {SECONDS} s: {_where()}"
    except BaseException as e:
        return "wrong", f"{type(e).__name__}: {str(e)[:200]}: {_where()}"


def _where() -> str:
    frames = [f for f in traceback.extract_tb(sys.exc_info()[2]) if "medlens" in f.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-3:]))


def _changed(outside: Path) -> list[str]:
    whole = [p.name for p in outside.iterdir()] == ["secret.png"] and (outside / "secret.png").read_text() == SECRET
    return [] if whole else ["outside"]


def _empty(work: Path) -> Path:
    for inner in work.iterdir():
        shutil.rmtree(inner) if inner.is_dir() and not inner.is_symlink() else inner.unlink()
    return work
