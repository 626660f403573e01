"""VQA-RAD (Lau et al. 2018, Scientific Data 5:180251): radiology images with questions and answers by clinicians."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medlens.data.fields import Bad, closed_or_open, to_samples
from medlens.data.jsonlines import first_fields, records
from medlens.data.parts import test_set
from medlens.types import Sample


def is_vqa_rad(path: Path) -> bool:
    """A folder that holds such a file and `images/`, or the file."""
    if path.is_dir():
        return (path / "images").is_dir() and any(map(is_vqa_rad, path.glob("*.json")))
    return path.suffix.lower() == ".json" and {"qid", "image_name", "image_organ"} <= first_fields(path)


def read_vqa_rad(path: Path, question: str | None, bad: Bad) -> Iterator[Sample]:
    """The named file of questions; of a folder, the test set (`*testset.json`). Images are in `images/` beside it.

    Tags: answer_type ("closed" or "open"), organ, phrase_type. Every image of the test set occurs in the training set as well.
    """
    file = test_set(path, filter(is_vqa_rad, path.glob("*.json"))) if path.is_dir() else path
    return to_samples(records(file, bad), file.parent, question, bad, _known)


def _known(record: dict[str, Any]) -> dict[str, Any]:
    kind = record.get("question_type")
    return {
        "id": record["qid"],
        "image": f"images/{record['image_name']}",
        "image_id": record["image_name"],
        "question": record["question"],
        "answer": record.get("answer"),
        "question_type": kind.strip() if isinstance(kind, str) else kind,  # "PRES, ATTRIB" is one of them
        "answer_type": closed_or_open(record.get("answer_type")),
        "organ": record.get("image_organ"),
        "phrase_type": record.get("phrase_type"),
    }
