"""Does the answer rest on the image? Swapped, followed, turned, covered, and held against how sure the model is. (The function is
`reliance`.)"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medlens import _record, store
from medlens._flow import flow, one_of_each, width_of, windows
from medlens._gate import Gate, gates_of, swapped
from medlens._prepare import Nobody, Prepared, Watcher, prepare
from medlens._reliance.confidence import abstaining, calibration, judged
from medlens._reliance.consistency import consistency, contradictions
from medlens._reliance.shortcuts import shortcuts
from medlens._reliance.swapping import of_gates, of_swaps, summed_up
from medlens.budget import Meter
from medlens.errors import BadInput, BadModel
from medlens.findings import Findings
from medlens.models import Model
from medlens.models import prompt as prompts_
from medlens.plan import Plan
from medlens.report.reliance import write_reliance
from medlens.types import Answer, Sample
from medlens.unfinished import explained, unfinished
from medlens.walk.cases import Prompt
from medlens.walk.generate import answers, decoding_of
from medlens.walk.knockout import PATHS

FOLLOWED = 24  # images: each window of blocks is a walk of them
PHANTOM_SAMPLES = 600  # of all kinds of question: on some 100 slices


def reliance(
    model: Model | str | Path = "phantom",
    samples: Sequence[Sample] | str | Path = "phantom",
    out: str | Path = "runs/reliance",
    plan: Plan = Plan(),  # noqa: B008 (frozen)
    *,
    watcher: Watcher | None = None,
) -> store.Run:
    """Find out whether a model's answers rest on the image, and write a run with one page for a reader who is no engineer.

    Every question is asked again of at least eight other images: blank, noise, its own in shuffled tiles, another patient's with
    another answer, and another's of the same organ and modality. What becomes of the answer and its log-odds is summed up by
    question type, organ, modality and the fields of `plan.by`, with intervals that leave out whole images (patients, where the data
    name them). plan: limit, seed, answers (generated or given), and how the model is loaded.

    Then what is written on images is covered (`shortcuts`); images are mirrored, turned, cropped, and questions paraphrased
    (`changes`, `consistency`); how sure the model is is held against how often it is right (`calibration`, `confidence`); and
    attention to the image is blocked in a few blocks at a time, on one question of each of some images (`flow`).

    The run has these tables, `reliance`, `gates` and `reliance_by`, and a page, report.html.
    Raises a MedlensError: see `study`, and BadInput where there is no image, or only one patient's, so that none can be swapped in.
    """
    watcher, out = watcher or Nobody(), Path(out)
    if plan.workers > 1 or plan.cluster is not None:
        raise BadInput("reliance is measured in one process: leave out workers and cluster")
    store.check_place(out)
    if str(samples) == "phantom":
        plan = replace(plan, limit=plan.limit or PHANTOM_SAMPLES)
    with Meter() as meter, explained(out):
        prepared = prepare(model, samples, plan, watcher)
        shown = _with_images(prepared)
        identity = prepared.identity | {"job": "reliance"}
        if (done := store.finished(out, identity)) is not None:
            return done
        began = time.monotonic()
        with unfinished(out, identity) as work:
            job = _Job(prepared, shown, work.scratch, watcher)
            job.run()
            with work.becoming(out) as folder:
                job.write(folder)
                seconds = {"walking": round(time.monotonic() - began, 2)}
                told = {"reliance": {"samples": len(shown), "left": len(prepared.prompts) - len(shown), "no_flow": job.no_flow}}
                store.write_manifest(folder, prepared.manifest(identity, seconds, meter.peak) | told)
                write_reliance(folder)
    return store.open_run(out)


def _with_images(prepared: Prepared) -> list[Prompt]:
    """The prompts that show something. Raises BadInput where nothing could be shown in its place."""
    shown = [prompt for prompt in prepared.prompts if prompt.sample.images]
    if not shown:
        raise BadInput(f"an answer can rest on an image only where there is one; none of {len(prepared.prompts)} samples has any")
    units = {prompt.unit for prompt in shown}
    if len(units) < 2:
        raise BadInput(
            f"all {len(shown)} samples show one image (patient): nothing can be swapped in; two are needed, better twenty"
        )
    return shown


class _Job:
    """Asks, swaps and follows; then writes what came of it."""

    def __init__(self, prepared: Prepared, prompts: list[Prompt], scratch: Path, watcher: Watcher) -> None:
        self.prepared, self.prompts, self.scratch, self.watcher = prepared, prompts, scratch, watcher
        self.said: list[Answer] = []
        self.gates: list[Gate] = []
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.no_flow: str | None = None  # why

    def run(self) -> None:
        plan, model = self.prepared.plan, self.prepared.model
        self.said = self._answers()
        self.watcher.begin("swapping images", len(self.prompts))
        rows = swapped(model, self.prompts, answers=self.said, seed=plan.seed, tick=self.watcher.tick, spill=self.scratch)
        self.gates = gates_of(self.prompts, rows)
        self.tables["reliance"] = of_swaps(rows)
        self.tables["gates"] = of_gates(self.gates)
        self.tables["reliance_by"] = summed_up(self.prompts, self.said, rows, self.gates, plan.by)
        self.watcher.begin("covering marks", len(self.prompts))
        tick = self.watcher.tick
        self.tables["shortcuts"] = shortcuts(model, self.prompts, self.said, seed=plan.seed, tick=tick, spill=self.scratch)
        self._agree()
        self._follow()

    def _agree(self) -> None:
        """Whether the model agrees with itself; and what withholding answers buys, by that and by how sure it is."""
        model, watcher = self.prepared.model, self.watcher
        watcher.begin("changing images and words", len(self.prompts))
        changed = consistency(model, self.prompts, tick=watcher.tick, spill=self.scratch)
        agrees = {row["sample"]: True for row in changed} | {row["sample"]: False for row in changed if row["contradicted"]}
        own = judged(self.prompts, self.said)
        rests = {gate.sample: gate.rests for gate in self.gates}
        self.tables |= {"changes": changed, "consistency": contradictions(changed), "calibration": calibration(own)}
        self.tables["confidence"] = abstaining(own, rests, agrees, seed=self.prepared.plan.seed)

    def _follow(self) -> None:
        """Where the image is read, on one question of each of a few images; or why that cannot be told."""
        model, told = self.prepared.model, {id(p): str(said) for p, said in zip(self.prompts, self.said, strict=True)}
        chosen = one_of_each(self.prompts, FOLLOWED)
        chosen = [replace(p, tokens=prompts_.read(model, p.sample, p.look, told[id(p)] or None)) for p in chosen]
        self.watcher.begin("following the image", len(PATHS) * (len(windows(model.depth, width_of(model.depth))) + 1))
        try:
            self.tables["flow"] = flow(
                model, chosen, self.scratch / "flow", paths=PATHS, seed=self.prepared.plan.seed, tick=self.watcher.tick
            )
        except (BadInput, BadModel) as e:
            self.tables["flow"], self.no_flow = [], str(e)

    def _answers(self) -> list[Answer]:
        """The model's own where the data give none."""
        plan, watcher = self.prepared.plan, self.watcher
        given = [p.sample.answer if plan.answers == "given" else None for p in self.prompts]
        missing = [prompt for prompt, text in zip(self.prompts, given, strict=True) if text is None]
        watcher.begin("answering", len(missing))
        made = iter(answers(self.prepared.model, missing, decoding_of(plan), watcher.tick, self.scratch))
        return [next(made) if text is None else Answer(text) for text in given]

    def write(self, folder: Path) -> None:
        shown, intake = {prompt.sample.id for prompt in self.prompts}, self.prepared.intake
        unused = {sample.id: "" for sample in intake.samples if sample.id not in shown}
        _record.write_tables(folder, intake.without(unused), self.said, Findings())
        store.write_table(folder, "claims", [])
        for name, rows in self.tables.items():
            store.write_table(folder, name, rows)
