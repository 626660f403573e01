"""LLaVA-Med's own evaluation (Li et al. 2023, arXiv:2306.00890): 193 questions on 50 figures, published without them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medlens.data.fields import Bad, to_samples
from medlens.data.jsonlines import first_fields, records
from medlens.errors import BadData
from medlens.types import Sample

NAME = "*qa50_qa.jsonl"
FIELDS = {"question_id", "image", "pair_id", "text", "fig_caption"}
PLACEHOLDER = "<image>"  # where LLaVA-Med's code puts the image; here the model's own chat template does


def is_llava_med(path: Path) -> bool:
    """A folder that holds the published file, or the file."""
    if path.is_dir():
        return any(is_llava_med(file) for file in path.glob(NAME))
    return path.suffix.lower() == ".jsonl" and first_fields(path) >= FIELDS


def read_llava_med(path: Path, question: str | None, bad: Bad) -> Iterator[Sample]:
    """The questions, without their `<image>` placeholder. Images are in `images/` beside the file, under the names it gives.

    Tags: gpt4_answer (by a GPT-4 that saw the caption alone: a reference, not the truth, so it is not `answer`), domain,
    fig_caption, pair_id. The paragraphs that mention the figure are left out. Raises BadData where no image was fetched yet.
    """
    file = next(f for f in sorted(path.glob(NAME)) if is_llava_med(f)) if path.is_dir() else path
    if not (file.parent / "images").is_dir():
        raise BadData(
            f"{file.name}: no folder images/ beside it; LLaVA-Med publishes these questions without their images: fetch them "
            "from PubMed Central (llava_med_image_urls.jsonl lists them), named as the field `image` says"
        )
    return to_samples(records(file, bad), file.parent, question, bad, _known)


def _known(record: dict[str, Any]) -> dict[str, Any]:
    domain, text = record.get("domain") or {}, record["text"]
    return {
        "id": record["question_id"],
        "image": f"images/{record['image']}",
        "image_id": record["image"],
        "question": text.replace(PLACEHOLDER, "").strip() if isinstance(text, str) else text,
        "question_type": record.get("type"),
        "gpt4_answer": record.get("gpt4_answer"),
        "domain": ", ".join(k for k, true in domain.items() if true) if isinstance(domain, dict) else domain,
        "fig_caption": record.get("fig_caption"),
        "pair_id": record.get("pair_id"),
    }
