"""Jobs take turns, each in a process of its own; what comes back are medians, or why there are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import nan
from statistics import median

from medlens._bench.memory import ENOUGH

PATIENCE = 600.0  # seconds for one job
SLOW = 60.0  # seconds from which on a job is run once


@dataclass(frozen=True)
class Job:
    """A function of a subject's file, its arguments, and what its process finds in its environment."""

    subject: str
    name: str
    arguments: tuple[object, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Seconds, MiB that the peak of memory grew by, further numbers of the job; or `why` there are none."""

    seconds: float = nan
    mib: float = nan
    more: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    def __str__(self) -> str:
        return self.why or f"{self.seconds:.2f} s, {self.mib:.0f} MiB"


def faster(ours: Result, theirs: Result) -> str:
    """How many times, for a table; at least so many, where their job was not waited for."""
    if ours.why or (theirs.why and not theirs.why.startswith("over")):
        return "–"
    if theirs.why:
        return f"**> {PATIENCE / ours.seconds:.0f} x**"
    return f"**{theirs.seconds / ours.seconds:.1f} x**"


class Turns:
    """Runs jobs, `rounds` times in turn. tell: is given every line of a table as soon as it is there."""

    def __init__(self, rounds: int, quick: bool, tell: Callable[[str], None]) -> None:
        self.rounds, self.quick, self.tell = rounds, quick, tell

    def __call__(self, *jobs: Job) -> list[Result]:
        """Of each job the median of its runs; one that is slow, or fails, is run once."""
        found: list[list[Result]] = [[] for _ in jobs]
        for _ in range(self.rounds):
            for job, runs in zip(jobs, found, strict=True):
                if not any(r.why or r.seconds > SLOW for r in runs):
                    runs.append(_run(job))
        return [_median(runs) for runs in found]


def _run(job: Job) -> Result:
    command = [sys.executable, "-m", "medlens._bench.job", job.subject, job.name, *map(json.dumps, job.arguments)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False, env={**os.environ, **job.environment}
        )
    except subprocess.TimeoutExpired:
        return Result(why=f"over {PATIENCE:.0f} s")
    if done.returncode == 0:
        return Result(**json.loads(done.stdout.splitlines()[-1]))
    said = done.stderr.strip().splitlines()
    if any("can't allocate memory" in line or "MemoryError" in line for line in said):
        return Result(why=ENOUGH)
    return Result(why=said[-1][:120] if said and done.returncode > 0 else f"ended by signal {-done.returncode}")


def _median(runs: list[Result]) -> Result:
    if failed := [r for r in runs if r.why]:
        return failed[0]
    more = {key: median(r.more[key] for r in runs) for key in runs[0].more}
    return Result(median(r.seconds for r in runs), median(r.mib for r in runs), more)


class Table:
    """A table of the page, as it grows."""

    def __init__(self, turns: Turns, *columns: str) -> None:
        self._tell = turns.tell
        self._lines = [_line(columns), _line(["---"] * len(columns))]

    def add(self, *cells: object) -> None:
        self._lines.append(_line(map(str, cells)))
        self._tell(self._lines[-1])

    def __str__(self) -> str:
        return "\n".join(self._lines)


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"
