"""Where does the model know it? Tower, projector and decoder read by linear probes. (The function is `probe`.)"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medlens import _record, hooks, store
from medlens._prepare import Nobody, Prepared, Watcher, prepare
from medlens.budget import Meter
from medlens.errors import BadInput, BadModel
from medlens.findings import Findings
from medlens.instruments.gap import Gap
from medlens.instruments.geometry import Geometry
from medlens.instruments.probes import Probes, Probing, Targets, targets_of
from medlens.instruments.tower import Tower
from medlens.models import Model
from medlens.models.tower import fed_from, tower_layers
from medlens.plan import Plan
from medlens.report.probes import write_probes
from medlens.types import Sample
from medlens.unfinished import explained, unfinished
from medlens.walk.cases import Case, cases
from medlens.walk.forward import steps
from medlens.walk.layout import Layout, layout_of
from medlens.walk.room import Files
from medlens.walk.tower import before_the_decoder

CONTROLS = 50


def probe(
    model: Model | str | Path = "phantom",
    samples: Sequence[Sample] | str | Path = "phantom",
    tags: Sequence[str] = ("modality",),
    out: str | Path = "runs/probe",
    plan: Plan = Plan(),  # noqa: B008 (frozen)
    *,
    controls: int = CONTROLS,
    watcher: Watcher | None = None,
) -> store.Run:
    """Probe every state of the tower and of the decoder for tags (or fields) of the samples, and write a run with its page.

    tags: each with two to 20 values; numbers are read by quartile. controls: how often labels are shuffled. plan: limit, seed,
    folds, and how the model is loaded. Rows: `probe_accuracy`, `probe_balanced`, `probe_majority`, `probe_control`,
    `probe_selectivity`, `probe_p` (group: the tag; tokens: "tower", the mean patch; "image", the mean image token; "last", the
    last token of the prompt; "question", the counts of its words, without any image), `modality_gap`, `modality_gap_floor`, and the
    geometry of the tower (tokens: "tower").

    Raises a MedlensError: see `study`, and BadInput for a tag that no sample has, one with a single value, fewer images than folds.
    """
    watcher, out = watcher or Nobody(), Path(out)
    _check(plan, controls)
    store.check_place(out)
    with Meter() as meter, explained(out):
        prepared = prepare(model, samples, plan, watcher)
        words = json.dumps([sorted(set(tags)), controls]) if not isinstance(tags, str) else tags
        identity = prepared.identity | {"probe": hashlib.sha256(words.encode()).hexdigest()[:16]}
        laid = cases(prepared.model, prepared.prompts)
        targets = targets_of(laid, tags, plan.folds)
        if (done := store.finished(out, identity)) is not None:
            return done
        began = time.monotonic()
        with unfinished(out, identity) as work:
            findings, tower = _read(prepared, laid, targets, controls, work.scratch, watcher)
            with work.becoming(out) as folder:
                _record.write_tables(folder, prepared.intake, [None] * len(prepared.prompts), findings)
                store.write_table(folder, "claims", [])
                told = {"probe": {"tags": list(targets.of_sample), "controls": controls, **tower}}
                seconds = {"walking": round(time.monotonic() - began, 2)}
                store.write_manifest(folder, prepared.manifest(identity, seconds, meter.peak) | told)
                write_probes(folder)
    return store.open_run(out)


def _check(plan: Plan, controls: int) -> None:
    if plan.workers > 1 or plan.cluster is not None:
        raise BadInput("probes walk in one process: leave out workers and cluster")
    if controls < 1:
        raise BadInput(f"controls is {controls}; at least 1 draw of shuffled labels is needed")


def _read(
    prepared: Prepared, laid: list[Case], targets: Targets, controls: int, scratch: Path, watcher: Watcher
) -> tuple[Findings, dict[str, Any]]:
    """Everything that is found, and what is to be said of the tower."""
    model, plan, findings = prepared.model, prepared.plan, Findings()
    probes, layout = Probes(targets, findings, controls, plan.seed), layout_of(laid, plan.folds)
    probes.note_questions({p.sample.id: [p.tokens.ids[i] for i in p.tokens.where("text")] for p in prepared.prompts})
    told = _tower(model, laid, probes, layout, plan, watcher)
    room = Files(scratch, [len(case.pack.ids) for case in laid], model.width, model.dtype, model.device)
    readers = [Probing(probes), Gap(layout, findings, plan.seed)]
    watcher.begin("walking through the blocks", len(laid) * model.depth)
    for passed in steps(model, laid, readers, watcher.tick, room):
        with hooks.evaluation(model.module):
            for reader in readers:
                (reader.leave if passed < model.depth else reader.conclude)(passed)
    return findings, told


def _tower(
    model: Model, laid: list[Case], probes: Probes, layout: Layout, plan: Plan, watcher: Watcher
) -> dict[str, Any]:  # fmt: skip
    """The tower's rows are added to the findings. Where it is not found, the note says so."""
    shown = list(_once(laid))
    try:
        depth = len(tower_layers(model))
    except BadModel as e:
        return {"layers": None, "feeds": None, "note": str(e)}
    tower = Tower(len(shown))
    watcher.begin("looking through the vision tower", len(shown))
    with model.here("around", "norm"):
        for case in shown:
            tower.see(case, before_the_decoder(model, case).states)
            watcher.tick()
    with hooks.evaluation(model.module):
        for t, means in enumerate(tower.means):
            probes.note(t, "tower", means)
        _geometry(tower, depth, layout, plan, probes.findings)
    note = "" if len(tower.patches) == len(shown) else "its layers merge patches: no geometry of them"
    return {"layers": depth, "feeds": fed_from(model), "note": note}


def _once(laid: list[Case]) -> Iterator[Case]:
    """A case of every image."""
    seen = {case.image: case for case in reversed(laid) if "image" in case.groups}
    yield from reversed(seen.values())


def _geometry(tower: Tower, depth: int, layout: Layout, plan: Plan, findings: Findings) -> None:
    """Every measure of geometry of the tower's layers, as tokens "tower"."""
    if not tower.patches:
        return
    found = Findings()
    geometry = Geometry(plan, layout, found)
    for t in range(depth):
        for patches in tower.patches:
            geometry.visit(t, patches, patches.states[t], patches.states[t + 1])  # pyright: ignore[reportArgumentType]
        geometry.leave(t)
    for patches in tower.patches:
        geometry.finish(patches, patches.states[depth], patches.states[depth])  # pyright: ignore[reportArgumentType]
    geometry.conclude(depth)
    for mine, theirs in ((findings.rows, found.rows), (findings.left_out, found.left_out)):
        raw = [one for one in theirs if one.tokens == "image" and not one.variant.startswith("normed")]
        mine += [one._replace(tokens="tower") for one in raw]  # pyright: ignore[reportArgumentType]
