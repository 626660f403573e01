"""Attention knockout in a sliding window of blocks, against a walk of the same questions."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import medlens
from medlens._bench.checkpoint import Decoder, write_checkpoint
from medlens._bench.turns import Job, Table, Turns
from medlens.walk.again import Again
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, walk
from medlens.walk.knockout import Knockout

SHAPE, TOWER = Decoder(depth=8, width=1024, mlp=3584, heads=8, kv_heads=2, vocabulary=2000), "small"
WIDTH, ROUNDS = 2, 5


def section(turns: Turns) -> str:
    table = Table(turns, "of a walk", "what", "seconds")
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "model", SHAPE, TOWER)
        (result,) = turns(Job("knockout", "walked", (str(Path(folder) / "model"),)))
    if result.why:
        return f"## Attention knockout\n\nNot measured: {result.why}."
    plain = result.more["plain"]
    for name, what in (("plain", "a walk"), ("first", "blocked from the first block on"), ("middle", "from the middle on")):
        table.add(f"**{result.more[name] / plain:.2f}**", what, f"{result.more[name]:.2f}")
    return f"## Attention knockout\n\n{ABOUT}\n\n{table}"


ABOUT = f"""No token sees the image in a window of {WIDTH} of {SHAPE.depth} blocks, {SHAPE.width} wide; one question on one image of
576 tokens. A walk computes the image tower, a knockout does not. All take turns in one process, {ROUNDS} times."""


def walked(folder: str) -> Callable[[], dict[str, float]]:
    model = medlens.load(folder)
    sample = medlens.phantom.samples(1, questions="presence")[0]
    laid = cases(model, [prepare(model, sample)])
    middle = SHAPE.depth // 2
    windows = {"first": range(WIDTH), "middle": range(middle, middle + WIDTH)}

    def run() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as states:
            again = Again(model, laid, Path(states))
            jobs: dict[str, Callable[[], None]] = {"plain": lambda: walk(model, laid, [])}
            for name, window in windows.items():
                knockout = Knockout(model, ("image to all",), window)
                jobs[name] = lambda w=window, k=knockout: again.walk(lambda _case, _normed: None, w.start, changed=k)
            taken: dict[str, list[float]] = {name: [] for name in jobs}
            for _ in range(ROUNDS):
                for name, job in jobs.items():
                    began = time.perf_counter()
                    job()
                    taken[name].append(time.perf_counter() - began)
        return {name: median(seconds) for name, seconds in taken.items()}

    return run
