"""Which blocks go first: by rules that look at discovery images alone, and by two that look at nothing, for comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medlens._flow import flow, one_of_each
from medlens._importance import READING, importance, least_important, reading
from medlens._prune.judging import Bench
from medlens.errors import BadInput, BadModel
from medlens.instruments.importance import RULES as GEOMETRIC
from medlens.models.base import Model
from medlens.walk.forward import Tick

SEARCH, MAGNITUDE, RANDOM = "search", "magnitude", "random"
CHOOSING = (*GEOMETRIC, READING, SEARCH)  # rules by which blocks are chosen; the other two are what they are held against
FOLLOWED = 24  # images on which it is asked where the image is read

Order = list[int]  # of blocks, those that go first in front


def orders(
    model: Model, bench: Bench, most: int, scratch: Path, seed: int, tick: Tick = lambda: None
) -> tuple[dict[str, Order], dict[str, str]]:  # fmt: skip
    """Of each rule its order of blocks, and of those that say nothing here, why. bench: the discovery half; most: how many blocks
    will go at most, and so how far the search goes."""
    prompts = [prompt for case in bench.laid for prompt in case.prompts]
    found: dict[str, Order] = {}
    silent: dict[str, str] = {}
    rows = importance(model, bench.prompts, seed=seed, tick=tick)
    for rule in GEOMETRIC:
        _noted(rule, lambda rule=rule: least_important(rows, rule), found, silent)
    followed = one_of_each(prompts, FOLLOWED)
    told = {"width": 1, "paths": ["image to all"], "seed": seed, "tick": tick}
    _noted(READING, lambda: least_important(reading(flow(model, followed, scratch, **told)), READING, "image"), found, silent)
    found[SEARCH] = searched(bench, most, tick)
    found[MAGNITUDE] = by_magnitude(model)
    return found, silent


def _noted(rule: str, order: Callable[[], Order], found: dict[str, Order], silent: dict[str, str]) -> None:
    try:
        found[rule] = order()
    except (BadInput, BadModel) as e:  # a measure that is undefined here, a family whose attention cannot be blocked
        silent[rule] = str(e)


def searched(bench: Bench, most: int, tick: Tick = lambda: None) -> Order:
    """Greedily: the block goes whose absence, with those that went before, moves the next words least (mean KL divergence from the
    whole model on discovery images). `tick` is called once for each choice tried. Source: Song et al. 2024, SLEB."""
    gone: Order = []
    while len(gone) < most:
        tried = {}
        for block in range(bench.model.depth):
            if block not in gone:
                kl = float(bench.judge([*gone, block]).kl.mean())
                tried[block] = math.inf if math.isnan(kl) else kl
                tick()
        gone.append(min(tried, key=lambda block: (tried[block], block)))
    return gone


def search_steps(depth: int, most: int) -> int:
    """How many choices a search tries."""
    return sum(depth - k for k in range(most))


def by_magnitude(model: Model) -> Order:
    """The block goes first whose matrices have the smallest mean absolute entry. Source: Kim et al. 2024, Shortened LLaMA (Mag)."""
    found = {}
    for block in range(model.depth):
        with model.here(block):
            matrices = [p.detach() for p in model.blocks[block].parameters() if p.ndim > 1]
            found[block] = sum(float(p.abs().double().sum()) for p in matrices) / sum(p.numel() for p in matrices)
    return sorted(found, key=lambda block: (found[block], block))


def random_choices(depth: int, size: int, draws: int, seed: int) -> list[tuple[int, ...]]:
    """Different choices of so many blocks, drawn at random; all of them where there are no more than `draws`."""
    rng, found = np.random.default_rng([seed, size]), dict[tuple[int, ...], None]()
    wanted = min(draws, math.comb(depth, size))
    while len(found) < wanted:
        found[tuple(sorted(int(b) for b in rng.choice(depth, size, replace=False)))] = None
    return list(found)


def sizes(depth: int, budget: float, steps: int) -> list[int]:
    """How many blocks go: every number up to that share of them, or so many steps of it. Raises BadInput where no block would go,
    or none would stay."""
    if not 0 < budget < 1 or math.floor(budget * depth + 1e-9) < 1:
        raise BadInput(
            f"a budget is the share of the {depth} blocks that may go, at least one of them and not all: "
            f"{1 / depth:.3g} to {(depth - 1) / depth:.3g}; got {budget:g}"
        )
    most = math.floor(budget * depth + 1e-9)
    return sorted({math.ceil(most * k / steps) for k in range(1, steps + 1)})


def runs(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Unbroken runs of blocks, first and last."""
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found and found[-1][1] == block - 1:
            found[-1] = (found[-1][0], block)
        else:
            found.append((block, block))
    return found
