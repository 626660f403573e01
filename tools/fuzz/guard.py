"""What an input may not do, watched from inside the process that reads it: Python's own audit events, memory, and time."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 10  # an input may take
MEMORY = 2**30  # bytes it may take beyond what the process had before

# Events that no reader has a reason for, and those that are refused outside of the input's own folder (argument: which path).
NEVER = {
    "pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request",
    "ftplib.connect", "http.client.connect", "webbrowser.open",
}  # fmt: skip
CHANGES = {
    "os.remove": 0, "os.rename": 1, "os.mkdir": 0, "os.rmdir": 0, "os.link": 1, "os.symlink": 1, "os.truncate": 0, "os.chmod": 0,
    "os.chown": 0, "os.utime": 0, "shutil.copyfile": 1, "shutil.move": 1, "shutil.unpack_archive": 1,
}  # fmt: skip
BELOW = {"os.remove", "os.rename", "os.mkdir", "os.rmdir"}  # may be below a folder that is open: its number comes last
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class TooSlow(BaseException):
    """Over the time that an input may take. (No Exception: a reader that catches those must not catch this.)"""


class Guard:
    """An audit hook that writes down what was done while an input was read. `allowed`: the one folder that may be written to;
    `forbidden`: one that may not even be read from."""

    def __init__(self, allowed: Path, forbidden: Path) -> None:
        self.allowed, self.forbidden = str(allowed), str(forbidden)
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self, seconds: float = SECONDS) -> Iterator[None]:
        """What is done inside is looked at; it ends with TooSlow after so many seconds."""
        self.seen.clear()
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        self.on = True
        try:
            yield
        finally:
            self.on = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in NEVER:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event in CHANGES:
            below = arguments[-1] if event in BELOW and arguments[-1] not in (-1, None) else None
            folder = "." if below is None else os.readlink(f"/proc/self/fd/{below}")  # noqa: PTH115
            self._changed(event, arguments[CHANGES[event]], folder)
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES:
                self._changed(event, path)
            elif os.fsdecode(path).startswith(self.forbidden):
                self.seen.append(f"read {os.fsdecode(path)}")

    def _changed(self, event: str, path: Any, below: str = ".") -> None:
        if not isinstance(path, str | bytes | os.PathLike):  # a descriptor: it was opened before
            return
        named = os.fsdecode(path)
        whole = os.path.abspath(named if named.startswith("/") else f"{below}/{named}")  # noqa: PTH100 (a Path makes events itself)
        if not whole.startswith(self.allowed) and whole != "/dev/null":
            self.seen.append(f"{event} {whole}")


def limit_memory() -> None:
    """From here on no more than MEMORY beyond what there is: what asks for more gets a MemoryError, or dies."""
    status = Path("/proc/self/status")
    if not status.exists():
        return  # not on this system; the rest holds
    used = next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _stop(*_: object) -> None:
    raise TooSlow
