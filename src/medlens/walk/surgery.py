"""Surgery: the model as it is, but for whole blocks dropped, or replaced by linear maps. Context managers: nothing is left behind.

A block under surgery still works, so that positions and caches stay what they were; what it returns is replaced. So this shows
what a smaller model would say, and not how fast it would say it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medlens import hooks
from medlens.errors import BadInput
from medlens.models.base import Model
from medlens.stats.pairs import PairSums
from medlens.walk.cases import Case
from medlens.walk.forward import Tick, walk

TOLERANCE = 1e-6  # of the largest singular value, where there are too few tokens for sums


@dataclass(frozen=True, eq=False)
class LinearMap:
    """What replaces blocks `first` to `last`: x + mean_u + (x - mean_x) a, for a row x of state `first`.

    mean_x, mean_u: (d,), a: (d, d), all float64; fitted to n tokens. note: what limits the map, where something does.
    """

    first: int
    last: int
    mean_x: Tensor
    mean_u: Tensor
    a: Tensor
    n: int
    note: str = ""

    def __call__(self, x: Tensor) -> Tensor:
        """States (..., T, d) behind the blocks, from those in front of them; in x's type, on x's device."""
        a, mean_x, mean_u = (part.to(x.device, x.dtype) for part in (self.a, self.mean_x, self.mean_u))
        return x + mean_u + (x - mean_x) @ a


def fit_map(model: Model, walkers: Sequence[Case], first: int, last: int | None = None, tick: Tick = lambda: None) -> LinearMap:
    """The affine map of state `first` to state `last` + 1 that has the least squared error over all tokens of the cases.

    last: of a run of blocks (default: `first`, one block). With no more tokens than d the map is rank-limited (the shortest one
    that fits), and its note says so. Fit it on discovery images, and judge it on others. The states in front of a run wait in
    memory, a (T, d) for each case. Raises BadInput for blocks that are not there and for fewer than two tokens; NotFinite.
    """
    last = first if last is None else last
    _check(model, range(first, last + 1))
    pairs = _Pairs(first, last)
    walk(model, walkers, [pairs], tick)
    return fitted(pairs.sums, first, last)


def fitted(sums: PairSums, first: int, last: int) -> LinearMap:
    """The map of a run of blocks, from the sums over its states before and behind: see `fit_map`. Raises BadInput."""
    if sums.n < 2:
        raise BadInput(f"a map is fitted to at least 2 tokens; got {sums.n}")
    if sums.joint is not None:
        fit = sums.fits()[0]
        return LinearMap(first, last, fit.mean_x, fit.mean_u, fit.a, sums.n)
    x, y = (torch.cat(list(of.kept.batches())).double() for of in (sums.x, sums.y))
    u, mean_x, mean_u = y - x, x.mean(0), (y - x).mean(0)
    a = torch.linalg.pinv(x - mean_x, rtol=TOLERANCE) @ (u - mean_u)
    note = f"{sums.n} tokens for {x.shape[1]} columns: the map has at most rank {sums.n - 1}"
    return LinearMap(first, last, mean_x, mean_u, a, sums.n, note)


@contextmanager
def blocks_dropped(model: Model, blocks: Sequence[int]) -> Iterator[None]:
    """With these blocks handing on what enters them (ShortGPT, Men et al. 2024). Raises BadInput for none, for blocks that are not
    there, and where nothing would be left."""
    _check(model, blocks)
    if len(set(blocks)) == model.depth:
        raise BadInput(f"all {model.depth} blocks of {model.name} would go: leave at least one")
    with ExitStack() as stack:
        for block in sorted(set(blocks)):
            stack.enter_context(hooks.replaced_output(model.blocks[block], lambda x: x))
        yield


@contextmanager
def blocks_linear(model: Model, maps: Sequence[LinearMap]) -> Iterator[None]:
    """With the blocks of each map replaced by it. Raises BadInput for none, for blocks that are not there or in two maps, and for
    a map of another width."""
    covered = [b for one in maps for b in range(one.first, one.last + 1)]
    _check(model, covered)
    if len(set(covered)) < len(covered):
        raise BadInput(f"a block is replaced by one map; got maps of {', '.join(f'{m.first}-{m.last}' for m in maps)}")
    for one in maps:
        if len(one.a) != model.width:
            raise BadInput(f"a map of {len(one.a)} columns cannot stand in {model.name}, which is {model.width} wide")
    with ExitStack() as stack:
        for one in maps:
            stack.enter_context(hooks.replaced_output(model.blocks[one.first], one))
            for block in range(one.first + 1, one.last + 1):
                stack.enter_context(hooks.replaced_output(model.blocks[block], lambda x: x))
        yield


@contextmanager
def shortened(model: Model, blocks: Sequence[int], maps: Sequence[LinearMap] | None = None) -> Iterator[None]:
    """With these blocks gone, and the maps where they stood: as fast as such a model is. For the model's own forward without a
    cache; what it says is what `blocks_dropped` and `blocks_linear` say. Raises BadInput."""
    _check(model, blocks)
    firsts = {one.first for one in maps or ()}
    left = [block for b, block in enumerate(_skipping(model, blocks, maps)) if b in firsts or b not in blocks]
    with hooks.blocks_as(model.decoder, left):
        yield


@contextmanager
def skipped(model: Model, blocks: Sequence[int], maps: Sequence[LinearMap] | None = None) -> Iterator[None]:
    """`blocks_dropped`, or `blocks_linear` with maps, for walks: the blocks keep their numbers and do not work. Raises BadInput."""
    _check(model, blocks)
    with hooks.blocks_as(model.decoder, _skipping(model, blocks, maps)):
        yield


def _skipping(model: Model, blocks: Sequence[int], maps: Sequence[LinearMap] | None) -> list[nn.Module]:
    standing = {one.first: one for one in maps or ()}
    return [
        hooks.Instead(block, standing.get(b, _unchanged)) if b in blocks else block for b, block in enumerate(model.blocks)
    ]  # fmt: skip


def _unchanged(state: Tensor) -> Tensor:
    return state


class _Pairs:
    """A visitor that sums the states in front of a run of blocks with those behind it."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.sums = PairSums()
        self._before: dict[int, Tensor] = {}

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        if block == self.first:
            self._before[id(case)] = before
        if block == self.last:
            self.sums.update(self._before.pop(id(case)), after)

    def leave(self, block: int) -> None:
        pass

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        pass


def _check(model: Model, blocks: Sequence[int]) -> None:
    if not blocks:
        raise BadInput("no blocks given")
    if wrong := [b for b in blocks if not 0 <= b < model.depth]:
        raise BadInput(f"{model.name} has blocks 0 to {model.depth - 1}; got {wrong[0]}")
