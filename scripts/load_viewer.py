"""The viewer under load: `python scripts/load_viewer.py RUN [READERS] [REQUESTS]`; prints what docs/viewer.md says of it.

Each reader asks for one sample of the run after the other, by a connection of its own each time.
"""

from __future__ import annotations

import http.client
import resource
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

from medlens.viewer.data import open_shown
from medlens.viewer.pieces import opened
from medlens.viewer.server import Server


def main(run: str, readers: str = "50", requests: str = "2000") -> None:
    shown = open_shown(run)
    server = Server([shown])
    Thread(target=server.serve_forever, daemon=True).start()

    def ask(k: int) -> tuple[float, bool]:
        began = time.perf_counter()
        place = k % len(shown.samples)
        link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        link.request("GET", f"/data/0/sample/{place}?token={server.token}")
        whole = opened(link.getresponse().read())["id"] == shown.samples[place]["sample"]
        link.close()
        return 1000 * (time.perf_counter() - began), whole

    began, busy = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(int(readers)) as pool:
        found = list(pool.map(ask, range(int(requests))))
    took = sorted(ms for ms, _ in found)
    right = sum(whole for _, whole in found)
    spent, busy, worst = time.perf_counter() - began, time.process_time() - busy, took[int(0.99 * len(took))]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(shown.samples)} samples, {readers} readers: {right} of {requests} requests answered rightly in {spent:.1f} s;")
    print(f"median {statistics.median(took):.0f} ms, 99 % below {worst:.0f} ms;")
    print(f"{busy:.1f} s of one core and {memory:.0f} MiB, readers and server together")


if __name__ == "__main__":
    main(*sys.argv[1:])
