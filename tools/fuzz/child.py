"""One target's inputs, one after another, in this process. Prints a line of JSON for each finding, and one with the counts."""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tools.fuzz.guard import SECONDS, Guard, TooSlow, limit_memory
from tools.fuzz.target import Read, Target

from medlens.errors import MedlensError

SECRET = "this lies outside"


def run(target: Target, numbers: range, seed: int, place: Path) -> None:
    """place: an empty folder; inputs are made in `place`/work from what lies in `place`/seed, and `place`/outside must stay as it is, and unread."""
    outside, work = place / "outside", place / "work"
    outside.mkdir()
    (outside / "secret.png").write_text(SECRET)
    work.mkdir()
    (place / "seed").mkdir()
    made = target.setup(place / "seed")
    guard = Guard(work, outside)
    _read(target.make(made, _empty(work), random.Random(f"{target.name} warm")))  # imports, pools of threads
    limit_memory()
    counts: Counter[str] = Counter()
    for number in numbers:
        print(json.dumps({"at": number}), flush=True)
        read = target.make(made, _empty(work), random.Random(f"{target.name} {seed} {number}"))
        began = time.monotonic()
        with guard.watching():
            outcome, why = _read(read)
        slow = time.monotonic() - began > SECONDS
        changed = [p.name for p in place.iterdir() if p.name not in ("work", "outside", "seed")] + _outside(outside)
        for wrong in (*([why] if why else []), *guard.seen, *changed, *(["over the time limit"] if slow and not why else [])):
            print(json.dumps({"input": number, "wrong": wrong}), flush=True)
        counts[outcome] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps({"counts": counts, "peak MiB": peak}), flush=True)


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


def _outside(outside: Path) -> list[str]:
    whole = [p.name for p in outside.iterdir()] == ["secret.png"] and (outside / "secret.png").read_text() == SECRET
    return [] if whole else ["what lies outside was changed"]


def _empty(work: Path) -> Path:
    for inner in work.iterdir():
        shutil.rmtree(inner) if inner.is_dir() and not inner.is_symlink() else inner.unlink()
    return work


def main() -> Any:
    name, begin, end, seed, place = sys.argv[1:]
    from tools.fuzz.targets import TARGETS

    target = next(t for t in TARGETS if t.name == name)
    run(target, range(int(begin), int(end)), int(seed), Path(place))


if __name__ == "__main__":
    main()
