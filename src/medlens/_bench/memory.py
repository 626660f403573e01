"""How much memory a job needs: what it allocates, not what it reads. A page of a mapped file can be taken back at any time."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from pathlib import Path

STATUS, AVAILABLE = Path("/proc/self/status"), Path("/proc/meminfo")
EVERY = 0.005  # seconds between two looks
SHARE = 0.8  # of the free memory, that a job may use: one that runs away must not take the machine along
ENOUGH = "out of memory"


def what_is_measured() -> str:
    """For the page: which number this system can give."""
    return "anonymous memory" if STATUS.exists() else "resident memory (this system does not tell mapped files apart)"


def guard() -> None:
    """Let this process fail rather than the machine, where the system says how much is free. (Not by a limit on addresses: what
    draws the report reserves thousands of GiB of them, and uses few.)"""
    if not AVAILABLE.exists():
        return
    most = SHARE * _kib(AVAILABLE, "MemAvailable")

    def look() -> None:
        while _now() < most:
            time.sleep(10 * EVERY)
        os.write(2, f"{ENOUGH}\n".encode())
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


class Growth:
    """By how many MiB the peak of this process grows within the context. Looked at in a thread, where the system can be asked."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._before = self._peak = _now()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Growth:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()
        self.mib = (max(self._peak, _now()) - self._before) / 1024

    def _look(self) -> None:
        while not self._over.is_set():
            self._peak = max(self._peak, _now())
            time.sleep(EVERY)


def _now() -> float:
    """KiB of anonymous memory; elsewhere the highest resident memory so far, which macOS gives in bytes."""
    if STATUS.exists():
        return _kib(STATUS, "RssAnon")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)


def _kib(file: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
