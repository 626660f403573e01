"""What every job begins with: samples gathered and checked, the model loaded, prompts made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from medlens import _record
from medlens._forecast import Forecast
from medlens.budget import BASE_MEMORY, bytes_of
from medlens.data import read
from medlens.data.burned_in import warn_of_text
from medlens.data.dicom import through
from medlens.data.grouping import distinct
from medlens.data.images import open_image
from medlens.data.intake import Intake, take_in
from medlens.data.pseudonyms import KEPT, hidden, key
from medlens.errors import BadData, BadInput
from medlens.instruments.own import sources
from medlens.models import MOST, Model, load
from medlens.models import prompt as prompts_
from medlens.phantom import questions
from medlens.plan import Plan
from medlens.types import Sample
from medlens.walk.cases import Prompt
from medlens.walk.room import Spill

PHANTOM_SAMPLES = 200


class Watcher(Protocol):
    """Who looks on: told the forecast, then each phase with its number of steps, then every step."""

    def planned(self, forecast: Forecast) -> None: ...
    def begin(self, phase: str, steps: int) -> None: ...
    def tick(self) -> None: ...


class Nobody:
    """Does not look on."""

    def planned(self, forecast: Forecast) -> None: ...
    def begin(self, phase: str, steps: int) -> None: ...
    def tick(self) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """All that a job needs to begin. identity: of which job it is, by what its results depend on; key: all of that in one word."""

    model: Model
    intake: Intake
    prompts: list[Prompt]
    plan: Plan
    data_name: str
    unread: tuple[str, ...]  # what the reader left out
    identity: dict[str, str]

    @property
    def key(self) -> str:
        return _hash(self.identity)

    def manifest(self, identity: dict[str, str], seconds: dict[str, float], peak: int) -> dict[str, Any]:
        """What the manifest of a run says whatever the job was. peak: of memory, in bytes."""
        return {
            "key": self.key,
            "identity": identity,
            **_record.describe_machine(),
            "peak_memory": peak,
            "plan": _record.public_plan(self.plan),
            "model": _record.describe_model(self.model, self.identity["weights"]),
            "data": _record.describe_data(self.data_name, self.intake, self.unread),
            "seconds": seconds,
        }


def prepare(
    model: Model | str | Path, samples: Sequence[Sample] | str | Path, plan: Plan, watcher: Watcher, scratch: Path | None = None,
    *, light: bool = False,
) -> Prepared:  # fmt: skip
    """scratch: where processed images wait until they are needed; without it, in memory. light: others will compute, so the weights
    can stay in their files."""
    chosen, data_name, unread = _gather(samples, plan)
    watcher.begin("checking images", len(chosen))
    intake = take_in(chosen, plan.skip_bad, watcher.tick)
    if plan.answers == "given" and all(s.answer is None for s in intake.samples):
        raise BadData(f"none of {len(intake.samples)} samples has an answer to be given: fill the field `answer`, or generate them")
    watcher.begin("loading the model", 1)
    if isinstance(model, Model) and plan.adapter is not None:
        raise BadInput("this model is loaded already: give the adapter to medlens.load, not to the plan")
    loaded = model if isinstance(model, Model) else load_whole(model, plan, light)
    watcher.tick()
    watcher.begin("reading prompts", len(intake.samples))
    prompts, intake = _prompts(loaded, intake, plan, watcher, None if scratch is None else Spill(scratch))
    if plan.deidentify:
        intake = _deidentified(intake)
    identity = {"plan": _hash(plan.what()), "weights": _record.fingerprint(loaded), "data": intake.fingerprint}
    identity["version"] = version("medlens")
    if plan.measures:
        identity["measures"] = _hash(sources(plan.measures))
    return Prepared(loaded, intake, prompts, plan, data_name, unread, identity)


def load_whole(model: str | Path, plan: Plan, light: bool = False) -> Model:
    """The model as the plan wants it; light: its weights stay in their files."""
    allowed = None if plan.memory is None else max(1, int(MOST * (bytes_of(plan.memory) - BASE_MEMORY)))
    memory = 1 if light else allowed
    return load(
        model, device=plan.device, dtype=plan.dtype, vision_tower=plan.vision_tower, adapter=plan.adapter, memory=memory
    )  # fmt: skip


def _hash(of: object) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]


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
        if plan.question is not None and all(s.turns == (plan.question,) for s in found):  # one question: of each picture once
            found, same = distinct(found, plan.limit)
            unread += same
    else:
        found = list(samples)
        drawn = all(isinstance(s, Sample) and s.tags.get("source") == questions.SOURCE for s in found)
        name = "phantom slices" if drawn else "samples in memory"
    chosen = found[: plan.limit]
    chosen = through(chosen, plan.window) if plan.window else chosen
    if not plan.deidentify:
        return chosen, name, tuple(unread)
    left = (f"{len(unread)} records of the data: their names are hidden",) if unread else ()
    return hidden(chosen, key(), {*KEPT, *plan.by}), "data", left


def _deidentified(intake: Intake) -> Intake:
    """With one line for all that was left out (a reason may name a file), a warning where something may be written on images."""
    count = warn_of_text(dict(zip(intake.images, intake.samples, strict=True)).values())
    left = (f"{len(intake.skipped)} samples that could not be read: their names are hidden",) if intake.skipped else ()
    return replace(intake, skipped=left, burned_in=count)


def _prompts(model: Model, intake: Intake, plan: Plan, watcher: Watcher, spill: Spill | None) -> tuple[list[Prompt], Intake]:
    """The prompts; and what is left of the intake where some cannot be put to this model."""
    looks: dict[str, prompts_.Look] = {}
    made, refused = [], {}
    for sample, image in zip(intake.samples, intake.images, strict=True):
        if image not in looks:
            look = prompts_.look(model, [open_image(i, sample.id, grey=True) for i in sample.images])
            looks[image] = replace(look, make=partial(spill.fetch, spill.keep(look.inputs))) if spill else look
        try:
            made.append(Prompt(sample, looks[image], prompts_.read(model, sample, looks[image]), image))
        except BadData as e:
            if not plan.skip_bad:
                raise
            refused[sample.id] = str(e)
        watcher.tick()
    return made, intake.without(refused)
