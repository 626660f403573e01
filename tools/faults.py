#!/usr/bin/env python3
"""Let everything go wrong that can, and count what is lost: nothing may be.

A study of a few phantom slices is killed, starved of disk and of memory, sent through time, run twice at once and copied while it
is written. After each fault the same command is given again, without it: it must end, with the same tables to the last byte, or
refuse in one line what it cannot vouch for. Full size: 100 kills, and a fault at every change of a
file. `--every 10` takes each tenth.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medlens import _views
from medlens._explain import explain
from medlens.plan import Plan
from trial import REFUSED, Bench, Count, at_change, clear, die, ending, fail, state, tables

MEBIBYTE = 2**20
DAY = 86_400


class Faults:
    """What goes wrong. kills: at random; every: of the changes of files, each so manieth is struck; times: of all else."""

    def __init__(self, bench: Bench, kills: int, every: int, times: int, seed: int) -> None:
        self.bench, self.kills, self.every, self.times = bench, kills, every, times
        self.out = bench.place / "work" / "run"
        self.chance = random.Random(seed)
        began = time.monotonic()
        bench.study(self.out)
        self.duration = time.monotonic() - began
        clear(self.out.parent)

    def killed(self) -> Iterator[Count]:
        """At random points of time, again and again, and resumed until it ends."""
        count, done = Count("killed at a random moment"), 0
        while count.struck < self.kills:
            child = self.bench.start(self.out)
            time.sleep(self.chance.uniform(0.1, 0.9) * self.duration)
            with suppress(ProcessLookupError):
                os.kill(child, 9)
            count.tried += 1
            if code := self.bench.wait(child):
                count.struck += 1
                count.endings[ending(code)] += 1
                if state(self.out) < done:
                    count.wrong.append(f"lost: state {done} was there, {state(self.out)} is")
                done = state(self.out)
            else:
                self.bench.check(count, self.out)
                done = 0
        self.bench.check(count, self.out)
        yield count

    def killed_at_changes(self) -> Iterator[Count]:
        yield self._at_changes("killed before the k-th change of a file", die)

    def disk_full(self) -> Iterator[Count]:
        yield self._at_changes("disk full at the k-th change of a file", fail(errno.ENOSPC))

    def read_only(self) -> Iterator[Count]:
        yield self._at_changes("file system read-only from the k-th change on", fail(errno.EROFS), self.every * 5)
        yield self._mounted("file system read-only from the start", "size=64m,ro", 1)

    def _at_changes(self, kind: str, do: Callable[[], None], every: int = 0) -> Count:
        count, every, mark = Count(kind), every or self.every, self.bench.place / "struck"
        number = self.chance.randint(1, every)
        while True:  # until there are no more changes than so many
            mark.unlink(missing_ok=True)
            code = self.bench.study(self.out, at_change(number, self.out.parent, do, mark))
            if not mark.exists():
                clear(self.out.parent)
                return count
            if not code:
                count.endings["borne"] += 1
            self.bench.judge(count, self.out, code)
            number += every

    def disk_small(self) -> Iterator[Count]:
        """A file system of so many bytes, which is made larger afterwards: the writes themselves fail, wherever they are made."""
        yield self._mounted("file system too small", "size={}k", self.times)

    def _mounted(self, kind: str, options: str, times: int) -> Count:
        count, place = Count(kind), self.bench.place / "mounted"
        place.mkdir(exist_ok=True)
        size = sum(map(len, self.bench.tables.values())) // 1024
        for k in range(times):
            with mounted(place, options.format(8 + size * (k + 1) // times)) as can:
                if not can:
                    count.kind += " (left out: not allowed to mount)"
                    break
                out = place / "run" if "ro" in options else place / "work" / "run"
                code = self.bench.study(out, expect_room)
                subprocess.run(["mount", "-o", "remount,rw,size=64m", place], check=True)
                self.bench.judge(count, out, code)
        return count

    def memory(self) -> Iterator[Count]:
        """From some block on an address space that is hardly larger than what is in use."""
        count = Count("out of memory")
        for _ in range(self.times):
            at, more = self.chance.randint(0, self.bench.model.depth), self.chance.randint(0, 4) * MEBIBYTE
            code = self.bench.study(self.out, lambda at=at, more=more: at_state(at, lambda: limit_memory(more)))
            self.bench.judge(count, self.out, code)
        yield count

    def clocks(self) -> Iterator[Count]:
        """Days forth and back at each look at the clock. Nothing may strike."""
        count = Count("clock jumps by days, forth and back")
        for k in range(min(self.times, 5)):
            code = self.bench.study(self.out, lambda k=k: jumping(random.Random(k)))
            self.bench.judge(count, self.out, code)
        yield count

    def twice(self) -> Iterator[Count]:
        """Three processes on one run, one after the other at random."""
        count = Count("three processes on one run")
        for _ in range(self.times):
            children = []
            for _ in range(3):
                children.append(self.bench.start(self.out))
                time.sleep(self.chance.uniform(0, 0.6) * self.duration)
            codes = [self.bench.wait(child) for child in children]
            for code in filter(None, codes):
                count.endings[ending(code)] += 1
            if 0 not in codes or not set(codes) <= {0, REFUSED}:
                count.wrong.append(f"three processes end with {codes}: {self.bench.words.read_text()}")
            count.tried, count.struck = count.tried + 3, count.struck + sum(code != 0 for code in codes)
            self.bench.check(count, self.out)
        yield count

    def copied(self) -> Iterator[Count]:
        """The folder copied while it is written; the copy is gone on with."""
        count, place = Count("folder copied while it is written"), self.bench.place / "copies"
        child = self.bench.start(self.out)
        while len(list(place.glob("*"))) < self.times:
            if os.waitpid(child, os.WNOHANG)[0]:
                clear(self.out.parent)
                child = self.bench.start(self.out)
            time.sleep(self.chance.uniform(0.05, 0.3) * self.duration)
            copy(self.out.parent, place / f"{len(list(place.glob('*')))}")
        self.bench.wait(child)
        clear(self.out.parent)
        for folder in sorted(place.iterdir()):
            count.tried, count.struck = count.tried + 1, count.struck + 1
            count.endings[f"at state {min(state(folder / 'run'), self.bench.model.depth + 1)}"] += 1
            self.bench.check(count, folder / "run")
        yield count

    def torn(self) -> Iterator[Count]:
        """Each file of an unfinished run gone, cut in half, empty: gone on with all the same, or refused in one line."""
        yield self._torn("a file gone, cut off or empty", lambda: at_state(self.bench.model.depth // 2, die), self.bench.plan)
        _views.explain = partial(explain, methods=("centre",))  # a map that costs little: a card walks hundreds of times
        plan = replace(self.bench.plan, instruments=("tokens", "maps"), map_images=1)
        yield self._torn("a file of single samples gone, cut off or empty", at_gathering, plan, "views")

    def _torn(self, kind: str, wrong: Callable[[], None], plan: Plan, below: str = "") -> Count:
        """below: only files in this folder of the unfinished run."""
        count, place = Count(kind), self.bench.place / "torn"
        if code := self.bench.study(self.out, plan=plan):
            sys.exit(f"{kind}: without a fault, {code}: {self.bench.words.read_text()}")
        reference = tables(self.out)
        clear(self.out.parent)
        self.bench.study(self.out, wrong, plan=plan)
        part = self.out.with_name(f"{self.out.name}.part")
        files = sorted(p.relative_to(self.out.parent) for p in (part / below).rglob("*") if p.is_file())
        if not files:
            count.wrong.append("nothing was left to be torn")
        for k, name in enumerate(files * 3):
            if k % max(1, self.every // 4):
                continue
            shutil.copytree(self.out.parent, place)
            tear(place / name, k // len(files))
            code = self.bench.study(place / "run", plan=plan)
            count.tried, count.struck = count.tried + 1, count.struck + 1
            count.endings["gone on with" if code == 0 else ending(code)] += 1
            if code == 0 and tables(place / "run") != reference:
                count.wrong.append(f"other tables without {name}")
            if code not in (0, REFUSED):
                count.wrong.append(f"{name}: {self.bench.words.read_text()}")
            shutil.rmtree(place)
        clear(self.out.parent)
        return count

    def workers(self) -> Iterator[Count]:
        """Of two worker processes one is killed once, and is replaced; or every one at once, until it is given up."""
        plan = replace(self.bench.plan, workers=2, nulls=("pairs",))
        yield self._others("a worker killed", b"medlens._share", plan, once=True)
        yield self._others("every worker killed", b"medlens._share", plan, once=False)

    def ray(self) -> Iterator[Count]:
        """The same of Ray's."""
        plan = replace(self.bench.plan, workers=2, nulls=("pairs",), cluster="local")
        yield self._others("a Ray worker killed", b"ray::Worker", plan, once=True)

    def _others(self, kind: str, name: bytes, plan: object, once: bool) -> Count:
        count, chosen = Count(kind), dict[str, Any](plan=plan, model="phantom")
        if code := self.bench.study(self.out, **chosen):
            sys.exit(f"{kind}: without a fault, {code}: {self.bench.words.read_text()}")
        reference = tables(self.out)
        clear(self.out.parent)
        child, killed, code = self.bench.start(self.out, **chosen), 0, None
        while code is None:
            if (state(self.out) or not once) and not (once and killed):
                killed += kill_one(child, name)
            time.sleep(0.02)
            ended, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
        self.bench.judge(count, self.out, code, reference, **chosen)
        if not killed:
            count.wrong.append("nothing was killed")
        count.struck = killed
        count.tried = max(killed, count.tried)
        return count


@contextmanager
def mounted(place: Path, options: str) -> Iterator[bool]:
    """A file system in memory at a place; False where that is not allowed."""
    can = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True).returncode == 0
    try:
        yield can
    finally:
        if can:
            subprocess.run(["umount", place], check=True)


def expect_room() -> None:
    """Let a study believe that there is room: else it says before it begins that there is none."""
    free = shutil.disk_usage("/")._replace(free=2**40)
    shutil.disk_usage = lambda path: free  # pyright: ignore[reportAttributeAccessIssue]


def limit_memory(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))


def jumping(chance: random.Random) -> None:
    for name in ("time", "monotonic"):
        real = getattr(time, name)
        setattr(time, name, lambda real=real: real() + chance.uniform(-3 * DAY, 3 * DAY))


def at_state(number: int, do: Callable[[], None]) -> None:
    from medlens.unfinished import Unfinished

    note = Unfinished.note

    def noted(work: Unfinished, progress: dict) -> None:
        note(work, progress)
        if progress.get("state") == number:
            do()

    Unfinished.note = noted  # pyright: ignore[reportAttributeAccessIssue]


def at_gathering() -> None:
    """Killed when all is found at single samples, and none of it is in the run yet."""
    _views.gather = lambda *_: die()


def tear(path: Path, how: int) -> None:
    if how == 0:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if how == 1 else 0])


def copy(folder: Path, to: Path) -> None:
    """As `cp -r` does: what vanishes meanwhile is missed."""
    with suppress(shutil.Error, FileNotFoundError):
        shutil.copytree(folder, to)


def kill_one(ancestor: int, name: bytes) -> int:
    """Kill one process below `ancestor` whose command line holds `name`."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if name in (process / "cmdline").read_bytes() and ancestor in ancestors(int(process.name)):
                os.kill(int(process.name), 9)
                return 1
    return 0


def ancestors(process: int) -> Iterator[int]:
    while process > 1:
        yield process
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


KINDS = ("killed", "killed_at_changes", "disk_full", "disk_small", "read_only", "memory", "clocks", "twice", "copied", "torn",
         "workers", "ray")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], metavar="KIND", help=f"of {', '.join(KINDS)}; all by default")
    parser.add_argument("--kills", type=int, default=100, help="at random moments")
    parser.add_argument("--every", type=int, default=1, help="of the changes of files, strike each so manieth")
    parser.add_argument("--times", type=int, default=20, help="of every other kind of fault")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts: list[Count] = []
    with tempfile.TemporaryDirectory() as place:
        faults = Faults(Bench(Path(place), asked.samples), asked.kills, asked.every, asked.times, asked.seed)
        for kind in asked.kinds or KINDS:
            for count in getattr(faults, kind)():
                counts.append(count)
                print(count, flush=True)
    wrong = sum(len(count.wrong) for count in counts)
    struck = sum(count.struck for count in counts)
    print(f"faults struck: {struck}, survived: {struck - wrong}, wrong or lost: {wrong}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
