"""One share of a study, for whoever merges them: the answers of its prompts and, of each block, the sums over its cases.

In a folder: `answers.jsonl`, `part-07.safetensors` for block 7 (one more for the last state), and the states that wait. A part is
there when it is whole. As a program, it takes its orders as JSON on the standard input: a process of `--workers`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medlens._answering import answer_prompts
from medlens._instruments import instruments_for
from medlens._prepare import Nobody, Prepared, prepare
from medlens._tensors import write_tensors
from medlens.errors import BadRun, MedlensError
from medlens.instruments.lens import Reader
from medlens.plan import Plan
from medlens.store import write
from medlens.types import Answer
from medlens.unfinished import Unfinished, locked
from medlens.walk.cases import Prompt, cases
from medlens.walk.forward import steps
from medlens.walk.layout import layout_of
from medlens.walk.room import Files
from medlens.walk.shares import shares

ANSWERED, FAILED = "answered", "failed"
AHEAD = 2  # parts that may lie unread before a worker waits: they are large
PAUSE = 0.05  # seconds between two looks

Tick = Callable[[], None]


class Share:
    """Share `number` (0-based) of `of`, at work in a folder."""

    def __init__(self, prepared: Prepared, number: int, of: int, folder: Path) -> None:
        self.prepared, self.folder = prepared, folder
        laid = cases(prepared.model, prepared.prompts)
        self.layout = layout_of(laid, prepared.plan.folds)
        images = {case.image for case in shares(laid, self.layout, of)[number]}
        self.prompts = [prompt for prompt in prepared.prompts if prompt.image in images]

    def answers(self, tick: Tick) -> tuple[Sequence[Answer | None], list[Prompt]]:
        return answer_prompts(self.prepared, self.prompts, Unfinished(self.folder, self.folder), tick)

    def parts(self, told: Sequence[Prompt], begun: int, tick: Tick) -> Iterator[dict[str, Tensor]]:
        """The sums of every block from `begun` on, and of the last state. Goes on from the states that an earlier one has left
        here; where they are gone, it walks there again."""
        model, plan = self.prepared.model, self.prepared.plan
        laid = cases(model, told)
        reading = instruments_for(plan, self.layout, self.prepared.prompts, reader=Reader(model, self.folder))
        room = Files(self.folder, [len(case.pack.ids) for case in laid], model.width, model.dtype, model.device)
        room.begun = begun if room.holds(begun) else 0
        room.tidy()
        for passed in steps(model, laid, [reading], tick, room):
            part = reading.hand_over() if passed < model.depth else reading.hand_over_last()
            if passed >= begun:
                yield part


def part_of(folder: Path, block: int) -> Path:
    return folder / f"part-{block:02d}.safetensors"


def read_part(folder: Path, block: int) -> dict[str, Tensor]:
    """A part that is there. Raises BadRun for a file that is damaged."""
    try:
        return load_file(part_of(folder, block))
    except (SafetensorError, OSError) as e:
        raise BadRun(
            f"{folder.name}/{part_of(folder, block).name} is missing or damaged; delete it and make the share again"
        ) from e


def write_share(share: Share, begun: int, tick: Tick, room_for_more: Callable[[], bool] = lambda: True) -> None:
    """Answer and walk, and leave all of it in the share's folder. Before each part, wait until there is room for more."""
    _, told = share.answers(tick)
    write(share.folder / ANSWERED, "")
    for block, part in enumerate(share.parts(told, begun, tick), start=begun):
        while not room_for_more():
            time.sleep(PAUSE)
            tick()
        fresh = share.folder / "part.new"
        write_tensors(fresh, part)
        fresh.replace(part_of(share.folder, block))


def main() -> None:
    """A worker: works until all parts are written, or nobody is there any more who wants them."""
    orders, parent = json.load(sys.stdin), os.getppid()
    folder = Path(orders["folder"])
    torch.set_num_threads(orders["threads"])

    def tick() -> None:
        if os.getppid() != parent:
            sys.exit("whoever wanted this is gone")

    try:
        with locked(folder, wait=True):
            prepared = prepare(orders["model"], orders["samples"], Plan.from_dict(orders["plan"]), Nobody(), folder)
            share = Share(prepared, orders["number"], orders["of"], folder)
            write_share(share, orders["begun"], tick, lambda: len(list(folder.glob("part-*.safetensors"))) < AHEAD)
    except MedlensError as e:
        write(folder / FAILED, str(e))
        raise


if __name__ == "__main__":
    main()
