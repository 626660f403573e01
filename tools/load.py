#!/usr/bin/env python3
"""Put load on medlens, and say what it takes: many samples, many blocks, many readers.

    tools/load.py samples --samples 10000    a study of the phantom: time, memory phase by phase, bytes on disk
    tools/load.py tokens                     what one sample of 650 tokens holds in memory while all of them wait
    tools/load.py blocks --blocks 500        a small deep model, stopped and gone on with again and again: what grows?
    tools/load.py readers --samples 1000     the viewer under 50 readers at once

Memory is anonymous memory of the process, as in a run's manifest.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import http.client
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import torch

import medlens
from medlens import unfinished
from medlens._forecast import Forecast
from medlens.budget import Meter, anonymous_memory, readable
from medlens.plan import Plan
from medlens.viewer.data import open_shown
from medlens.viewer.server import Server

WORDS = 650  # tokens of a sample as LLaVA-Med reads it: 576 of the image
IMAGE = 576


class Phases:
    """A watcher: how long each phase takes, and the most memory in it."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []
        self._name, self._began, self._most = "", time.monotonic(), 0
        self.foretold = 0  # bytes of memory

    def planned(self, forecast: Forecast) -> None:
        self.foretold = forecast.memory

    def begin(self, phase: str, steps: int) -> None:
        self.end()
        self._name, self._began, self._most = phase, time.monotonic(), 0

    def tick(self) -> None:
        self._most = max(self._most, anonymous_memory())

    def end(self) -> None:
        self.tick()
        if self._name:
            self.rows.append((self._name, time.monotonic() - self._began, self._most))


def size(folder: Path) -> int:
    """Bytes of all files below a folder, without those that vanish meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def samples(asked: argparse.Namespace, place: Path) -> None:
    phases, out, most, done = Phases(), place / "run", 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(1):
            most = max(most, size(place / "run.part"))

    looker = threading.Thread(target=look)
    looker.start()
    began, used = time.monotonic(), time.process_time()
    try:
        run = medlens.study("phantom", "phantom", Plan(limit=asked.samples), out, watcher=phases)
    finally:
        done.set()
        looker.join()
    phases.end()
    print("phase | seconds | most memory\n---|---|---")
    for name, seconds, memory in phases.rows:
        print(f"{name} | {seconds:.0f} | {readable(memory)}")
    took, processor = time.monotonic() - began, time.process_time() - used
    print(f"\nsamples: {run.samples.height:,}, answered: {run.answers.height:,}, lost: {asked.samples - run.answers.height:,}")
    print(f"time: {took:.0f} s, of it on a processor: {processor:.0f} s")
    print(f"memory: {readable(run.manifest['peak_memory'])} at most, {readable(phases.foretold)} were foretold")
    print(f"on disk: the run {readable(size(out))}, at most {readable(most)} while it was made")


def tokens(_asked: argparse.Namespace, _place: Path) -> None:
    """Read by the code that reads prompts, with a tokenizer that says 650 tokens."""
    model = medlens.load("phantom")
    (sample,) = medlens.phantom.samples(1)
    long = medlens.Sample(image=sample.image, question="lesion " * (WORDS - IMAGE) + sample.question, id="0")
    from medlens.models import prompt as prompts

    seen = prompts.Look(dict, (model.processor.image_token * IMAGE,))
    prompts.read(model, long, seen)  # what is kept once for all
    tracemalloc.start()
    kept = [prompts.read(model, long, seen) for _ in range(100)]
    held = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    print(f"a sample of {len(kept[0])} tokens: {readable(held)}; 10,000 of them: {readable(10_000 * held)}")


def blocks(asked: argparse.Namespace, place: Path) -> None:
    """Stopped after every `--steps` blocks, as a killed process is, and gone on with in the same one."""
    model, plan = deep(asked.blocks), Plan(limit=2, instruments=("geometry",), nulls=(), answers="given", folds=2, thorough=False)
    stops = Stops(asked.steps)
    rows, ended = [], False
    while not ended:
        try:
            medlens.study(model, "phantom", plan, place / "run")
            ended = True
        except KeyboardInterrupt:
            part = place / "run.part"
            states = sum(path.stat().st_size for path in part.glob("state-*"))
            rows.append((stops.at, anonymous_memory(), len(list(Path("/proc/self/fd").iterdir())), states, size(part) - states))
    print("block | memory | open files | states that wait | all else that waits\n---|---|---|---|---")
    for k in sorted({0, len(rows) // 4, len(rows) // 2, 3 * len(rows) // 4, len(rows) - 1}):
        at, memory, files, states, rest = rows[k]
        print(f"{at} | {readable(memory)} | {files} | {readable(states)} | {readable(rest)}")
    run = medlens.open_run(place / "run")
    layers = run.rows["layer"].drop_nulls().unique()
    print(f"\nresumed {len(rows)} times; blocks and states in the run: {len(layers)} of {asked.blocks + 1}; left: {left(place)}")


def left(place: Path) -> str:
    return ", ".join(sorted(p.name for p in place.iterdir() if p.name != "run")) or "nothing"


class Stops:
    """Raise KeyboardInterrupt after every so many blocks."""

    def __init__(self, steps: int) -> None:
        self.at, note = 0, unfinished.Unfinished.note

        def noted(work: unfinished.Unfinished, progress: dict) -> None:
            note(work, progress)
            if progress.get("state", 0) >= self.at + steps:
                self.at = progress["state"]
                raise KeyboardInterrupt

        unfinished.Unfinished.note = noted  # pyright: ignore[reportAttributeAccessIssue]


def deep(count: int) -> medlens.Model:
    """A LLaVA of random weights with so many blocks, and the phantom's vocabulary and tower."""
    from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

    from medlens.phantom.train import blank_model, blank_processor

    config = blank_model(0).config
    config.text_config.update({"num_hidden_layers": count, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8})
    config.text_config.layer_types = None
    torch.manual_seed(0)
    return medlens.load(LlavaForConditionalGeneration(config), blank_processor())


def readers(asked: argparse.Namespace, place: Path) -> None:
    """Each of 50 readers asks for the page and for so many samples, one after the other."""
    medlens.study("phantom", "phantom", Plan(limit=asked.samples), place / "run")
    with Server([open_shown(place / "run")]) as server, Meter() as meter:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(asked.readers) as pool:
            found = list(pool.map(lambda k: read(server.link, k, asked.readers, asked.samples), range(asked.readers)))
        took = time.monotonic() - began
        server.shutdown()
    waits = sorted(wait for waits, _ in found for wait in waits)
    wrong = sum(bad for _, bad in found)
    middle, slow = waits[len(waits) // 2], waits[int(0.99 * len(waits))]
    print(f"{asked.readers} readers, {asked.samples} samples: {len(waits):,} answers in {took:.1f} s, refused or lost: {wrong}")
    print(
        f"an answer takes {1000 * middle:.0f} ms (median), {1000 * slow:.0f} ms (99 of 100); memory {readable(meter.peak)} at most"
    )


def read(link: str, number: int, of: int, count: int) -> tuple[list[float], int]:
    """The seconds of each answer, and how many were none. Every sample is read by one of the readers, the first ones by all."""
    parts, waits, wrong = urlsplit(link), [], 0
    asked = ["/", "/data/index"] + [f"/data/0/sample/{k}" for k in [*range(10), *range(number, count, of)]]
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
    for path in asked:
        began = time.monotonic()
        connection.request("GET", f"{path}?{parts.query}")
        answer = connection.getresponse()
        body = answer.read()
        waits.append(time.monotonic() - began)
        wrong += answer.status != http.HTTPStatus.OK or not body
    connection.close()
    return waits, wrong


KINDS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "samples": samples,
    "tokens": tokens,
    "blocks": blocks,
    "readers": readers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=500)
    parser.add_argument("--steps", type=int, default=10, help="blocks between two stops")
    parser.add_argument("--readers", type=int, default=50)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        KINDS[asked.kind](asked, Path(place))


if __name__ == "__main__":
    sys.exit(main())
