"""Walking again: cases that have walked once walk on from some block, with the model changed from there on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from medlens import hooks
from medlens.models.base import Model
from medlens.walk.cases import Case
from medlens.walk.forward import Tick, steps
from medlens.walk.room import Files
from medlens.walk.way import Way, through

Finish = Callable[[Case, Tensor], None]  # a case, and its last state behind the final norm, (T, d)
Changed = Callable[[Case, int, Way], Way]  # a case's way to the one that this block is to be called by: see `knockout`


def unchanged(_case: Case, _block: int, way: Way) -> Way:
    return way


class Again:
    """Walks the cases once and keeps every state in files; then from any block on, as often as wanted, under whatever
    intervention is in force. What lies in front of that block, image and tower above all, is not computed a second time."""

    def __init__(self, model: Model, walkers: Sequence[Case], folder: Path, tick: Tick = lambda: None) -> None:
        self.model, self.walkers = model, list(walkers)
        for name in ("once", "again"):
            (folder / name).mkdir(parents=True)
        lengths = [len(case.pack.ids) for case in walkers]
        kind = (lengths, model.width, model.dtype, model.device)
        self._once = Files(folder / "once", *kind, kept_from=0)
        self._again = Files(folder / "again", *kind)
        for _ in steps(model, self.walkers, [], tick, self._once):
            pass

    def state(self, layer: int, number: int) -> Tensor:
        """State `layer`, (T, d), of the case of this number, as it was the first time."""
        return self._once.get(layer, number)

    def walk(
        self, finish: Finish, begin: int | None = None, which: Sequence[int] | None = None, end: int | None = None,
        changed: Changed = unchanged,
    ) -> None:  # fmt: skip
        """From state `begin` on (default: the last one, with nothing to walk), the cases of these numbers (default: all). Calls of
        a block come in the order of `which`. end: stop in front of this block, and finish nothing."""
        model = self.model
        begin = model.depth if begin is None else begin
        chosen = range(len(self.walkers)) if which is None else which
        with hooks.evaluation(model.module):
            for b in range(begin, model.depth if end is None else end):
                room = self._once if b == begin else self._again
                with model.here(b):
                    for k in chosen:
                        way = changed(self.walkers[k], b, self._once.fetch(("way", k)))
                        self._again.put(b + 1, k, through(model, b, way, room.get(b, k)))
                self._again.forget(b)
            if end is None:
                self._finish(finish, self._once if begin == model.depth else self._again, chosen)
        self._again.forget(model.depth if end is None else end)

    def _finish(self, finish: Finish, room: Files, chosen: Sequence[int]) -> None:
        with self.model.here("norm"):
            for k in chosen:
                finish(self.walkers[k], self.model.norm(room.get(self.model.depth, k)[None])[0])
