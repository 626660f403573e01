"""What a study will cost, said before it starts: measured on one case, not guessed from a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from medlens.data.intake import Intake
from medlens.instruments.geometry import Geometry
from medlens.measures.neighbours import CHUNK, two_nearest
from medlens.models.base import Model
from medlens.plan import Plan
from medlens.types import GROUPS
from medlens.walk.cases import Case, Prompt
from medlens.walk.forward import walk
from medlens.walk.generate import answer_prompt, decoding_of

BASE_MEMORY = 600 * 2**20  # Python, torch and transformers, imported
BASE_DISK = 3 * 2**20  # tables, charts and the report without pictures
REPORT_SECONDS = 5.0  # drawing the charts
LONG = 2.0  # seconds from which on a pilot is not repeated


@dataclass(frozen=True)
class Forecast:
    """The plan's price: seconds, bytes of memory and disk; and how many tokens walk (packed) of how many there are."""

    samples: int
    images: int
    tokens: int
    tokens_unpacked: int
    seconds: float
    memory: int
    disk: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def foresee(model: Model, intake: Intake, prompts: Sequence[Prompt], laid: Sequence[Case], plan: Plan) -> Forecast:
    """Time one answer and one case (after a first, untimed one that warms up) and scale by tokens and rows."""
    tokens = sum(len(case.pack.ids) for case in laid)
    generate = plan.answers == "generate"
    one_answer = _timed(lambda: answer_prompt(model, prompts[0], decoding_of(plan))) if generate else 0.0
    one_case, fixed = _walking(model, laid[0], plan)
    seconds = one_answer * len(prompts) + one_case * tokens / len(laid[0].pack.ids) + fixed
    seconds += _neighbours(model, laid, plan) + REPORT_SECONDS
    pictures = sum(len(data) for _, data in intake.pictures.values())
    return Forecast(
        len(prompts), len(intake.pictures), tokens, sum(len(p.tokens) for p in prompts), round(seconds, 1),
        _memory(model, laid, tokens, plan), BASE_DISK + 3 * pictures,
    )  # fmt: skip


def _walking(model: Model, case: Case, plan: Plan) -> tuple[float, float]:
    """Seconds for each case like this one, and once for all of them (what is computed when all have passed a block)."""

    def pilot(walkers: int) -> None:
        geometry = Geometry(plan.neighbour_rows, plan.keep, plan.seed)
        walk(model, [case] * walkers, [geometry])
        geometry.rows()

    one = _timed(lambda: pilot(1))
    if one > LONG:
        return one, 0.0
    three = _timed(lambda: pilot(3))
    each = max(three - one, 0.0) / 2
    return each, max(one - each, 0.0)


def _timed(job: Callable[[], object]) -> float:
    """Seconds the job takes; a short one is done twice, because the first time is always slower."""
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        job()
        seconds = time.perf_counter() - began
        if seconds > LONG:
            break
    return seconds


def _neighbours(model: Model, laid: Sequence[Case], plan: Plan) -> float:
    """Seconds for nearest neighbours: they grow with the square of the rows, so a small case does not show them."""
    x = torch.randn(CHUNK, model.width, dtype=torch.float64)
    one = _timed(lambda: two_nearest(x))
    groups = [sum(len(case.where(g)) for case in laid) for g in (*GROUPS, "all")]
    return sum(one * (min(n, plan.neighbour_rows) / CHUNK) ** 2 for n in groups) * (model.depth + 2)


def _memory(model: Model, laid: Sequence[Case], tokens: int, plan: Plan) -> int:
    d, itemsize = model.width, model.dtype.itemsize
    weights = sum(p.numel() * p.element_size() for p in model.module.parameters())
    states = 2 * tokens * d * itemsize
    masks = sum(len(case.pack.ids) ** 2 for case in laid if len(case.prompts) > 1) * itemsize
    sums = len(GROUPS) * 6 * d * d * 8 + len(GROUPS) * 3 * plan.neighbour_rows * d * 8
    return BASE_MEMORY + weights + states + masks + sums + 3 * CHUNK * plan.neighbour_rows * 8
