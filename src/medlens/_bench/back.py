"""The way back to the middle of a decoder, against the way there: for one target, and for each further one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from torch import Tensor

import medlens
from medlens._bench.checkpoint import Decoder, write_checkpoint
from medlens._bench.turns import Job, Table, Turns
from medlens.measures.units import attribute
from medlens.saliency import maps
from medlens.saliency.asked import Asked
from medlens.walk.cases import Case, cases
from medlens.walk.forward import prepare, walk
from medlens.walk.reverse import reverse
from medlens.walk.room import Room
from medlens.walk.target import Aim, LogOdds, next_word
from medlens.walk.units import UnitTracer

SHAPE, TOWER = Decoder(depth=8, width=1024, mlp=3584, heads=8, kv_heads=2, vocabulary=2000), "small"
TARGETS, ROUNDS = 5, 7


def section(turns: Turns) -> str:
    table = Table(turns, "of the way there", "what", "seconds")
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "model", SHAPE, TOWER)
        (result,) = turns(Job("back", "walked", (str(Path(folder) / "model"),)))
    if result.why:
        return f"## The way back\n\nNot measured: {result.why}."
    there, one, many = (result.more[name] for name in ("there", "one", "many"))
    further = (many - one) / (TARGETS - 1)
    priced = (
        (there, "there"), (one, "there and back, one target"), (further, "each further target"),
        (result.more["gradcam"], "there and back with attention weights: Grad-CAM at the middle block"),
        (result.more["units"], "there and back through all blocks: every unit's attribution for one word"),
    )  # fmt: skip
    for seconds, what in priced:
        table.add(f"**{seconds / there:.2f}**", what, f"{seconds:.2f}")
    return f"## The way back\n\n{ABOUT}\n\n{table}"


ABOUT = f"""Gradients of a word's log-probability, down to the state in the middle of {SHAPE.depth} blocks, {SHAPE.width}
wide, one question on one image of 576 tokens. A block is entered again on the way back, and the targets of a question share that.
All take turns in one process, {ROUNDS} times."""


class _Units(UnitTracer):
    """Gradient x activation of every unit, summed over tokens."""

    def __init__(self, model: medlens.Model) -> None:
        super().__init__(model, range(model.depth), LogOdds)

    def note(self, block: int, case: Case, target: Aim, value: Tensor, gradient: Tensor) -> None:
        attribute(value, gradient).double().sum(0)


def walked(folder: str) -> Callable[[], dict[str, float]]:
    model = medlens.load(folder)
    sample = medlens.phantom.samples(1, questions="presence")[0]
    laid = cases(model, [prepare(model, sample)])
    aims = [next_word(laid[0], word) for word in range(TARGETS)]
    odds = LogOdds(aims[0].said[0])
    jobs: dict[str, Callable[[], object]] = {
        "there": lambda: walk(model, laid, []),
        "one": lambda: reverse(model, laid, [aims[:1]], [], Room(kept_from=SHAPE.depth // 2)),
        "many": lambda: reverse(model, laid, [aims], [], Room(kept_from=SHAPE.depth // 2)),
        "gradcam": lambda: maps(model, [Asked(laid[0], aims[0])], ["gradcam_attention"], layers=[SHAPE.depth // 2]),
        "units": lambda: reverse(model, laid, [[odds]], [_Units(model)], Room(kept_from=0)),
    }

    def run() -> dict[str, float]:
        taken: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(ROUNDS):
            for name, job in jobs.items():
                began = time.perf_counter()
                job()
                taken[name].append(time.perf_counter() - began)
        return {name: median(seconds) for name, seconds in taken.items()}

    return run
