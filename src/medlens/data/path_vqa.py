"""PathVQA (He et al. 2020, arXiv:2003.10286): questions on pathology images. `qas/` holds questions, `images/` the images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medlens.data.fields import Bad, to_samples
from medlens.data.jsonlines import records
from medlens.data.parts import test_set
from medlens.data.pickles import is_pickle, refuse_pickle
from medlens.data.tables import rows
from medlens.types import Sample

ENDINGS = (".json", ".jsonl", ".parquet")


def is_path_vqa(path: Path) -> bool:
    """A folder that holds `qas/` and `images/`, or a file of `qas/`."""
    if path.is_dir():
        return (path / "qas").is_dir() and (path / "images").is_dir()
    return path.parent.name == "qas" and is_path_vqa(path.parent.parent) and (path.suffix.lower() in ENDINGS or is_pickle(path))


def read_path_vqa(path: Path, question: str | None, bad: Bad) -> Iterator[Sample]:
    """The named file of questions; of a folder, `qas/*test*`: JSON or parquet with the fields of the published pickles, which are
    themselves refused: `sent` (or `question`), `img_id` (or `image`), `label` ({answer: score}; or `answer`).

    The image of `test_0001` is `images/test/test_0001.jpg`. Tags: answer_type ("closed" for yes/no, else "open").
    """
    file = _of_folder(path / "qas") if path.is_dir() else path
    if is_pickle(file):
        return refuse_pickle(file, question, bad)
    found = rows([file]) if file.suffix.lower() == ".parquet" else records(file, bad)
    return to_samples(found, file.parent.parent, question, bad, _known)


def _of_folder(folder: Path) -> Path:
    files = list(folder.iterdir())
    return test_set(folder, [f for f in files if f.suffix.lower() in ENDINGS] or filter(is_pickle, files))


def _known(record: dict[str, Any]) -> dict[str, Any]:
    name = str(record["img_id"] if "img_id" in record else record["image"])
    kind = record.get("answer_type")
    return {
        "id": record.get("question_id"),
        "image": f"images/{name.rsplit('_', 1)[0]}/{name}.jpg",
        "image_id": name,
        "question": record["sent"] if "sent" in record else record["question"],
        "answer": _best(record["label"]) if "label" in record else record.get("answer"),
        "question_type": record.get("question_type"),
        "answer_type": kind and ("closed" if kind == "yes/no" else "open"),
    }


def _best(label: Any) -> Any:
    """The answer with the highest score, of {answer: score}; a table has a column for every answer there is, mostly empty."""
    scores = {k: v for k, v in label.items() if v is not None} if isinstance(label, dict) else {}
    return max(scores, key=scores.__getitem__) if scores else None
