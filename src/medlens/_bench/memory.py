"""Memory of a job: which number it is, and that no job takes the machine along."""

from __future__ import annotations

import os
import threading
import time

from medlens import budget

SHARE = 0.8  # of the free memory, that a job may use
EVERY = 0.05  # seconds between two looks
ENOUGH = "out of memory"


def what_is_measured() -> str:
    """For the page: which number this system can give."""
    return "anonymous memory" if budget.STATUS.exists() else "resident memory (this system does not tell mapped files apart)"


def guard() -> None:
    """Let this process fail rather than the machine. (Not by a limit on addresses: what draws the report reserves thousands of GiB
    of them, and uses few.)"""
    most = SHARE * budget.free_memory()

    def look() -> None:
        while budget.anonymous_memory() < most:
            time.sleep(EVERY)
        os.write(2, f"{ENOUGH}\n".encode())
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
