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
from medlens.errors import CannotWrite
from medlens.instruments.geometry import Geometry
from medlens.models import Model
from medlens.models import prompt as prompts_
from medlens.plan import Plan
from medlens.report import write_report
from medlens.types import Answer, Row, Sample
from medlens.walk.cases import Prompt, cases
from medlens.walk.forward import walk
from medlens.walk.generate import answer_prompt, decoding_of


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
    this very study is returned as it is. Nothing is left at `out` when something fails.

    Raises a MedlensError: see `load`, `read` and `forward`; BadRun when `out` holds something else; CannotWrite.
    """
    began, watcher = time.monotonic(), watcher or Nobody()
    store.check_place(Path(out))
    prepared = prepare(model, samples, plan, watcher)
    if (done := store.finished(Path(out), prepared.key)) is not None:
        return done
    forecast = foresee(prepared.model, prepared.intake, prepared.prompts, cases(prepared.model, prepared.prompts), plan)
    watcher.planned(forecast)
    _check_disk(Path(out), forecast)
    clock = _Clock(preparing=time.monotonic() - began)
    with clock("answering"):
        answers, prompts = _answer(prepared, watcher)
    with clock("walking"):
        rows = _walk(prepared, prompts, watcher)
    with store.writing(Path(out)) as folder:
        watcher.begin("writing the report", 1)
        _record.write_tables(folder, prepared.intake, answers, rows)
        store.write_manifest(folder, _manifest(prepared, forecast, clock.seconds))
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
    store.check_place(Path(out))
    prepared = prepare(model, samples, plan, watcher or Nobody())
    return foresee(prepared.model, prepared.intake, prepared.prompts, cases(prepared.model, prepared.prompts), plan)


def _answer(prepared: Prepared, watcher: Watcher) -> tuple[list[Answer | None], list[Prompt]]:
    """Every sample's answer, and its prompt with the answer behind it."""
    model, plan = prepared.model, prepared.plan
    watcher.begin("answering", len(prepared.prompts))
    answers: list[Answer | None] = []
    told = []
    for prompt in prepared.prompts:
        if plan.answers == "generate":
            said = answer_prompt(model, prompt, decoding_of(plan))
        else:
            said = None if prompt.sample.answer is None else Answer(prompt.sample.answer)
        answers.append(said)
        told.append(replace(prompt, tokens=prompts_.read(model, prompt.sample, prompt.look, str(said))) if said else prompt)
        watcher.tick()
    return answers, told


def _walk(prepared: Prepared, prompts: list[Prompt], watcher: Watcher) -> list[Row]:
    laid = cases(prepared.model, prompts)
    watcher.begin("walking through the blocks", len(laid) * prepared.model.depth)
    geometry = Geometry(prepared.plan.neighbour_rows, prepared.plan.keep, prepared.plan.seed)
    walk(prepared.model, laid, [geometry], watcher.tick)
    return geometry.rows()


def _manifest(prepared: Prepared, forecast: Forecast, seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "key": prepared.key,
        **_record.describe_machine(),
        "command": _record.command_line(prepared.model.name, prepared.data_name, prepared.plan),
        "plan": _record.public_plan(prepared.plan),
        "model": _record.describe_model(prepared.model, prepared.fingerprint),
        "data": _record.describe_data(prepared.data_name, prepared.intake, prepared.unread),
        "forecast": forecast.as_dict(),
        "seconds": {phase: round(s, 2) for phase, s in seconds.items()},
    }


def _check_disk(out: Path, forecast: Forecast) -> None:
    there = next(p for p in out.absolute().parents if p.exists())
    free = shutil.disk_usage(there).free
    if free < forecast.disk:
        raise CannotWrite(
            f"the run needs about {forecast.disk >> 20} MB and {there.name or '/'} has {free >> 20} MB free; choose another --out"
        )


class _Clock:
    """Seconds by phase."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds

    @contextmanager
    def __call__(self, phase: str):
        began = time.monotonic()
        yield
        self.seconds[phase] = time.monotonic() - began
