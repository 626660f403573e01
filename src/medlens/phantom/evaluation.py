"""What a model makes of the phantom's slices: does it know, does it look, and at what?

Every question is asked three times: of its own image, of another slice of which it could be asked as well, and of a blank one. A
model that looks says of the other image what is true of *that*; a model that does not says the same thing again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from PIL import Image

from medlens.data.images import open_image
from medlens.errors import BadInput
from medlens.models.base import Model
from medlens.models.prompt import look, read
from medlens.phantom.questions import QUESTIONS, Asked, ask, askable
from medlens.phantom.scanner import MODALITIES, SIDE
from medlens.stats.intervals import wilson
from medlens.types import Sample
from medlens.walk.cases import Prompt
from medlens.walk.generate import answer_together

SIZES = (("small", 0, 9), ("medium", 9, 12), ("large", 12, SIDE))  # px of diameter
BLANK = 102  # grey value of the blank image: the mean that the model subtracts
MOST_TOKENS = 5  # the longest true answer has three: two words and the end


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was asked and answered, and three tables of it.

    answers: one row a question: `image`, `question_type`, `modality`, `size`, `marked`, `ill`; the `truth` and the answer given,
    `said`; of the other image its truth and the answer, `swapped_truth`, `swapped` (null where no other slice fits the question);
    and the answer to a blank one, `blank`.
    """

    model: str
    seed: int
    answers: pl.DataFrame

    def questions(self) -> pl.DataFrame:
        """One row a question type, and one of all: shares of answers.

        `accuracy` with its 95 % interval `low`, `high` (Wilson, over images); `guess`, what the commonest answer would reach;
        `swapped`, accuracy when the image is another's, `predicted`, what a perfect reader of that other image would reach, and
        `follows`, the share of answers that are true of it; `unchanged`, the share that the swap did not change; `blank`, accuracy
        on a blank image.
        """
        parts = [(kind, self.answers.filter(question_type=kind)) for kind in QUESTIONS]
        return pl.DataFrame([_row("question", name, part) for name, part in [*parts, ("all", self.answers)] if part.height])

    def groups(self) -> pl.DataFrame:
        """Accuracy by modality, and by the size of the one lesion: one row a group, one column a question type."""
        named = [("modality", m) for m in MODALITIES] + [("size", size) for size, _, _ in SIZES]
        rows = []
        for column, name in named:
            part = self.answers.filter(pl.col(column) == name)
            shares = {kind: _share(part.filter(question_type=kind), "said", "truth") for kind in QUESTIONS}
            rows.append({"group": name, "images": part["image"].n_unique(), **shares})
        return pl.DataFrame(rows)

    def marks(self) -> pl.DataFrame:
        """Presence, where mark and lesion go together and where only one of them is there: which of the two the answer follows."""
        asked = self.answers.filter(question_type="presence")
        together = asked.filter(pl.col("ill") == pl.col("marked"))
        apart = asked.filter(pl.col("ill") != pl.col("marked"))
        parts = (("together", "lesion", together), ("apart", "lesion", apart), ("apart", "mark", apart))
        return pl.DataFrame([_followed(name, what, part) for name, what, part in parts if part.height])


def evaluate(model: Model, n: int = 2000, seed: int = 0, *, tick: Callable[[], None] = lambda: None) -> Evaluation:
    """Ask a model the phantom's questions: `n` samples of the draw `seed`, in its three conditions.

    `tick` is called once for each question and condition. Raises BadInput.
    """
    if n < 1:
        raise BadInput(f"n is at least 1; got {n}")
    asked = list(itertools.islice(ask(seed), n))
    others = _others(asked, np.random.default_rng([seed, n]))
    blank = Image.new("L", (SIDE, SIDE), BLANK)
    own = _answers(model, [a.sample for a in asked], tick)
    elsewhere = [_on(a.sample, b.sample.image, b.sample.image_id) for a, b in zip(asked, others, strict=True) if b]
    swapped = iter(_answers(model, elsewhere, tick))
    unseen = _answers(model, [_on(a.sample, blank, "blank") for a in asked], tick)
    rows = [
        {
            **_known(a),
            "said": said,
            "swapped_truth": a.question.truth(b.drawn) if b else None,
            "swapped": next(swapped) if b else None,
            "blank": nothing,
        }
        for a, b, said, nothing in zip(asked, others, own, unseen, strict=True)
    ]
    return Evaluation(model.name, seed, pl.DataFrame(rows, infer_schema_length=None))


def _others(asked: Sequence[Asked], rng: np.random.Generator) -> list[Asked | None]:
    """For each question another slice, at random among those of which the very same question can be asked; None: there is none."""
    first = {a.sample.image_id: a for a in asked}
    fitting: dict[object, list[Asked]] = {}
    chosen: list[Asked | None] = []
    for a in asked:
        if a.question not in fitting:
            fitting[a.question] = [b for b in first.values() if a.question in askable(a.question.kind, b.drawn)]
        rest = [b for b in fitting[a.question] if b.drawn is not a.drawn]
        chosen.append(rest[rng.integers(len(rest))] if rest else None)
    return chosen


def _on(sample: Sample, image: object, name: str | None) -> Sample:
    return Sample(image, sample.question, id=sample.id, image_id=name)  # pyright: ignore[reportArgumentType]


def _answers(model: Model, samples: Sequence[Sample], tick: Callable[[], None]) -> list[str]:
    looks = {s.image_id: s.image for s in samples}
    seen = {name: look(model, [open_image(image, str(name), grey=True)]) for name, image in looks.items()}
    prompts = [Prompt(s, seen[s.image_id], read(model, s, seen[s.image_id]), str(s.image_id)) for s in samples]
    return [str(said) for said in answer_together(model, prompts, MOST_TOKENS, tick)]


def _known(asked: Asked) -> dict[str, object]:
    drawn = asked.drawn
    width = 2 * drawn.lesions[0].radius if len(drawn.lesions) == 1 else None
    return {
        "image": asked.sample.image_id,
        "question_type": asked.question.kind,
        "about": " ".join(sorted(asked.question.about)),
        "question": asked.sample.question,
        "modality": drawn.modality,
        "size": None if width is None else next(name for name, low, high in SIZES if low <= width < high),
        "marked": drawn.mark is not None,
        "ill": bool(drawn.lesions),
        "truth": asked.sample.answer,
    }


def _row(title: str, name: str, part: pl.DataFrame) -> dict[str, object]:
    accuracy = _share(part, "said", "truth")
    assert accuracy is not None  # every question has a truth and was answered
    low, high = wilson(accuracy, part["image"].n_unique())
    guess = sum(group["truth"].value_counts()["count"].max() for group in part.partition_by("question_type", "about"))  # pyright: ignore
    return {
        title: name,
        "n": part.height,
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "guess": guess / part.height,
        "swapped": _share(part, "swapped", "truth"),
        "predicted": _share(part, "swapped_truth", "truth"),
        "follows": _share(part, "swapped", "swapped_truth"),
        "unchanged": _share(part, "swapped", "said"),
        "blank": _share(part, "blank", "truth"),
    }


def _followed(name: str, what: str, part: pl.DataFrame) -> dict[str, object]:
    there = pl.col("ill" if what == "lesion" else "marked")
    share = part.filter(pl.col("said") == pl.when(there).then(pl.lit("yes")).otherwise(pl.lit("no"))).height / part.height
    low, high = wilson(share, part.height)
    return {"mark and lesion": name, "answer follows the": what, "n": part.height, "share": share, "low": low, "high": high}


def _share(part: pl.DataFrame, one: str, other: str) -> float | None:
    """Share of rows in which the two columns are the same, among those that have both."""
    return (part[one] == part[other]).mean()  # pyright: ignore[reportReturnType]
