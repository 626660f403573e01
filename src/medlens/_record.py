"""What a study writes down: its tables, its manifest, and who the model is."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file, save

from medlens import store
from medlens.data.intake import Intake
from medlens.findings import Findings
from medlens.medical import vocabulary_of
from medlens.models import Model
from medlens.models.int8 import named_weights
from medlens.models.weights import digest
from medlens.phantom.questions import is_phantom
from medlens.plan import Plan
from medlens.types import Answer, Sample

KEPT = "kept-{:02d}.safetensors"  # states of a block that has been passed
PIECES = "kept-{:02d}"  # folder: pieces of large tables, found there
LARGE = ("lens", "decisions")


def write_tables(folder: Path, intake: Intake, answers: Sequence[Answer | None], findings: Findings | None = None) -> None:
    """The tables and pictures of a run; of a share of one, without findings."""
    names: dict[str, str] = {}
    for number, (image, (suffix, data)) in enumerate(intake.pictures.items()):
        names[image] = f"pictures/{number:04d}{suffix}"
        store.write(folder / names[image], data)
    if findings is not None:
        write_findings(folder, findings)
    records = list(zip(intake.samples, intake.images, answers, strict=True))
    store.write_table(folder, "samples", [_sample_record(s, image, names) for s, image, _ in records])
    store.write_table(folder, "answers", [_answer_record(s, said) for s, _, said in records if said is not None])


def write_findings(folder: Path, findings: Findings) -> None:
    """The tables of what the instruments found."""
    for name in ("rows", "left_out", "massive", "occurrence", "unit_words"):
        store.write_table(folder, name, [record._asdict() for record in getattr(findings, name)])
    for name in LARGE:
        store.write_frame(folder, name, findings.tables.get(name, []))
    if findings.states:
        store.write(folder / store.STATES, save(findings.states))


def keep(folder: Path, findings: Findings, passed: int) -> list[Path]:
    """Write down the states and the pieces of large tables found in one block, and forget them: a study may be killed before its
    end. Returns the files."""
    states, pieces = folder / KEPT.format(passed), folder / PIECES.format(passed)
    written = [states] if findings.states else []
    if findings.states:
        store.write(states, save(findings.states))
        findings.states = {}
    for name, frames in findings.tables.items():
        store.write_frame(pieces, name, frames)
        written.append(pieces / f"{name}.parquet")
    findings.tables = {}
    return written


def gather(folder: Path, findings: Findings) -> None:
    """What was kept block by block, found again."""
    for path in sorted(folder.glob("kept-*.safetensors")):
        findings.states |= load_file(path)
    for name in LARGE:
        findings.tables[name] = [pl.read_parquet(path) for path in sorted(folder.glob(f"kept-*/{name}.parquet"))]


def _sample_record(sample: Sample, image: str, names: dict[str, str]) -> dict[str, Any]:
    return {
        "sample": sample.id,
        "image": sample.image_id or image,
        "patient": sample.patient_id,
        "question": sample.question,
        "question_type": sample.question_type,
        "answer": sample.answer,
        "tags": json.dumps(sample.tags, default=str),
        "file": sample.shown if sample.images else None,
        "picture": names.get(image.split("+")[0]),
    }


def _answer_record(sample: Sample, said: Answer) -> dict[str, Any]:
    """Of a given answer nothing is judged: it would be compared with itself."""
    generated = bool(said.ids)
    return {
        "sample": sample.id,
        "answer": str(said),
        "logprob": sum(said.logprobs) if generated else None,
        "tokens": len(said.ids),
        "ended": said.ended if generated else None,
        "correct": _plain(said) == _plain(sample.answer) if generated and sample.answer is not None else None,
    }


def _plain(answer: str) -> str:
    return answer.strip().casefold()


def describe_model(model: Model, fingerprint: str) -> dict[str, Any]:
    """What the manifest says of the model."""
    return {
        "name": public_name(model.name),
        "family": model.module.config.model_type,
        "blocks": model.depth,
        "width": model.width,
        "parameters": model.parameters,
        "vocabulary": vocabulary_of(model.tokenizer)._asdict(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "fingerprint": fingerprint,
        "checks": model.checks,
        "origin": dict(model.origin),
    }


def describe_data(name: str, intake: Intake, unread: Sequence[str]) -> dict[str, Any]:
    """What the manifest says of the data."""
    told = {} if intake.burned_in is None else {"may_hold_text": intake.burned_in}
    return {
        "name": name,
        "samples": len(intake.samples),
        "images": len(set(intake.images)),
        "fingerprint": intake.fingerprint,
        "skipped": [*unread, *intake.skipped],
        **told,
    }


def describe_machine() -> dict[str, Any]:
    """When, with what and on what kind of machine; not whose."""
    packages = ("torch", "transformers", "numpy", "polars")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "medlens": version("medlens"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def command_line(model: str, data: str, plan: Plan) -> str:
    """The command line that repeats a study; paths are the user's own business."""
    words = ["medlens study", model if is_phantom(model) else "$MODEL", "phantom" if data == "phantom" else "$DATA"]
    changed = [f.name for f in fields(Plan) if getattr(plan, f.name) != f.default]
    said = public_plan(plan)
    return " ".join(filter(None, [*words, *(_flag(name, said[name]) for name in changed), "--out RUN"]))


def _flag(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    if name in ("instruments", "nulls", "measures", "claims", "stop", "by"):  # a flag for each
        said = [word for word in value if name != "nulls" or word != "pairs"]
        return " ".join(f"{flag.removesuffix('s')} {shlex.quote(word)}" for word in said)
    if name == "thorough":
        return flag if value else "--no-thorough"
    if name == "window":
        return f"{flag} {value[0]:g},{value[1]:g}"
    return flag if value is True else f"{flag} {shlex.quote(str(value))}"


def public_plan(plan: Plan) -> dict[str, Any]:
    """The plan without the paths in it."""
    adapter = plan.adapter and public_name(plan.adapter)
    scratch = plan.scratch and ("given" if plan.deidentify else public_name(plan.scratch))
    return plan.as_dict() | {"vision_tower": public_name(plan.vision_tower), "adapter": adapter, "scratch": scratch}


def public_name(name: str) -> str:
    """A model's name without the path to it: that is the user's own business."""
    return Path(name).name if Path(name).exists() else name


def fingerprint(model: Model) -> str:
    """Of names, shapes and values of the weights (of large ones, every k-th value) and of how prompts are made. The same for a
    model that is streamed, whose weights were all read once by its self-test."""
    digests = dict(model.weights.digests) if model.weights else {}
    found = {name: digests.get(name) or digest(w) for name, w in named_weights(model.module)}
    found = dict(sorted(found.items()))
    made = [model.processor.chat_template, model.processor.image_processor.to_dict()]
    return hashlib.sha256(json.dumps([found, made], default=str).encode()).hexdigest()[:16]
