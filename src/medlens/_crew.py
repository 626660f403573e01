"""Plain processes that share a study: `--workers N`. They and we meet in folders (see `_share`); one that dies is started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from medlens._share import ANSWERED, FAILED, PAUSE, part_of, read_part
from medlens.errors import MedlensError, WorkerLost
from medlens.plan import Plan
from medlens.types import Answer
from medlens.unfinished import Unfinished

TRIES = 3  # starts of one worker without a part in between


class Processes:
    """`plan.workers` processes. model, samples: by name or path, as each reads them itself. begun: the first block whose sums are
    wanted."""

    def __init__(self, model: str, samples: str, plan: Plan, folder: Path, begun: int) -> None:
        self.count = plan.workers
        self._orders = {"model": model, "samples": samples, "plan": plan.as_dict(), "of": plan.workers}
        self._orders["threads"] = max(1, (os.cpu_count() or 1) // plan.workers)
        self._folders = [folder / f"worker-{k + 1}" for k in range(plan.workers)]
        self._tries = [0] * plan.workers
        self._working: dict[int, subprocess.Popen[bytes]] = {}
        for worker, own in enumerate(self._folders):
            own.mkdir(exist_ok=True)
            for rest in own.glob("part*"):  # what nobody has taken; it will be written again, the same
                rest.unlink()
            self._start(worker, begun)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._working.values():
            process.kill()
            process.wait()

    def answers(self) -> list[list[Answer]]:
        """Of each worker, in the order of its prompts."""
        for worker, folder in enumerate(self._folders):
            self._wait(worker, folder / ANSWERED, 0)
        return [Unfinished(folder, folder).answers() for folder in self._folders]

    def parts(self, block: int) -> Iterator[Mapping[str, Tensor]]:
        """What each worker hands over of a block, one after the other."""
        for worker, folder in enumerate(self._folders):
            part = part_of(folder, block)
            self._wait(worker, part, block)
            yield read_part(folder, block)
            part.unlink()
            self._tries[worker] = 0

    def _wait(self, worker: int, path: Path, block: int) -> None:
        while not path.exists():
            if self._working[worker].poll() is not None and not path.exists():
                self._start(worker, block)
            time.sleep(PAUSE)

    def _start(self, worker: int, begun: int) -> None:
        folder = self._folders[worker]
        failed = folder / FAILED
        if failed.exists():
            raise MedlensError(f"worker {worker + 1}: {failed.read_text(encoding='utf-8')}")
        if self._tries[worker] == TRIES:
            last = (folder / "errors.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise WorkerLost(f"worker {worker + 1} died {TRIES} times at block {begun}: {last[-1] if last else 'killed'}")
        self._tries[worker] += 1
        with (folder / "errors.txt").open("wb") as errors:
            process = subprocess.Popen([sys.executable, "-m", "medlens._share"], stdin=subprocess.PIPE, stderr=errors)
        assert process.stdin is not None
        process.stdin.write(json.dumps({**self._orders, "number": worker, "folder": str(folder), "begun": begun}).encode())
        process.stdin.close()
        self._working[worker] = process
