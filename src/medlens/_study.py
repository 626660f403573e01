"""The main job: samples in, a run out. (`_study`, because the public function is called `study`.)"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from medlens import _record, store
from medlens._forecast import Forecast, foresee
from medlens._prepare import Nobody, Prepared, Watcher, prepare
from medlens.budget import Meter, bytes_of, readable
from medlens.errors import BadInput, CannotWrite
from medlens.instruments.geometry import Geometry
from medlens.models import Model
from medlens.models import prompt as prompts_
from medlens.plan import Plan
from medlens.report import write_report
from medlens.types import Answer, Row, Sample
from medlens.unfinished import Unfinished, explained, remove_rests, unfinished
from medlens.walk.cases import Prompt, cases, folds_of
from medlens.walk.forward import steps
from medlens.walk.generate import answer_prompt, decoding_of
from medlens.walk.room import Files


def study(
    model: Model | str | Path = "phantom",
    samples: Sequence[Sample] | str | Path = "phantom",
    plan: Plan = Plan(),  # noqa: B008 (frozen)
    out: str | Path = "runs/study",
    *,
    watcher: Watcher | None = None,
) -> store.Run:
    """Study a model on samples and write the run, with its report, to the folder `out`.

    model: a loaded one, or anything that `load` takes. samples: a list, "phantom", or a path that `read` takes. A finished run of
    this very study is returned as it is. One that was stopped, or had no room left on the disk, goes on behind the last block that
    was finished: what is done stands in `out` + ".part". Nothing is left when something else fails.

    Raises a MedlensError: see `load`, `read` and `forward`; BadRun when `out` holds something else; CannotWrite.
    """
    began, watcher, out = time.monotonic(), watcher or Nobody(), Path(out)
    scratch = _scratch(out, plan)
    with Meter() as meter, explained(out):
        prepared = prepare(model, samples, plan, watcher, scratch)
        if (done := store.finished(out, prepared.identity)) is not None:
            remove_rests(out, scratch if plan.scratch else None)
            return done
        forecast = foresee(prepared.model, prepared.intake, prepared.prompts, cases(prepared.model, prepared.prompts), plan)
        watcher.planned(forecast)
        _check(out, scratch, forecast, plan)
        clock = _Clock(preparing=time.monotonic() - began)
        with unfinished(out, prepared.identity, scratch if plan.scratch else None) as work:
            with clock("answering"):
                answers, prompts = _answer(prepared, work, watcher)
            with clock("walking"):
                rows = _walk(prepared, prompts, work, watcher)
            with work.becoming(out) as folder:
                watcher.begin("writing the report", 1)
                _record.write_tables(folder, prepared.intake, answers, rows)
                store.write_manifest(folder, _manifest(prepared, forecast, clock.seconds, meter.peak))
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
    return foresee(prepared.model, prepared.intake, prepared.prompts, cases(prepared.model, prepared.prompts), plan)


def _answer(prepared: Prepared, work: Unfinished, watcher: Watcher) -> tuple[list[Answer | None], list[Prompt]]:
    """Every sample's answer, and its prompt with the answer behind it. What is written already is not asked again."""
    model, plan = prepared.model, prepared.plan
    watcher.begin("answering", len(prepared.prompts))
    known = [Answer(**written) for written in work.answers()]
    answers: list[Answer | None] = []
    told = []
    for k, prompt in enumerate(prepared.prompts):
        if plan.answers == "given":
            said = None if prompt.sample.answer is None else Answer(prompt.sample.answer)
        elif k < len(known):
            said = known[k]
        else:
            said = answer_prompt(model, prompt, decoding_of(plan))
            work.add_answer({"text": str(said), "ids": said.ids, "logprobs": said.logprobs, "ended": said.ended})
        answers.append(said)
        told.append(replace(prompt, tokens=prompts_.read(model, prompt.sample, prompt.look, str(said))) if said else prompt)
        watcher.tick()
    return answers, told


def _walk(prepared: Prepared, prompts: list[Prompt], work: Unfinished, watcher: Watcher) -> list[Row]:
    """The rows of all blocks. Goes on behind the last block that was finished, if its states are there."""
    model, plan = prepared.model, prepared.plan
    laid = cases(model, prompts)
    geometry = Geometry(plan.neighbour_rows, plan.keep, plan.seed, folds_of(laid, plan.folds))
    room = Files(work.scratch, [len(case.pack.ids) for case in laid], model.width, model.dtype, model.device)
    noted = work.progress
    if noted and (noted["state"] > model.depth or room.holds(noted["state"])):
        room.begun = noted["state"]
        geometry.recall(noted["geometry"])
    watcher.begin("walking through the blocks", len(laid) * model.depth)
    for _ in range(len(laid) * min(room.begun, model.depth)):
        watcher.tick()
    if room.begun <= model.depth:
        for passed in steps(model, laid, [geometry], watcher.tick, room):
            (geometry.leave if passed < model.depth else geometry.conclude)(passed)
            work.note({"state": passed + 1, "geometry": geometry.noted()})
    return geometry.found


def _manifest(prepared: Prepared, forecast: Forecast, seconds: dict[str, float], peak: int) -> dict[str, Any]:
    return {
        "key": prepared.key,
        "identity": prepared.identity,
        **_record.describe_machine(),
        "peak_memory": peak,
        "command": _record.command_line(prepared.model.name, prepared.data_name, prepared.plan),
        "plan": _record.public_plan(prepared.plan),
        "model": _record.describe_model(prepared.model, prepared.identity["weights"]),
        "data": _record.describe_data(prepared.data_name, prepared.intake, prepared.unread),
        "forecast": forecast.as_dict(),
        "seconds": {phase: round(s, 2) for phase, s in seconds.items()},
    }


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
