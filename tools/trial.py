"""A small study of the phantom in a process of its own, in which something goes wrong; and what came of it.

The model is loaded once; each trial is a fork. A trial is judged by files alone: every table of the run that there is in the end is
compared, byte for byte, with the run that nothing happened to, and what was noted as done must still be there after the fault.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import medlens
from medlens import unfinished
from medlens.errors import MedlensError
from medlens.plan import Plan
from medlens.report import charts

REFUSED = 2  # exit code of what medlens refuses in one line
BUG = 1
STUCK = 1000
PATIENCE = 100  # seconds without any work; a study that waits for its workers hears of them sooner
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")  # events of Python's audit hooks, beside files opened to be written

Wrong = Callable[[], None]


class Blank:
    """In the place of what draws charts: they take half the time of a small study, and are no table."""

    @staticmethod
    def vegalite_to_svg(_chart: object) -> str:
        return '<svg viewBox="0 0 1 1" width="1" height="1"></svg>'

    @staticmethod
    def svg_to_png(_svg: str, scale: int = 1) -> bytes:
        return bytes(scale)


@dataclass
class Count:
    """Of one kind of fault. tried: runs in which it was to happen; struck: in which it did; endings of those: how often."""

    kind: str
    tried: int = 0
    struck: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ends = ", ".join(f"{n} {what}" for what, n in sorted(self.endings.items()))
        state = "nothing wrong, nothing lost" if not self.wrong else f"{len(self.wrong)} WRONG: {self.wrong[0]}"
        return f"{self.kind:<46} {self.struck:>4} of {self.tried:>4} struck ({ends}); {state}"


class Bench:
    """The study, the run that nothing happened to, and a place for those that something happens to."""

    def __init__(self, place: Path, samples: int) -> None:
        torch.set_num_threads(1)
        charts.vl_convert = Blank
        self.place, self.log = place, place / "noted"
        self.model = medlens.load("phantom")
        self.plan = Plan(limit=samples, instruments=("lens",), nulls=(), lens_images=1, max_new_tokens=4, folds=2, thorough=False)
        self.whole = place / "whole" / "run"
        if code := self.study(self.whole):
            sys.exit(f"the run that nothing happens to ended with {code}: {self.words.read_text()}")
        self.tables = tables(self.whole)

    def start(self, out: Path, wrong: Wrong | None = None, plan: Plan | None = None, model: Any = None) -> int:
        """Fork a study into `out`; `wrong` is called in the new process, before it begins. Returns its number."""
        self.log.unlink(missing_ok=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        self.words = self.place / "words"
        child = os.fork()
        if child:
            return child
        code = BUG
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            with self.words.open("w") as words:
                os.dup2(words.fileno(), 1)
                os.dup2(words.fileno(), 2)
            self._tell()
            if wrong:
                wrong()
            medlens.study(model or self.model, "phantom", plan or self.plan, out)
            code = 0
        except MedlensError as e:
            print(e, file=sys.stderr, flush=True)
            code = REFUSED
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)

    def _tell(self) -> None:
        """Let this process write down how far it has noted to be."""
        note, log = unfinished.Unfinished.note, self.log

        def noted(work: unfinished.Unfinished, progress: dict) -> None:
            note(work, progress)
            if "state" in progress:  # of the walk; single samples are noted, too
                log.write_text(str(progress["state"]))

        unfinished.Unfinished.note = noted  # pyright: ignore[reportAttributeAccessIssue]

    def wait(self, child: int) -> int:
        """Its exit code; negative for a signal. One that hangs is killed: libraries do, where memory is refused to them."""
        spent, since = -1, time.monotonic()
        while time.monotonic() - since < PATIENCE:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if (now := processor_time(child)) != spent:
                spent, since = now, time.monotonic()
            time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return STUCK

    def study(self, out: Path, wrong: Wrong | None = None, **chosen: Any) -> int:
        return self.wait(self.start(out, wrong, **chosen))

    def judge(self, count: Count, out: Path, code: int, reference: dict[str, bytes] | None = None, **chosen: Any) -> None:
        """What came of a fault: it did nothing, or what is there is refused or gone on with, to the same tables."""
        count.tried += 1
        count.struck += code != 0
        if code:
            count.endings[ending(code)] += 1
        said = self.words.read_text().strip()
        if code == BUG:
            count.wrong.append(f"no error of ours: {said.splitlines()[-1] if said else '?'}")
        if code == REFUSED and len(said.splitlines()) != 1:
            count.wrong.append(f"more than a line: {said}")
        done = int(self.log.read_text() or 0) if self.log.exists() else 0
        if code and done > state(out):
            count.wrong.append(f"lost: state {done} was noted, {state(out)} is there; {said}")
        self.check(count, out, reference, **chosen)

    def check(self, count: Count, out: Path, reference: dict[str, bytes] | None = None, **chosen: Any) -> None:
        """The same command again, with nothing wrong, ends with the same tables and leaves nothing else; then all is cleared."""
        if code := self.study(out, **chosen):
            count.wrong.append(f"the same command again ends with {code}: {self.words.read_text().strip()}")
        elif tables(out) != (reference or self.tables):
            count.wrong.append("other tables")
        elif rest := sorted(p.name for p in out.parent.iterdir() if p != out):
            count.wrong.append(f"left behind: {rest}")
        clear(out.parent)


def tables(run: Path) -> dict[str, bytes]:
    """What is compared: all but the manifest and the report, which say when and how long."""
    kinds = (".parquet", ".safetensors", ".png")
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.suffix in kinds and path.parent.name != "charts"
    }


def state(out: Path) -> int:
    """How far the work has come, by what stands in the files."""
    if (out / "manifest.json").exists():
        return sys.maxsize
    path = out.with_name(f"{out.name}.part") / "progress.json"
    return json.loads(path.read_text())["noted"]["state"] if path.exists() else 0


def processor_time(process: int) -> int:
    """Ticks that its first thread has spent: another one looks at the memory in use, come what may."""
    fields = Path(f"/proc/{process}/task/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def ending(code: int) -> str:
    if code == STUCK:
        return "hung, and killed"
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    return "in one line" if code == REFUSED else "as a bug"


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def at_change(number: int, folder: Path, do: Wrong, mark: Path) -> Wrong:
    """A fault that strikes before the `number`-th change of a file below `folder`: opened to be written, renamed, taken away. mark:
    a file elsewhere that says that it did."""

    def wrong() -> None:
        seen = 0

        def hook(event: str, args: tuple) -> None:
            nonlocal seen
            written = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if (
                (written or event in CHANGES)
                and isinstance(args[0], str | os.PathLike)
                and os.fspath(args[0]).startswith(str(folder))
            ):
                seen += 1
                if seen == number:
                    mark.touch()
                    do()

        sys.addaudithook(hook)

    return wrong


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> Wrong:
    """Raise the system's error of this number."""

    def do() -> None:
        raise OSError(number, os.strerror(number))

    return do
