"""What a study will cost, said before it starts: measured on one case, not guessed from a table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from medlens._nulls import walked_nulls
from medlens._units import PROTOCOLS, published_blocks, shown
from medlens.budget import BASE_MEMORY
from medlens.data.intake import Intake
from medlens.instruments.contextualization import contextualization_bytes
from medlens.instruments.geometry import Geometry, Size, geometry_bytes, states_bytes
from medlens.instruments.lens import Reader, lens_bytes, lens_reads
from medlens.instruments.own import own_bytes
from medlens.measures.lens import ROWS
from medlens.measures.neighbours import CHUNK, two_nearest
from medlens.models.base import Model
from medlens.plan import Plan
from medlens.types import GROUPS
from medlens.walk.cases import Case, Prompt
from medlens.walk.forward import steps
from medlens.walk.generate import answer_prompt, decoding_of
from medlens.walk.layout import followed_of
from medlens.walk.room import STATE_BYTES, Room
from medlens.walk.speak import price
from medlens.walk.subgroups import subgroups_of

BASE_DISK = 3 * 2**20  # tables, charts and the report without pictures
REPORT_SECONDS = 5.0  # drawing the charts
CUBE = 512  # side of the matrix on which factorisations are timed
FACTORISATIONS = 2  # of that price, for each group and state
BACK = 3  # a block on the way back, of its price on the way there
LONG = 2.0  # seconds from which on a pilot is not repeated


@dataclass(frozen=True)
class Forecast:
    """The plan's price: seconds, bytes of memory, of disk for the run, and of disk for what waits between the blocks; and how many
    tokens walk (packed) of how many there are."""

    samples: int
    images: int
    tokens: int
    tokens_unpacked: int
    seconds: float
    memory: int
    disk: int
    scratch: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def foresee(
    model: Model, intake: Intake, prompts: Sequence[Prompt], laid: Sequence[Case], plan: Plan, besides: int = 0
) -> Forecast:
    """Time one answer and the way of one case through one block, and scale by tokens, blocks and rows. besides: walks of single
    samples, which are taken to be as long as the first case."""
    tokens = sum(len(case.pack.ids) for case in laid)
    pilot = _pilot(model, laid[0], plan)
    share = tokens / len(laid[0].pack.ids)
    walking = pilot.enter * len(laid) + model.depth * (pilot.bring + pilot.block * share) + (model.depth + 1) * pilot.leave
    speaking = plan.answers == "generate" and plan.protocol == "sound"
    answering = _answering(model, prompts, plan, pilot, walking) if speaking else 0.0
    subgroups = subgroups_of(laid, plan.by, plan.folds)
    views = [[subgroup.view(case) for case in laid] for subgroup in subgroups.values()]
    walks = 1 + len(walked_nulls(plan))
    reading = walks * (_factorising(model, laid) + _neighbours(model, laid, plan))
    reading += sum(_factorising(model, own) + _neighbours(model, own, plan) for own in views)
    if _has_lens(plan):
        reading += walks * _vocabulary(model, laid, plan)
    reading += besides * (pilot.enter + model.depth * pilot.block)
    seconds = answering + walks * walking + reading + _units_seconds(model, prompts, plan, pilot) + REPORT_SECONDS
    pictures = sum(len(data) for _, data in intake.pictures.values())
    return Forecast(
        len(prompts), len(intake.pictures), tokens, sum(len(p.tokens) for p in prompts), round(seconds, 1),
        _memory(model, laid, plan, views), BASE_DISK + 3 * pictures + states_bytes(_counts(laid), model.width, model.depth),
        _scratch(model, laid, plan),
    )  # fmt: skip


class _Pilot(NamedTuple):
    """Seconds: for a case to enter, for a block's weights to be brought, for a case to pass a block, and for all to leave it."""

    enter: float
    bring: float
    block: float
    leave: float


def _pilot(model: Model, case: Case, plan: Plan) -> _Pilot:
    """Three of one case through the first block; twice where that is quick, because the first time is always slower."""
    began = time.perf_counter()
    with model.here(0):
        bring = time.perf_counter() - began
    found = _Pilot(0.0, 0.0, 0.0, 0.0)
    for _ in range(2):
        geometry = Geometry(plan)
        at = [time.perf_counter()]
        walking = steps(model, [case] * 3, [geometry], lambda at=at: at.append(time.perf_counter()), Room())
        next(walking)
        left = time.perf_counter()
        geometry.leave(0)
        leave = time.perf_counter() - left
        walking.close()
        block = (at[3] - at[1]) / 2
        found = _Pilot(max(0.0, at[1] - at[0] - block - bring) / 3, bring, block, leave)
        if at[3] - at[0] > LONG:
            break
    return found


def _answering(model: Model, prompts: Sequence[Prompt], plan: Plan, pilot: _Pilot, walking: float) -> float:
    """Seconds. Where the model is streamed, every new token reads all of its weights again, for all answers at once."""
    if model.weights is not None:
        passes = price(model, [], plan.max_new_tokens).passes
        return walking + passes * model.depth * pilot.bring
    return len(prompts) * _timed(lambda: answer_prompt(model, prompts[0], decoding_of(plan)))


def _units_seconds(model: Model, prompts: Sequence[Prompt], plan: Plan, pilot: _Pilot) -> float:
    """Seconds for the words of units: a way there, one back (a block again, and its gradients: about three times its price), and
    all units of a block against the whole vocabulary. A case is taken to be as long as the one that was timed."""
    images, blocks = len(shown(prompts, plan.unit_images)), published_blocks(model)
    if plan.protocol != "published" or not images or not blocks:
        return 0.0
    back = model.depth - blocks[0]
    of_case = pilot.enter + (model.depth + BACK * back) * pilot.block
    units = getattr(model.text_config, "intermediate_size", model.width)
    columns, rows = torch.randn(units, model.width), torch.randn(CHUNK, model.width)
    one = _timed(lambda: (columns @ rows.T).max(1))
    decoding = len(blocks) * one * len(model.tokenizer) / CHUNK
    return len(PROTOCOLS) * (images * of_case + decoding) + (model.depth + back) * pilot.bring


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


def _counts(laid: Sequence[Case]) -> dict[str, int]:
    """Rows of each group."""
    return {group: sum(len(case.where(group)) for case in laid) for group in (*GROUPS, "all")}


def _factorising(model: Model, laid: Sequence[Case]) -> float:
    """Seconds for what grows with the cube of the width, or of the rows where they are fewer: one case does not show it."""
    x = torch.randn(CUBE, CUBE, dtype=torch.float64)
    one = _timed(lambda: torch.linalg.eigvalsh(x @ x.T))
    sides = [min(n, model.width) / CUBE for n in _counts(laid).values()]
    return sum(one * side**3 for side in sides) * (model.depth + 2) * FACTORISATIONS


def _neighbours(model: Model, laid: Sequence[Case], plan: Plan) -> float:
    """Seconds for nearest neighbours: they grow with the square of the rows, so a small case does not show them."""
    x = torch.randn(CHUNK, model.width, dtype=torch.float64)
    one = _timed(lambda: two_nearest(x))
    rows = [min(n, plan.neighbour_rows) / CHUNK for n in _counts(laid).values()]
    return sum(one * n**2 for n in rows) * (model.depth + 2)


def _has_lens(plan: Plan) -> bool:
    return "lens" in plan.instruments and plan.protocol == "sound"


def _lengths(laid: Sequence[Case]) -> tuple[int, int, int]:
    """Tokens of the longest reading, images, and questions."""
    longest = max(len(prompt.tokens) for case in laid for prompt in case.prompts)
    return longest, len({case.image for case in laid}), sum(len(case.prompts) for case in laid)


def _vocabulary(model: Model, laid: Sequence[Case], plan: Plan) -> float:
    """Seconds in which the lens reads rows against all words, at every state."""
    unembedding, rows = Reader(model, Path()).unembedding, lens_reads(*_lengths(laid), plan)
    x = torch.zeros(min(rows, ROWS), model.width, dtype=model.dtype, device=model.device)
    one = _timed(lambda: next(unembedding.logits(x)))
    return one * math.ceil(unembedding.words / unembedding.block) * rows / len(x) * (model.depth + 1)


def _memory(model: Model, laid: Sequence[Case], plan: Plan, views: Sequence[Sequence[Case]] = ()) -> int:
    """Bytes, at the most expensive moment: all cases entering, one of them in a block beside the sums, or the sums being read."""
    read = [_counts(each) for each in (laid, *views)]
    sizes = [geometry_bytes(counts, model.width, plan, model.dtype.itemsize) for counts in read]
    held = sum(own_bytes(counts, model.width, plan, model.dtype.itemsize) for counts in read)
    if "contextualization" in plan.instruments:
        images = len({case.image for case in laid})
        held += contextualization_bytes(followed_of(laid), images, model.width, model.dtype.itemsize)
    if _has_lens(plan):
        held += lens_bytes(model, *_lengths(laid), plan)
    sums, longest = Size(held + sum(s.held for s in sizes), max(s.reading for s in sizes)), max(len(case.pack.ids) for case in laid)
    inner = max((getattr(model.text_config, "intermediate_size", 0) or 0), model.width)
    active = longest * (4 * inner + 12 * model.width) * model.dtype.itemsize + longest**2 * 8
    if model.weights is None:
        held = sum(p.numel() * p.element_size() for p in model.module.parameters())
        return BASE_MEMORY + held + max(active + sums.held, sums.held + sums.reading)
    size = {part: model.weights.size(names) for part, names in model.names_of.items()}
    ends = size["around"] + size["norm"] + size["head"]
    block = max(bytes_ for part, bytes_ in size.items() if isinstance(part, int))
    return BASE_MEMORY + max(ends + active, block + active + sums.held, sums.held + sums.reading)


def _scratch(model: Model, laid: Sequence[Case], plan: Plan) -> int:
    """Bytes of disk for states before and behind a block, for masks and positions, and for keys and values of a streamed model's
    answers."""
    states = 2 * sum(len(case.pack.ids) for case in laid) * model.width * STATE_BYTES
    masks = sum(len(case.pack.ids) ** 2 for case in laid if len(case.prompts) > 1) * model.dtype.itemsize
    rotary = sum(len(case.pack.ids) for case in laid) * 4 * model.width
    speaking = model.weights is not None and plan.answers == "generate" and plan.protocol == "sound"
    kept = price(model, laid, plan.max_new_tokens).kept if speaking else 0
    return states + masks + rotary + kept + _units_states(model, laid, plan)


def _units_states(model: Model, laid: Sequence[Case], plan: Plan) -> int:
    """Bytes of disk for the states that the way back to the units returns to."""
    blocks = published_blocks(model)
    if plan.protocol != "published" or not blocks:
        return 0
    longest = max(len(case.pack.ids) for case in laid)
    images = min(plan.unit_images, len({case.image for case in laid}))
    return len(PROTOCOLS) * images * longest * (model.depth - blocks[0] + 2) * model.width * STATE_BYTES
