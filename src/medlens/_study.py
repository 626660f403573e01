"""The main job: samples in, a run out. (`_study`, because the public function is called `study`.)"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from medlens import _record, _units, _views, _words, claims, hooks, store
from medlens._answering import answer_prompts, told
from medlens._crew import Processes
from medlens._forecast import Forecast, foresee
from medlens._instruments import Instruments, instruments_for, null_instruments
from medlens._nulls import null_walks, refuse_walked_nulls
from medlens._prepare import Nobody, Prepared, Watcher, load_whole, prepare
from medlens.budget import Meter, bytes_of, readable
from medlens.errors import BadInput, CannotWrite
from medlens.findings import Findings
from medlens.instruments.lens import Reader
from medlens.instruments.own import own_measures
from medlens.models import Model
from medlens.plan import Plan
from medlens.report import live, write_report
from medlens.types import Answer, Sample
from medlens.unfinished import BEGUN, Unfinished, explained, remove_rests, unfinished
from medlens.walk.cases import Case, cases
from medlens.walk.forward import steps
from medlens.walk.layout import Layout, layout_of
from medlens.walk.room import Files
from medlens.walk.shares import shares
from medlens.walk.subgroups import refuse_subgroups, subgroups_of
from medlens.walk.units import check_names

VIEWS = "views"  # of an unfinished study: what was found at single samples


def study(
    model: Model | str | Path = "phantom",
    samples: Sequence[Sample] | str | Path = "phantom",
    plan: Plan = Plan(),  # noqa: B008 (frozen)
    out: str | Path = "runs/study",
    *,
    watcher: Watcher | None = None,
    watch: bool = False,
) -> store.Run:
    """Study a model on samples and write the run, with its report, to the folder `out`.

    model: a loaded one, or anything that `load` takes. samples: a list, "phantom", or a path that `read` takes. A finished run of
    this very study is returned as it is. One that was stopped, had no room left on the disk or in memory, or lost its workers goes
    on behind the last block that was finished: what is done stands in `out` + ".part". Nothing is left of one that is refused.
    watch: after every block a report of what was found so far is written there.

    Raises a MedlensError: see `load`, `read` and `forward`; BadRun when `out` holds something else; CannotWrite.
    """
    began, watcher, out = time.monotonic(), watcher or Nobody(), Path(out)
    scratch, shared = _scratch(out, plan), plan.workers > 1 or plan.cluster is not None
    own_measures(plan.measures)
    if shared:
        refuse_walked_nulls(plan)
        refuse_subgroups(plan.by)
    with Meter() as meter, explained(out):
        named = _named(model, samples) if shared else None
        prepared = prepare(model, samples, plan, watcher, scratch, light=shared)
        if (done := store.finished(out, prepared.identity)) is not None:
            remove_rests(out, scratch if plan.scratch else None)
            return done
        forecast = _foresee(prepared)
        watcher.planned(forecast)
        if plan.protocol == "published" and plan.unit_images:
            check_names(prepared.model)
        _check(out, scratch, forecast, plan)
        clock = _Clock(preparing=time.monotonic() - began)
        with unfinished(out, prepared.identity, scratch if plan.scratch else None) as work:
            _begin(work, prepared, forecast, watch)
            answers, findings = (
                _together(prepared, named, work, watcher, clock) if named else _alone(prepared, work, watcher, clock)
            )
            _count_units(prepared, findings, work.scratch, watcher, clock)
            with clock("single samples"):
                shown = _look_at_some(prepared, named, answers, work, watcher)
            _record.gather(work.folder, findings)
            with work.becoming(out) as folder:
                watcher.begin("writing the report", 1)
                _record.write_tables(folder, prepared.intake, answers, findings)
                _views.gather(shown, folder)
                store.write_manifest(folder, _manifest(prepared, forecast, clock.seconds, meter.peak))
                _words.write(folder)
                claims.write(folder)
                write_report(folder)
                watcher.tick()
    return store.open_run(out)


def forecast(
    model: Model | str | Path = "phantom",
    samples: Sequence[Sample] | str | Path = "phantom",
    plan: Plan = Plan(),  # noqa: B008
    out: str | Path = "runs/study",
    *,
    watcher: Watcher | None = None,
) -> Forecast:
    """What `study` would cost: everything is loaded and checked, one case is measured, nothing is written."""
    prepared = prepare(model, samples, plan, watcher or Nobody(), _scratch(Path(out), plan))
    return _foresee(prepared)


def _foresee(prepared: Prepared) -> Forecast:
    model, prompts, plan = prepared.model, prepared.prompts, prepared.plan
    return foresee(model, prepared.intake, prompts, cases(model, prompts), plan, _views.walks(model, plan, prompts))


def _begin(work: Unfinished, prepared: Prepared, forecast: Forecast, watch: bool) -> None:
    """What a report can say of an unfinished run stands there from the first; one that is watched is written after every block."""
    begun, intake = work.folder / BEGUN, prepared.intake
    shown = {image: intake.pictures[image] for image in list(intake.pictures)[: live.PICTURES]}
    _record.write_tables(begun, replace(intake, pictures=shown), [None] * len(intake.samples))
    store.write_manifest(begun, _manifest(prepared, forecast, {}, 0))
    if watch:
        work.noted = live.write
        live.write(work.folder)


Found = tuple[Sequence[Answer | None], Findings]


def _alone(prepared: Prepared, work: Unfinished, watcher: Watcher, clock: _Clock) -> Found:
    """Answers and findings, computed in this process."""
    with clock("answering"):
        watcher.begin("answering", len(prepared.prompts))
        answers, prompts = answer_prompts(prepared, prepared.prompts, work, watcher.tick)
    with clock("walking"):
        model, plan, laid = prepared.model, prepared.plan, cases(prepared.model, prompts)
        layout = layout_of(laid, plan.folds)
        subgroups = subgroups_of(laid, plan.by, plan.folds)
        reading = instruments_for(plan, layout, prompts, subgroups, Reader(model, work.scratch))
        findings = _walk(model, laid, reading, work, watcher)
        for null, other, shown in null_walks(model, prompts, plan, work.scratch):
            inner = work.within(f"null-{null}")
            reading = null_instruments(plan, layout, null, prompts, Reader(other, inner.scratch))
            found = _walk(other, cases(other, shown), reading, inner, watcher)
            findings.rows += found.rows
            findings.left_out += found.left_out
        return answers, findings


def _count_units(prepared: Prepared, findings: Findings, scratch: Path, watcher: Watcher, clock: _Clock) -> None:
    """The words that units write, on a way back of their own."""
    model, plan = prepared.model, prepared.plan
    blocks, shown = _units.published_blocks(model), _units.shown(prepared.prompts, plan.unit_images)
    if plan.protocol == "published" and blocks and shown:
        with clock("units"):
            watcher.begin("walking back to the units", _units.ticks(model, blocks, shown))
            found = _units.count(model, shown, blocks, _units.PROTOCOLS, scratch, plan.seed, tick=watcher.tick)
            findings.occurrence, findings.unit_words = found


def _look_at_some(
    prepared: Prepared, named: tuple[str, str] | None, answers: Sequence[Answer | None], work: Unfinished, watcher: Watcher
) -> list[Unfinished]:
    """A few samples token by token, and their maps; and where that lies, if there is any. (Where others have walked, the model here
    is one that stayed in its files.)"""
    plan, prompts = prepared.plan, prepared.prompts
    chosen = _views.chosen(prepared.model, plan, prompts)
    if not chosen.number:
        return []
    model, views = load_whole(named[0], plan) if named else prepared.model, work.within(VIEWS)
    _views.make(model, plan, chosen, told(prepared, prompts, answers), views, watcher)
    return [views]


def _walk(model: Model, laid: list[Case], reading: Instruments, work: Unfinished, watcher: Watcher) -> Findings:
    """What is found in all blocks. Goes on behind the last block that was finished, if its states are there."""
    room = Files(work.scratch, [len(case.pack.ids) for case in laid], model.width, model.dtype, model.device)
    noted = work.progress
    if noted and work.holds(noted["kept"] | noted["waiting"]) and (noted["state"] > model.depth or room.holds(noted["state"])):
        room.begun = noted["state"]
        reading.findings.recall(noted["found"])
    room.tidy()
    watcher.begin("walking through the blocks", len(laid) * model.depth)
    for _ in range(len(laid) * min(room.begun, model.depth)):
        watcher.tick()
    if room.begun <= model.depth:
        for passed in steps(model, laid, [reading], watcher.tick, room):
            _finish(reading, passed, model, work)
    return reading.findings


def _together(prepared: Prepared, named: tuple[str, str], work: Unfinished, watcher: Watcher, clock: _Clock) -> Found:
    """Answers and findings, computed by several processes or machines. Goes on behind the last block whose sums were read."""
    model, plan = prepared.model, prepared.plan
    reading = instruments_for(plan, Layout(plan.folds))
    begun = 0
    if (noted := work.progress) and work.holds(noted["kept"]):
        begun = noted["state"]
        reading.findings.recall(noted["found"])
    with _crew(plan, named, work.scratch, begun) as crew:
        with clock("answering"):
            watcher.begin("answering", 1)
            answers = _in_order(prepared, crew.answers())
            watcher.tick()
        with clock("walking"):
            watcher.begin("walking through the blocks", (model.depth + 1) * crew.count)
            for _ in range(begun * crew.count):
                watcher.tick()
            for block in range(begun, model.depth + 1):
                for part in crew.parts(block):
                    reading.take(part)
                    watcher.tick()
                _finish(reading, block, model, work)
    return answers, reading.findings


def _finish(reading: Instruments, passed: int, model: Model, work: Unfinished) -> None:
    """All have passed a block, or left the last one: read the sums, and note what was found."""
    with hooks.evaluation(model.module):  # of a tiny model small matrices, too: one thread
        (reading.leave if passed < model.depth else reading.conclude)(passed)
    kept = work.progress.get("kept", {}) if passed else {}
    kept |= work.sealed(_record.keep(work.folder, reading.findings, passed))
    waiting = work.sealed(Reader.waiting(work.scratch))
    work.note({"state": passed + 1, "found": reading.findings.noted(), "kept": kept, "waiting": waiting})


def _crew(plan: Plan, named: tuple[str, str], scratch: Path, begun: int) -> Any:
    if plan.cluster is None:
        return Processes(*named, plan, scratch, begun)
    from medlens.cluster import Actors  # ray is an extra

    return Actors(*named, plan, begun)


def _named(model: object, samples: object) -> tuple[str, str]:
    """What to tell others who are to load the same."""
    if not isinstance(model, str | Path) or not isinstance(samples, str | Path):
        raise BadInput("several workers load model and data by themselves: give both by name or path, not as objects in memory")
    return tuple(str(Path(n).resolve()) if Path(n).exists() else str(n) for n in (model, samples))  # pyright: ignore


def _in_order(prepared: Prepared, of_shares: list[list[Answer]]) -> list[Answer | None]:
    """The answers of all shares, in the order of the samples."""
    if prepared.plan.protocol == "published":
        return [None for _ in prepared.prompts]
    if prepared.plan.answers == "given":
        return [None if p.sample.answer is None else Answer(p.sample.answer) for p in prepared.prompts]
    laid = cases(prepared.model, prepared.prompts)
    said: dict[str, Answer] = {}
    cut = shares(laid, layout_of(laid, prepared.plan.folds), len(of_shares))
    for share, answers in zip(cut, of_shares, strict=True):
        images = {case.image for case in share}
        asked = [prompt.sample.id for prompt in prepared.prompts if prompt.image in images]
        said |= dict(zip(asked, answers, strict=True))
    return [said[prompt.sample.id] for prompt in prepared.prompts]


def _manifest(prepared: Prepared, forecast: Forecast, seconds: dict[str, float], peak: int) -> dict[str, Any]:
    said = prepared.manifest(prepared.identity, {phase: round(s, 2) for phase, s in seconds.items()}, peak)
    command = _record.command_line(prepared.model.name, prepared.data_name, prepared.plan)
    return said | {"command": command, "forecast": forecast.as_dict()}


def _scratch(out: Path, plan: Plan) -> Path:
    """An existing folder for what waits on disk. Raises CannotWrite where there is none, or nothing can be written."""
    store.check_place(out)
    if plan.scratch is None:
        return next(p for p in out.absolute().parents if p.exists())
    if not Path(plan.scratch).is_dir():
        raise CannotWrite(f"the scratch folder {plan.scratch} is not there; make it, or choose another --scratch")
    store.check_place(Path(plan.scratch), "--scratch")
    return Path(plan.scratch)


def _check(out: Path, scratch: Path, forecast: Forecast, plan: Plan) -> None:
    """Raise before the work what would stop it later: too little disk or memory."""
    there = next(p for p in out.absolute().parents if p.exists())
    for folder, needed, what in ((there, forecast.disk, "--out"), (scratch, forecast.scratch, "--scratch")):
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise CannotWrite(
                f"the run needs about {readable(needed)} in {folder.name or '/'}, which has {readable(free)} free; "
                f"choose another {what}"
            )
    if plan.memory is not None and forecast.memory > bytes_of(plan.memory):
        raise BadInput(f"memory is {plan.memory}, and this study needs about {readable(forecast.memory)}: the least that works")


class _Clock:
    """Seconds by phase."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds

    @contextmanager
    def __call__(self, phase: str):
        began = time.monotonic()
        yield
        self.seconds[phase] = time.monotonic() - began
