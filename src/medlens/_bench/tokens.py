"""What a study costs by the number of its tokens: a line and a constant."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import linear_regression

import medlens
from medlens._bench.checkpoint import Decoder, write_checkpoint
from medlens._bench.turns import Job, Result, Table, Turns
from medlens.instruments.geometry import Geometry
from medlens.plan import Plan
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, walk
from medlens.walk.layout import layout_of

SHAPE, TOWER = Decoder(depth=4, width=512, mlp=1792, heads=8, kv_heads=2, vocabulary=2000), "small"
IMAGES = (8, 16, 32, 64)  # eight of them have more image rows than enter the dimension: from there on its cost is the same


def section(turns: Turns) -> str:
    table = Table(turns, "images", "tokens", "time", "memory")
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "model")
        write_checkpoint(Path(place), SHAPE, TOWER)
        sizes = IMAGES[:-1] if turns.quick else IMAGES
        results = turns(*(Job("tokens", "walked", (place, images)) for images in sizes))
    if failed := [r.why for r in results if r.why]:
        return f"## Time and memory by tokens\n\nNot measured: {failed[0]}."
    for images, result in zip(sizes, results, strict=True):
        table.add(images, f"{result.more['tokens']:.0f}", f"{result.seconds:.2f} s", f"{result.mib:.0f} MiB")
    seconds, memory = (_line(results, values) for values in ([r.seconds for r in results], [r.mib for r in results]))
    time, room = f"{seconds[0]:.2f} s + n x {1e3 * seconds[1]:.3f} ms", f"{memory[0]:.0f} MiB + n x {1024 * memory[1]:.2f} KiB"
    table.add("fitted", "n", time, room)
    off = f"Off the lines by at most {100 * seconds[2]:.0f} % (time) and {100 * memory[2]:.0f} % (memory)."
    return f"## Time and memory by tokens\n\n{ABOUT}\n\n{table}\n\n{off}"


ABOUT = f"""A walk with all measures of geometry through {SHAPE.depth} blocks, {SHAPE.width} wide, model loaded before. One question
an image. A token costs its way through the blocks, its part of the sums, and its state; the constant is what does not depend on how
many there are: the sums themselves, eigenvalues, and the nearest neighbours of a bounded sample of rows."""


def _line(results: Sequence[Result], values: list[float]) -> tuple[float, float, float]:
    """Constant, slope, and the largest relative distance from the line."""
    counted = [r.more["tokens"] for r in results]
    slope, constant = linear_regression(counted, values)
    return constant, slope, max(abs(constant + slope * n - v) / v for n, v in zip(counted, values, strict=True))


def walked(folder: str, images: int) -> Callable[[], dict[str, float]]:
    model, plan = medlens.load(folder), Plan()
    prompts = [prepare(model, sample) for sample in medlens.phantom.samples(images, questions="presence")]
    laid = cases(model, prompts)

    def run() -> dict[str, float]:
        geometry = Geometry(plan, layout_of(laid, plan.folds))
        walk(model, laid, [geometry])
        geometry.conclude(model.depth)
        return {"tokens": sum(len(case.pack.ids) for case in laid)}

    return run
