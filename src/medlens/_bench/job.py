"""One job, in a process of its own: `python -m medlens._bench.job SUBJECT JOB [ARGUMENT ...]`, arguments in JSON. Prints one line.

A job is a function of a subject's file: it gets everything ready and returns what is to be timed; which may return further numbers.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time

from medlens._bench import memory
from medlens.budget import Meter, anonymous_memory
from medlens.errors import MedlensError


def main(subject: str, name: str, *arguments: str) -> None:
    memory.guard()
    run = getattr(importlib.import_module(f"medlens._bench.{subject}"), name)(*map(json.loads, arguments))
    gc.collect()
    before = anonymous_memory()
    with Meter() as meter:
        began = time.perf_counter()
        more = run()
        seconds = time.perf_counter() - began
    grown = (meter.peak - before) / 2**20
    sys.stdout.write(json.dumps({"seconds": seconds, "mib": grown, "more": more if isinstance(more, dict) else {}}) + "\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except MedlensError as e:
        sys.exit(str(e))
