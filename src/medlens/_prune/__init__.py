"""What can go: blocks chosen by rules, taken out or made linear, and what that costs in answers. (The function is `prune`.)"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medlens import _record, store
from medlens._prepare import Nobody, Prepared, Watcher, prepare
from medlens._prune.checkpoint import shortened_checkpoint
from medlens._prune.choose import CHOOSING, RANDOM, orders, random_choices, runs, search_steps, sizes
from medlens._prune.cost import cost, seconds
from medlens._prune.fitting import Fitting
from medlens._prune.judging import Bench, Said
from medlens.budget import Meter
from medlens.errors import BadInput, CannotWrite
from medlens.findings import Findings
from medlens.models import Model
from medlens.phantom import questions
from medlens.plan import Plan
from medlens.report.pruned import write_pruned
from medlens.stats.grouped import mean_of, share_of
from medlens.types import Answer, Sample
from medlens.unfinished import explained, unfinished
from medlens.walk.cases import Prompt
from medlens.walk.generate import answers, decoding_of
from medlens.walk.maps import save_maps

PHANTOM_SAMPLES, PHANTOM_BUDGET, BUDGET = 600, 0.5, 0.25
HARDER = ("type", "place", "side", "relation", "larger")  # kinds of question that need more than a glance
DRAWS, STEPS = 20, 8
CHECKED = 4  # prompts on which the written checkpoint is held against the model it was made of
CHECKPOINT, MAPS = "checkpoint", "linear"

Row = dict[str, Any]


def prune(
    model: Model | str | Path = "phantom",
    samples: Sequence[Sample] | str | Path = "phantom",
    out: str | Path = "runs/prune",
    plan: Plan = Plan(),  # noqa: B008 (frozen)
    *,
    budget: float | None = None,
    draws: int = DRAWS,
    watcher: Watcher | None = None,
) -> store.Run:
    """Find out which blocks a model can do without, take them out, and write a run with what that costs, and the checkpoint.

    budget: the share of the blocks that may go (default 0.25; on the phantom's own slices 0.5). At up to eight sizes up to that,
    blocks are chosen by rules on one half of the images (patients, where the data name them), and judged on the other: dropped,
    and replaced by least-squares maps fitted on the first half. The rule that keeps the most answers on the first half is the one
    that chooses. Against it stand `draws` random choices of as many blocks, and the blocks with the smallest weights. plan: limit,
    seed, how answers are written and the model is loaded.

    The run has the table `pruned`, a page, report.html, the folder `checkpoint` (the model without the blocks that were chosen at
    the whole budget, in the layout it has) and `linear` (the maps for as many: see `medlens.walk.maps`).
    Raises a MedlensError: see `study`, and BadInput for a budget of no block or all of them, fewer than two images on either half.
    """
    watcher, out = watcher or Nobody(), Path(out)
    _check(plan, draws)
    store.check_place(out)
    if str(samples) == "phantom":
        samples = questions.samples(plan.limit or PHANTOM_SAMPLES, plan.seed, HARDER)
        budget = PHANTOM_BUDGET if budget is None else budget
    budget = BUDGET if budget is None else budget
    with Meter() as meter, explained(out):
        prepared = prepare(model, samples, plan, watcher)
        counts = sizes(prepared.model.depth, budget, STEPS)
        halves = _halves(prepared.prompts, plan.seed)
        asked = hashlib.sha256(json.dumps([budget, draws]).encode()).hexdigest()[:16]
        identity = prepared.identity | {"prune": asked}
        if (done := store.finished(out, identity)) is not None:
            return done
        began = time.monotonic()
        with unfinished(out, identity, None if plan.scratch is None else Path(plan.scratch)) as work:
            job = _Job(prepared, halves, counts, draws, work.scratch, watcher)
            job.run()
            with work.becoming(out) as folder:
                job.write(folder, model)
                took = {"walking": round(time.monotonic() - began, 2)}
                told = {"budget": budget, "draws": draws, "sizes": counts} | job.told
                store.write_manifest(folder, prepared.manifest(identity, took, meter.peak) | {"prune": told})
                write_pruned(folder)
    return store.open_run(out)


def _check(plan: Plan, draws: int) -> None:
    if plan.workers > 1 or plan.cluster is not None:
        raise BadInput("blocks are taken out in one process: leave out workers and cluster")
    if plan.answers != "generate" or plan.temperature:
        raise BadInput("what is kept is the model's own greedy answers: leave out given answers and temperature")
    if plan.scratch is not None and not Path(plan.scratch).is_dir():
        raise CannotWrite(f"the scratch folder {plan.scratch} is not there; make it, or choose another --scratch")
    if draws < 1:
        raise BadInput(f"a choice is held against at least one random one; got {draws} draws")


def _halves(prompts: Sequence[Prompt], seed: int) -> dict[str, list[Prompt]]:
    """Discovery and test: whole patients (images), at random. Raises BadInput where one would have fewer than two."""
    units = list(dict.fromkeys(prompt.unit for prompt in prompts))
    if len(units) < 4:
        raise BadInput(
            f"blocks are chosen on some images and judged on others, two or more each: "
            f"{len(units)} image{'s' * (len(units) != 1)} (patients) are too few"
        )
    drawn = np.random.default_rng(seed).permutation(len(units))
    discovery = {units[k] for k in drawn[: len(units) // 2]}
    return {
        "discovery": [prompt for prompt in prompts if prompt.unit in discovery],
        "test": [prompt for prompt in prompts if prompt.unit not in discovery],
    }


class _Job:
    """Chooses, cuts and judges; then writes what came of it."""

    def __init__(
        self, prepared: Prepared, halves: dict[str, list[Prompt]], counts: list[int], draws: int, scratch: Path, watcher: Watcher
    ) -> None:
        self.prepared, self.halves, self.counts, self.draws = prepared, halves, counts, draws
        self.scratch = Path(tempfile.mkdtemp(dir=scratch))  # not where one who was killed has left states
        self.watcher, self.seed = watcher, prepared.plan.seed
        self.model = prepared.model
        self.said: dict[str, Answer] = {}
        self.rows: list[Row] = []
        self.told: dict[str, Any] = {half: len({p.unit for p in of}) for half, of in halves.items()}
        self.best: dict[str, tuple[int, ...]] = {}  # of each way the blocks chosen at the whole budget
        self._judged: dict[tuple[str, str, tuple[int, ...]], Said] = {}

    def run(self) -> None:
        watcher, prompts = self.watcher, self.prepared.prompts
        watcher.begin("answering", len(prompts))
        written = answers(self.model, prompts, decoding_of(self.prepared.plan), watcher.tick, self.scratch)
        self.said = {p.sample.id: answer for p, answer in zip(prompts, written, strict=True)}
        self.benches = {half: self._bench(half) for half in self.halves}
        self.fitting = Fitting(self.benches["discovery"])
        found = self._orders()
        most, hows = self.counts[-1], ("drop", "linear")
        drawn = {size: random_choices(self.model.depth, size, self.draws, self.seed) for size in self.counts}
        watcher.begin("judging", len(self.counts) * len(found) * len(hows) + sum(map(len, drawn.values())))
        self._whole()
        for size in self.counts:
            for how in hows:
                self._by_rules({rule: tuple(sorted(order[:size])) for rule, order in found.items()}, how, size == most)
            for draw, blocks in enumerate(drawn[size]):
                self.rows.append(self._row(RANDOM, "drop", blocks) | {"draw": draw})
                watcher.tick()
        self._time()

    def _bench(self, half: str) -> Bench:
        prompts = self.halves[half]
        said = [self.said[prompt.sample.id] for prompt in prompts]
        self.watcher.begin(f"walking {half} images", 1)
        bench = Bench(self.model, prompts, said, self.scratch / half, self.seed, others=half == "test")
        self.watcher.tick()
        return bench

    def _orders(self) -> dict[str, list[int]]:
        depth, most, bench = self.model.depth, self.counts[-1], self.benches["discovery"]
        self.watcher.begin("choosing blocks", depth * len(bench.laid) + depth + 1 + search_steps(depth, most))
        found, silent = orders(self.model, bench, most, self.scratch / "flow", self.seed, self.watcher.tick)
        self.told |= {"orders": found, "silent": silent}
        return found

    def _by_rules(self, choices: dict[str, tuple[int, ...]], how: str, last: bool) -> None:
        """Rows of every rule at one size; the one that keeps the most answers on discovery images (ties: the lowest divergence,
        then the first rule) is the chosen one."""
        tried = {rule: self._judge("discovery", how, blocks) for rule, blocks in choices.items()}
        order = {rule: (-_mean(of.kept), _mean(of.kl)) for rule, of in tried.items() if rule in CHOOSING}
        chosen = min(order, key=lambda rule: order[rule])
        if last:
            self.best[how] = choices[chosen]
        for rule, blocks in choices.items():
            found = {"chosen": rule == chosen, "discovery_kept": _mean(tried[rule].kept), "discovery_kl": _mean(tried[rule].kl)}
            self.rows.append(self._row(rule, how, blocks) | found)
            self.watcher.tick()

    def _whole(self) -> None:
        bench = self.benches["test"]
        self.rows.append(self._measured(bench.whole) | {"rule": "none", "how": "whole", "budget": 0.0, "blocks": []})
        self.rows[-1] |= self._size(()) | {"chosen": False, "note": ""}

    def _judge(self, half: str, how: str, blocks: tuple[int, ...]) -> Said:
        """Once for each choice, whichever rules make it."""
        if (half, how, blocks) not in self._judged:
            maps = self.fitting.maps(blocks) if how == "linear" else None
            self._judged[half, how, blocks] = self.benches[half].judge(blocks, maps)
        return self._judged[half, how, blocks]

    def _row(self, rule: str, how: str, blocks: tuple[int, ...]) -> Row:
        row: Row = {"rule": rule, "how": how, "budget": len(blocks) / self.model.depth, "blocks": list(blocks), "chosen": False}
        note = "; ".join(filter(None, (one.note for one in self.fitting.maps(blocks)))) if how == "linear" else ""
        return (
            row
            | self._measured(self._judge("test", how, blocks))
            | self._size(blocks, len(runs(blocks)) if how == "linear" else 0)
            | {"note": note}
        )

    def _measured(self, said: Said) -> Row:
        """Means over the test half, with intervals that leave out one image (patient) at a time."""
        bench = self.benches["test"]
        units, whole = bench.units, bench.whole
        known = torch.tensor([p.sample.answer is not None for p in bench.prompts])
        changes = whole.follows == 1
        row: Row = {"log_odds": _mean(said.log_odds), "n": len(units), "images": len(set(units))}
        for name, values, which in (
            ("kept", said.kept, torch.ones_like(said.kept)), ("accuracy", said.right, known), ("follows", said.follows, changes),
        ):  # fmt: skip
            low, high = ("low", "high") if name == "kept" else (f"{name}_low", f"{name}_high")
            if which.any():
                share, interval = share_of(values[which].double(), [u for u, w in zip(units, which.tolist(), strict=True) if w])
                row |= {name: share, low: interval.low, high: interval.high}
        kl, interval = mean_of(said.kl, units)
        return row | {"kl": kl, "kl_low": interval.low, "kl_high": interval.high}

    def _size(self, blocks: tuple[int, ...], maps: int = 0) -> Row:
        prompts = self.halves["test"]
        return vars(cost(self.model, sum(len(prompt.tokens) for prompt in prompts) / len(prompts), blocks, maps))

    def _time(self) -> None:
        """The whole model and the chosen cuts."""
        timed = [row for row in self.rows if row["chosen"] or row["how"] == "whole"]
        cuts = [(row["blocks"], self.fitting.maps(row["blocks"]) if row["how"] == "linear" else None) for row in timed]
        for row, taken in zip(timed, seconds(self.model, self.halves["test"][0], cuts), strict=True):
            row["seconds"] = taken

    def write(self, folder: Path, asked: Model | str | Path) -> None:
        """The tables, the maps of the chosen blocks, and the checkpoint without them."""
        prepared = self.prepared
        said = [self.said[prompt.sample.id] for prompt in prepared.prompts]
        _record.write_tables(folder, prepared.intake, said, Findings())
        store.write_table(folder, "claims", [])
        store.write_table(folder, "pruned", [{name: row.get(name) for name in store.TABLES["pruned"]} for row in self.rows])
        save_maps(self.fitting.maps(self.best["linear"]), folder / MAPS)
        self.watcher.begin("writing the checkpoint", 1)
        self.told["maps"] = list(self.best["linear"])
        self.told["checkpoint"] = shortened_checkpoint(
            asked, prepared, self.best["drop"], self.halves["test"][:CHECKED], folder / CHECKPOINT
        )  # fmt: skip
        self.watcher.tick()


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
