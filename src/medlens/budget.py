"""Memory: sizes as people write them, how much is free, and how much was used."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
import threading
from pathlib import Path

from medlens.errors import BadInput

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
BASE_MEMORY = 600 * 2**20  # Python, torch and transformers, imported
STATUS = Path("/proc/self/status")
INTERVAL = 0.02  # seconds between two looks at the memory


def bytes_of(size: str | int) -> int:
    """ "4GiB", "500 MB" or a number as bytes. Raises BadInput."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(size), re.IGNORECASE)
    if not found or found[2].lower() not in UNITS or float(found[1]) <= 0:
        raise BadInput(f"a size of memory is a number with a unit, such as 4GiB or 500MB; got {size!r}")
    return int(float(found[1]) * UNITS[found[2].lower()])


def readable(size: float) -> str:
    """Bytes, as people say them."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def free_memory(device: str = "cpu") -> int:
    """Bytes of memory that nobody uses: of the machine, or of a GPU. What the system caches of files counts as free."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        if found:
            return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # macOS says only how much there is


class Meter:
    """The peak of this process's anonymous memory while the context lasts: what it allocated itself; mapped files are not counted,
    as the system takes their pages back when it needs them. Where the system does not tell them apart, the peak of all of it."""

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._looker = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Meter:
        self._looker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._looker.join()

    def _look(self) -> None:
        while not self._done.is_set():
            self.peak = max(self.peak, anonymous_memory())
            self._done.wait(INTERVAL)


def give_back() -> None:
    """Return to the system what was freed. glibc keeps pieces below 32 MiB for later, and a vision tower is made of such: 2 GiB
    that nobody uses, and that count all the same."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def anonymous_memory() -> int:
    """Bytes of anonymous memory of this process, now; where the system does not say, the peak of all of its memory."""
    if STATUS.exists():
        found = re.search(r"RssAnon:\s+(\d+) kB", STATUS.read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
