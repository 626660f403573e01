"""The main job: samples in, a run out. (`_study`, because the public function is called `study`.)"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from medlens import _record, store
from medlens._forecast import Forecast, foresee
from medlens.data import read
from medlens.data.images import open_image
from medlens.data.intake import Intake, take_in
from medlens.errors import BadData, BadInput, CannotWrite
from medlens.instruments.geometry import Geometry
from medlens.models import Model, load
from medlens.models import prompt as prompts_
from medlens.phantom import questions
from medlens.plan import Plan
from medlens.report import write_report
from medlens.types import Answer, Row, Sample
from medlens.walk.cases import Prompt, cases
from medlens.walk.forward import walk
from medlens.walk.generate import answer_prompt

PHANTOM_SAMPLES = 200


class Watcher(Protocol):
    """Who looks on: told the forecast, then each phase with its number of steps, then every step."""

    def planned(self, forecast: Forecast) -> None: ...
    def begin(self, phase: str, steps: int) -> None: ...
    def tick(self) -> None: ...


class _Nobody:
    def planned(self, forecast: Forecast) -> None: ...
    def begin(self, phase: str, steps: int) -> None: ...
    def tick(self) -> None: ...


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
    began, watcher = time.monotonic(), watcher or _Nobody()
    store.check_place(Path(out))
    prepared = _prepare(model, samples, plan, watcher)
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
    prepared = _prepare(model, samples, plan, watcher or _Nobody())
    return foresee(prepared.model, prepared.intake, prepared.prompts, cases(prepared.model, prepared.prompts), plan)


@dataclass(frozen=True)
class _Prepared:
    model: Model
    intake: Intake
    prompts: list[Prompt]
    plan: Plan
    data_name: str
    unread: tuple[str, ...]  # what the reader left out
    key: str
    fingerprint: str  # of the model


def _prepare(model: Model | str | Path, samples: Sequence[Sample] | str | Path, plan: Plan, watcher: Watcher) -> _Prepared:
    chosen, data_name, unread = _gather(samples, plan)
    watcher.begin("checking images", len(chosen))
    intake = take_in(chosen, plan.skip_bad, watcher.tick)
    if plan.answers == "given" and all(s.answer is None for s in intake.samples):
        raise BadData(f"none of {len(intake.samples)} samples has an answer to be given: fill the field `answer`, or generate them")
    watcher.begin("loading the model", 1)
    if isinstance(model, Model) and plan.adapter is not None:
        raise BadInput("this model is loaded already: give the adapter to medlens.load, not to the plan")
    asked = {"device": plan.device, "dtype": plan.dtype, "vision_tower": plan.vision_tower, "adapter": plan.adapter}
    loaded = model if isinstance(model, Model) else load(model, **asked)
    watcher.tick()
    watcher.begin("reading prompts", len(intake.samples))
    prompts, intake = _prompts(loaded, intake, plan, watcher)
    fingerprint = _record.fingerprint(loaded)
    identity = [plan.as_dict(), fingerprint, intake.fingerprint, version("medlens")]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return _Prepared(loaded, intake, prompts, plan, data_name, unread, key, fingerprint)


def _gather(samples: Sequence[Sample] | str | Path, plan: Plan) -> tuple[list[Sample], str, tuple[str, ...]]:
    """The samples, what to call them, and what could not be read."""
    unread: list[str] = []
    if str(samples) == "phantom":
        if plan.question is not None:
            raise BadInput("the phantom's samples bring their own questions; --question is for images without any")
        return questions.samples(plan.limit or PHANTOM_SAMPLES, plan.seed), "phantom", ()
    if isinstance(samples, Sample) or not isinstance(samples, str | Path | Sequence):
        raise BadInput(f"samples are a list of Sample, 'phantom', or a path; got {type(samples).__name__}")
    if isinstance(samples, str | Path):
        name = Path(samples).name
        found = read(samples, plan.question, (lambda e: unread.append(str(e))) if plan.skip_bad else None)
    else:
        found = list(samples)
        drawn = all(isinstance(s, Sample) and s.tags.get("source") == questions.SOURCE for s in found)
        name = "phantom slices" if drawn else "samples in memory"
    return found[: plan.limit], name, tuple(unread)


def _prompts(model: Model, intake: Intake, plan: Plan, watcher: Watcher) -> tuple[list[Prompt], Intake]:
    """The prompts; and what is left of the intake where some cannot be put to this model."""
    looks: dict[str, prompts_.Look] = {}
    made, refused = [], {}
    for sample, image in zip(intake.samples, intake.images, strict=True):
        if image not in looks:
            looks[image] = prompts_.look(model, [open_image(i, sample.id, grey=True) for i in sample.images])
        try:
            made.append(Prompt(sample, looks[image], prompts_.read(model, sample, looks[image]), image))
        except BadData as e:
            if not plan.skip_bad:
                raise
            refused[sample.id] = str(e)
        watcher.tick()
    return made, intake.without(refused)


def _answer(prepared: _Prepared, watcher: Watcher) -> tuple[list[Answer | None], list[Prompt]]:
    """Every sample's answer, and its prompt with the answer behind it."""
    model, plan = prepared.model, prepared.plan
    watcher.begin("answering", len(prepared.prompts))
    answers: list[Answer | None] = []
    told = []
    for prompt in prepared.prompts:
        if plan.answers == "generate":
            said = answer_prompt(model, prompt, plan.max_new_tokens)
        else:
            said = None if prompt.sample.answer is None else Answer(prompt.sample.answer)
        answers.append(said)
        told.append(replace(prompt, tokens=prompts_.read(model, prompt.sample, prompt.look, str(said))) if said else prompt)
        watcher.tick()
    return answers, told


def _walk(prepared: _Prepared, prompts: list[Prompt], watcher: Watcher) -> list[Row]:
    laid = cases(prepared.model, prompts)
    watcher.begin("walking through the blocks", len(laid) * prepared.model.depth)
    geometry = Geometry(prepared.plan.neighbour_rows, prepared.plan.keep, prepared.plan.seed)
    walk(prepared.model, laid, [geometry], watcher.tick)
    return geometry.rows()


def _manifest(prepared: _Prepared, forecast: Forecast, seconds: dict[str, float]) -> dict[str, Any]:
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
