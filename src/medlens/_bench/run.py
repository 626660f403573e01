"""The benchmark: sections in order, and the page they make."""

from __future__ import annotations

import importlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from medlens._bench import memory, peers
from medlens._bench.turns import PATIENCE, SLOW, Turns
from medlens.errors import BadInput, CannotWrite

SECTIONS = {  # name -> the file it is in, and what it shows
    "whole": "a whole study against the published way",
    "layer": "one layer of the published study",
    "geometry": "measures of one layer pair",
    "streamed": "a decoder that stays on the disk",
    "tokens": "time and memory by tokens",
    "block": "one block of the 7B model",
    "int8": "a block in eight bits",
    "back": "the way back to the middle",
    "knockout": "attention knockout in a window of blocks",
    "small": "help, and packing on the phantom",
    "report": "a report made again from its tables",
    "viewing": "a sample in the viewer",
}


def bench(
    only: Sequence[str] = (),
    *,
    rounds: int = 3,
    quick: bool = False,
    out: Path | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> str:
    """Measure; return the page (markdown), and write it to the file `out`. only: names of SECTIONS. quick: without what takes a
    peer many minutes. tell: is given every line of a table as soon as it is there.

    Raises BadInput for a section that is not there, or no round at all; CannotWrite.
    """
    if unknown := [name for name in only if name not in SECTIONS]:
        raise BadInput(f"no benchmark {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    if rounds < 1:
        raise BadInput(f"rounds is at least 1; got {rounds}")
    if out is not None:
        _check_place(out)
    began, turns, parts = time.monotonic(), Turns(rounds, quick, tell), []
    for name, what in SECTIONS.items():
        if not only or name in only:
            tell(f"{name}: {what}")
            parts.append(importlib.import_module(f"medlens._bench.{name}").section(turns))
    page = "\n\n".join([_head(rounds, (time.monotonic() - began) / 60), *filter(None, parts)]) + "\n"
    if out is not None:
        _save(page, out)
    return page


def _check_place(out: Path) -> None:
    """Said before the work, not after it."""
    if out.is_dir() or not os.access(out.absolute().parent, os.W_OK):
        raise CannotWrite(f"{out} cannot be written: {'it is a folder' if out.is_dir() else 'no such folder, or no permission'}")


def _save(page: str, out: Path) -> None:
    begun = out.with_name(f".{out.name}.part")
    try:
        begun.write_text(page, encoding="utf-8")
        begun.replace(out)
    except OSError as e:
        begun.unlink(missing_ok=True)
        raise CannotWrite(f"{out} cannot be written: {e.strerror}") from e


def _head(rounds: int, minutes: float) -> str:
    return HEAD.format(
        date=datetime.now(UTC).date(), medlens=version("medlens"), cores=os.cpu_count(), peers=peers.versions(),
        system=f"{platform.system()} {platform.machine()}", memory=_total_memory(), rounds=rounds, python=platform.python_version(),
        torch=version("torch"), transformers=version("transformers"), slow=f"{SLOW:.0f}", patience=f"{PATIENCE:.0f}",
        measured=memory.what_is_measured(), minutes=f"{minutes:.0f}",
    )  # fmt: skip


def _total_memory() -> str:
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


HEAD = """# Performance

Measured on {date} with medlens {medlens}: {cores} cores, {memory}, {system}, Python {python}, torch {torch}, transformers
{transformers}; peers: {peers}.

**How to read it.** Ratios come first, and are what to believe: the machine may have been shared. Every job runs in a process of
its own; ours and theirs take turns; numbers are medians of {rounds} (of one, for what takes over {slow} s), and nobody waits longer
than {patience} s. The clock starts when imports are done and the rows, or the questions, lie ready. Memory is what the peak of
{measured} grew by from then on.

**How to repeat it.** `pip install 'medlens[bench]'`, then `medlens bench --out page.md`; this page took {minutes} minutes.
`--quick` leaves out what takes a peer many minutes and does the rest once; `--only NAME` measures one section. In a checkout,
`make bench` writes this page."""
