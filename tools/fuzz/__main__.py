"""`python -m tools.fuzz [--inputs N] [--seed S] [--target NAME] [--only K]`.

Each target is read in a process of its own, under `guard`; one that dies or hangs is a finding, and the next one goes on behind it.
Input K of a target and seed is always the same, so what is found is found again: `--target NAME --only K`. Exit code 1 where
anything was found.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from tools.fuzz.child import Done, Finding, run
from tools.fuzz.guard import SECONDS
from tools.fuzz.models import phantom
from tools.fuzz.target import Target
from tools.fuzz.targets import TARGETS

SETUP = 600  # seconds that a target may take to make its valid files
FORK = multiprocessing.get_context("fork")  # torch and polars are imported once


def main() -> int:
    """Prints a table of counts, and every finding."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=[t.name for t in TARGETS])
    parser.add_argument("--only", type=int)
    told = parser.parse_args()
    phantom()  # before the processes part
    chosen = [t for t in TARGETS if told.target in (None, t.name)]
    parts, began, whole, findings = sum(t.share for t in chosen), time.monotonic(), Counter[str](), []
    print(f"{'target':<16}{'inputs':>8}{'read':>8}{'refused':>9}{'died':>6}{'wrong':>7}{'MiB more':>10}{'seconds':>9}", flush=True)
    for target in chosen:
        share = -(-told.inputs * target.share // parts)
        numbers = range(share) if told.only is None else range(told.only, told.only + 1)
        then = time.monotonic()
        found, counts, grown = _target(target, numbers, told.seed)
        counts["wrong"] = len({f.number for f in found})
        counts["inputs"] = len(numbers)
        columns = f"{counts['inputs']:>8}{counts['read']:>8}{counts['refused']:>9}{counts['died']:>6}{counts['wrong']:>7}"
        print(f"{target.name:<16}{columns}{grown:>10}{time.monotonic() - then:>9.1f}", flush=True)
        whole, findings = whole + counts, [*findings, *found]
    columns = f"{whole['inputs']:>8}{whole['read']:>8}{whole['refused']:>9}{whole['died']:>6}{whole['wrong']:>7}"
    print(f"{'all':<16}{columns}{time.monotonic() - began:>19.1f}")
    for f in findings:
        print(json.dumps({"again": f"--seed {told.seed} --target '{f.target}' --only {f.number}", "wrong": f.wrong}))
    return int(bool(findings))


def _target(target: Target, numbers: range, seed: int) -> tuple[list[Finding], Counter[str], int]:
    """What was found, how many inputs were read and refused, and the most memory that they took (MiB)."""
    found: list[Finding] = []
    counts: Counter[str] = Counter()
    grown = at = 0
    while numbers:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
            at, died = numbers[0] - 1, ""
            ours, theirs = FORK.Pipe(duplex=False)
            child = FORK.Process(target=_child, args=(target, numbers, seed, Path(place).resolve(), theirs))
            child.start()
            theirs.close()
            while True:
                patience = 6 * SECONDS if at >= numbers[0] else SETUP
                if not ours.poll(patience):
                    child.kill()
                    died = f"nothing for {patience} s, and not to be stopped"
                    break
                try:
                    said = ours.recv()
                except EOFError:
                    break
                if isinstance(said, int):
                    at = said
                    _progress(target, at, numbers)
                elif isinstance(said, Finding):
                    found.append(said)
                elif isinstance(said, Done):
                    counts[said.outcome] += 1
                    grown = max(grown, said.grown)
            child.join()
        if child.exitcode == 0:
            break
        if at < numbers[0]:
            raise RuntimeError(f"{target.name}: its valid files could not be made: {died or child.exitcode}")
        if target.aborts and child.exitcode == -signal.SIGABRT:
            counts["died"] += 1
        else:
            found.append(Finding(target.name, at, died or f"the process died (exit code {child.exitcode})"))
        numbers = range(at + 1, numbers.stop)
    return found, counts, grown


def _child(target: Target, numbers: range, seed: int, place: Path, say: Connection) -> None:
    os.chdir(place)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say of damaged files
    run(target, numbers, seed, place, say.send)


def _progress(target: Target, at: int, numbers: range) -> None:
    if sys.stderr.isatty() and at % 20 == 0:
        print(f"\r{target.name}: {at} of {numbers.stop} ", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
