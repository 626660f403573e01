"""Answers to a whole data set, in the format of LLaVA-Med's authors, with their scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medlens import _record
from medlens._prepare import Nobody, Prepared, Watcher, prepare
from medlens.errors import BadRun, CannotWrite
from medlens.models import Model
from medlens.plan import Plan
from medlens.scoring import Score, score, summary
from medlens.types import Answer, Sample
from medlens.walk.cases import Prompt
from medlens.walk.generate import answer_prompt, decoding_of


@dataclass(frozen=True, eq=False)
class Answers:
    """The file, its `records` as they stand in it, and the `scores` (see `scoring.summary`; empty without true answers)."""

    path: Path
    records: list[dict[str, Any]]
    scores: pl.DataFrame


def answer_all(
    model: Model | str | Path,
    samples: Sequence[Sample] | str | Path,
    plan: Plan = Plan(),  # noqa: B008 (frozen)
    out: str | Path = "answers.jsonl",
    *,
    watcher: Watcher | None = None,
) -> Answers:
    """Answer every sample and write one JSON line each to `out`: question_id, prompt, text, answer_id, model_id, metadata.

    While it works, the lines stand in `out` + ".part"; a job that was stopped goes on from there, and one that is finished is found
    so. Raises a MedlensError: see `load` and `read`; BadRun when the file holds the answers of another job; CannotWrite.
    """
    out, watcher = Path(out), watcher or Nobody()
    prepared = prepare(model, samples, plan, watcher)
    part = out.with_name(out.name + ".part")
    records = _done(out if out.exists() else part, prepared)
    watcher.begin("answering", len(prepared.prompts))
    for _ in records:
        watcher.tick()
    if not out.exists():
        _go_on(part, out, prepared, records, watcher)
    return Answers(out, records, _scores(records))


def _go_on(part: Path, out: Path, prepared: Prepared, records: list[dict[str, Any]], watcher: Watcher) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a", encoding="utf-8") as file:
            for prompt in prepared.prompts[len(records) :]:
                said = answer_prompt(prepared.model, prompt, decoding_of(prepared.plan))
                records.append(_record_of(prompt, said, prepared))
                file.write(json.dumps(records[-1], ensure_ascii=False) + "\n")
                file.flush()
                watcher.tick()
        part.rename(out)
    except OSError as e:
        raise CannotWrite(f"{out} cannot be written: {e.strerror or e}; what is done stands in {part.name}") from e


def _done(path: Path, prepared: Prepared) -> list[dict[str, Any]]:
    """The records that a stopped or finished job has left. A last line that was cut off is asked again."""
    if not path.is_file():
        return []
    *whole, rest = path.read_text(encoding="utf-8").split("\n")  # not splitlines: an answer may hold other separators
    try:
        records = [json.loads(line) for line in whole]
        mine = [r["answer_id"] for r in records] == [_identity(p, prepared) for p in prepared.prompts[: len(records)]]
    except (ValueError, KeyError, TypeError) as e:
        raise BadRun(f"{path.name} holds something else than answers; choose another --out") from e
    if not mine or (path.suffix != ".part" and len(records) != len(prepared.prompts)):
        raise BadRun(f"{path.name} holds the answers of another job (model, data or settings differ); choose another --out")
    if rest:
        path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
    return records


def _identity(prompt: Prompt, prepared: Prepared) -> str:
    return hashlib.sha256(f"{prepared.key} {prompt.sample.id}".encode()).hexdigest()[:22]


def _record_of(prompt: Prompt, said: Answer, prepared: Prepared) -> dict[str, Any]:
    sample = prompt.sample
    known = {} if sample.answer is None else {"answer": sample.answer, **score(said, sample.answer, _closed(sample))._asdict()}
    return {
        "question_id": int(sample.id) if sample.id.isdecimal() and str(int(sample.id)) == sample.id else sample.id,
        "prompt": sample.question,
        "text": str(said),
        "answer_id": _identity(prompt, prepared),
        "model_id": _record.public_name(prepared.model.name),
        "metadata": {
            "image": sample.image_id or prompt.image,
            "file": sample.shown,
            "logprob": round(sum(said.logprobs), 4),
            "tokens": len(said.ids),
            "ended": said.ended,
            **{key: value for key, value in known.items() if value is not None},
        },
    }


def _closed(sample: Sample) -> bool | None:
    """What the data say of the question; None where they say nothing."""
    kind = str(sample.tags.get("answer_type", "")).strip().casefold()
    return {"closed": True, "open": False}.get(kind)


def _scores(records: Sequence[dict[str, Any]]) -> pl.DataFrame:
    judged = [r for r in records if "answer" in r["metadata"]]
    scores = [Score(*(r["metadata"].get(field) for field in Score._fields)) for r in judged]
    return summary(scores, [r["metadata"]["image"] for r in judged])
