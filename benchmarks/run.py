"""Time and memory, ours and the peers', side by side in one run. Writes docs/performance.md.

python benchmarks/run.py [--rounds 3] [--quick]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
LINEAR = ("linearity, of the update, anisotropy", "linear_ours", "linear_theirs")
DIMENSION = ("intrinsic dimension (TwoNN)", "dimension_ours", "dimension_theirs")
PAIRS = [(*LINEAR, 8192, 1024), (*LINEAR, 4096, 2048), (*DIMENSION, 2048, 2048), (*DIMENSION, 4096, 2048), (*DIMENSION, 8192, 1024)]
ALONE = [("`medlens --help`", "help_ours"), ("walk of 100 questions on some 20 images, packed", "walk_packed")]
ALONE += [("the same, one by one", "walk_one_by_one")]
PATIENCE = 900  # seconds for one job; what takes over a minute is run once

HEAD = """# Performance

Written by `make bench`, {date}: {cores} cores, {system}, Python {python}, torch {torch}, llm-microscope {peer}. Every job runs in a
process of its own; ours and theirs take turns; medians of {rounds} (of one, for what takes over a minute). Memory is what the peak
grew by. The machine was shared: believe the ratios.

"""


def job(name: str, n: int, d: int) -> dict[str, float] | str:
    """One run: its numbers, or how it ended."""
    command = [sys.executable, str(HERE / "jobs.py"), name, str(n), str(d)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"over {PATIENCE} s"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended by signal {-done.returncode}"
        return "out of memory" if "memory" in last.lower() else last[:80]
    return json.loads(done.stdout)


def turns(names: list[str], n: int, d: int, rounds: int) -> list[dict[str, float] | str]:
    """Medians of several jobs that take turns."""
    found: dict[str, list[dict[str, float] | str]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            slow = any(isinstance(f, str) or f["seconds"] > 60 for f in found[name])
            if not slow:
                found[name].append(job(name, n, d))
    return [_median(found[name]) for name in names]


def _median(runs: list[dict[str, float] | str]) -> dict[str, float] | str:
    numbers = [r for r in runs if not isinstance(r, str)]
    if len(numbers) < len(runs):
        return next(r for r in runs if isinstance(r, str))
    return {key: median(r[key] for r in numbers) for key in ("seconds", "mib")}


def show(result: dict[str, float] | str) -> str:
    return result if isinstance(result, str) else f"{result['seconds']:.2f} s, {result['mib']:.0f} MiB"


def ratio(ours: dict[str, float] | str, peer: dict[str, float] | str) -> str:
    if isinstance(ours, str):
        return "–"
    if isinstance(peer, str):
        return f"**> {PATIENCE / ours['seconds']:.0f} x**" if peer.startswith("over") else "–"
    return f"**{peer['seconds'] / ours['seconds']:.1f} x**"


def compare(rounds: int, quick: bool) -> str:
    lines = [
        "## Geometry of one layer pair",
        "",
        "| times faster | measure | rows | ours | llm-microscope |",
        "| --- | --- | --- | --- | --- |",
    ]
    for what, ours, peer, n, d in PAIRS:
        if quick and what == DIMENSION[0] and n > 2048:
            continue
        a, b = turns([ours, peer], n, d, rounds)
        lines.append(f"| {ratio(a, b)} | {what} | {n} x {d} | {show(a)} | {show(b)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def alone(rounds: int) -> str:
    lines = ["## Whole jobs", "", "| job | time |", "| --- | --- |"]
    for (what, _), result in zip(ALONE, turns([name for _, name in ALONE], 2, 2, rounds), strict=True):
        lines.append(f"| {what} | {result if isinstance(result, str) else format(result['seconds'], '.2f') + ' s'} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="leave out what takes the peer many minutes")
    chosen = parser.parse_args()
    head = HEAD.format(
        date=datetime.now(UTC).date(), cores=os.cpu_count(), system=f"{platform.system()} {platform.machine()}",
        rounds=chosen.rounds, python=platform.python_version(), torch=version("torch"), peer=version("llm-microscope"),
    )  # fmt: skip
    body = "\n\n".join([compare(chosen.rounds, chosen.quick), alone(chosen.rounds)])
    PAGE.write_text(head + body + "\n")
    print(f"wrote {PAGE.relative_to(HERE.parent)}")
