"""What is asked of a slice: nine types of question in several phrasings, each with the truth.

A question is asked only where its answer is a fact: nobody asks where *the* lesion is when there are two, or which of two is larger
when there is one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medlens.errors import BadInput
from medlens.phantom.scanner import LESIONS, MODALITIES, PLACES, Slice, draw
from medlens.types import Region, Sample

SOURCE = "phantom"  # the tag that tells a drawn slice from a patient's image
OWN = (SOURCE, "phantom slices")  # names of data that the phantom was made for
COUNTS = ("zero", "one", "two")

QUESTIONS: dict[str, tuple[str, ...]] = {
    "presence": (
        "is there a lesion on the image ?",
        "is there a pathology on the image ?",
        "does the image show a lesion ?",
        "can a lesion be seen ?",
    ),
    "type": (
        "what kind of lesion is it ?",
        "which type of lesion does the image show ?",
        "what is the lesion ?",
    ),
    "place": (
        "where is the lesion ?",
        "where on the image is the lesion ?",
        "in which quadrant is the lesion ?",
    ),
    "side": (
        "which side is the lesion on ?",
        "is the lesion on the left or on the right ?",
        "on which side is the lesion ?",
    ),
    "modality": (
        "which modality is this ?",
        "what kind of image is this ?",
        "how was the image taken ?",
    ),
    "count": (
        "how many lesions are there ?",
        "how many lesions does the image show ?",
        "what is the number of lesions ?",
    ),
    "relation": (
        "is the lesion {0} of the midline ?",
        "does the lesion lie {0} of the midline ?",
        "is the lesion seen {0} of the midline ?",
    ),
    "larger": (
        "which is larger , the {0} or the {1} ?",
        "which one is bigger , the {0} or the {1} ?",
        "of the {0} and the {1} , which is larger ?",
    ),
    "reference": (
        "is the lesion larger than the mark ?",
        "is the lesion wider than the mark is long ?",
        "does the lesion exceed the mark ?",
    ),
}


def is_phantom(model: str) -> bool:
    """Whether this is the name of one of the phantom's models, sound or not."""
    return model.partition(":")[0] == SOURCE


def is_foreign(model: str, data: str) -> bool:
    """Whether one of the phantom's models was asked of images that it was not made for: its answers to them mean nothing."""
    return is_phantom(model) and data not in OWN


def is_foreign_sample(model: str, sample: Sample) -> bool:
    """The same of one sample."""
    return is_phantom(model) and sample.tags.get("source") != SOURCE


@dataclass(frozen=True)
class Question:
    """A type of question, and the words `about` which it is asked: ("left",) for a relation, ("mass", "cyst") for larger."""

    kind: str
    about: tuple[str, ...] = ()

    @property
    def phrases(self) -> tuple[str, ...]:
        return tuple(phrase.format(*self.about) for phrase in QUESTIONS[self.kind])

    def truth(self, drawn: Slice) -> str:
        """The true answer about a slice of which this can be asked; about the lesion of a healthy slice it is "none"."""
        if self.kind == "presence":
            return "yes" if drawn.lesions else "no"
        if self.kind == "modality":
            return drawn.modality
        if self.kind == "count":
            return COUNTS[len(drawn.lesions)]
        if self.kind == "larger":
            return max(drawn.lesions, key=lambda lesion: lesion.radius).kind
        return self._of_the_lesion(drawn)

    def _of_the_lesion(self, drawn: Slice) -> str:
        if not drawn.lesions:
            return "none"
        (lesion,) = drawn.lesions
        if self.kind == "relation":
            return "yes" if lesion.side == self.about[0] else "no"
        if self.kind == "reference":
            assert drawn.mark is not None
            return "yes" if 2 * lesion.radius > drawn.mark.length else "no"
        return {"type": lesion.kind, "place": lesion.place, "side": lesion.side}[self.kind]


def askable(kind: str, drawn: Slice) -> list[Question]:
    """The questions of a type that can be asked of a slice."""
    kinds = [lesion.kind for lesion in drawn.lesions]
    if kind in ("presence", "modality", "count"):
        return [Question(kind)]
    if kind == "larger":
        return [Question(kind, pair) for pair in itertools.permutations(kinds)] if len(set(kinds)) == 2 else []
    if kind == "reference":
        return [Question(kind)] if len(kinds) == 1 and drawn.mark else []
    if len(kinds) > 1:
        return []
    return [Question(kind, (side,)) for side in ("left", "right")] if kind == "relation" else [Question(kind)]


def vocabulary() -> list[str]:
    """Every word that is asked or answered with, in order."""
    spoken = [phrase.format("", "") for phrases in QUESTIONS.values() for phrase in phrases]
    spoken += [*MODALITIES, *LESIONS, *PLACES, *COUNTS, "yes", "no", "none"]
    return sorted({word for phrase in spoken for word in phrase.split()})


@dataclass(frozen=True)
class Asked:
    """A sample beside what it was made of."""

    sample: Sample
    drawn: Slice
    question: Question


def samples(
    n: int, seed: int = 0, questions: tuple[str, ...] | str = tuple(QUESTIONS), *, mark_agreement: float = 0.5
) -> list[Sample]:
    """Draw `n` samples: one slice after the other, each asked every type in `questions` (by default all nine) that fits it.

    The same seed gives the same samples, and the first samples of a longer draw are those of a shorter one. Half of the slices are
    healthy, and half are marked; `mark_agreement` is the probability that mark and lesion go together (see `scanner.draw`).

    Each `Sample` carries the exact masks (`regions`: one of each lesion, and "mark"), the true answer, the paraphrases of its
    question, and the tags source, modality, lesion, place, laterality, radius (px; of the largest), count, and mark (its corner).
    Raises BadInput.
    """
    return [asked.sample for asked in itertools.islice(ask(seed, questions, mark_agreement), _positive(n))]


def _positive(n: int) -> int:
    if n < 1:
        raise BadInput(f"n is at least 1; got {n}")
    return n


def ask(seed: int, questions: tuple[str, ...] | str = tuple(QUESTIONS), mark_agreement: float = 0.5) -> Iterator[Asked]:
    """The endless stream that `samples` begins: every sample with its slice and question."""
    kinds = (questions,) if isinstance(questions, str) else tuple(questions)
    unknown = [k for k in kinds if k not in QUESTIONS]
    if unknown or not kinds:
        raise BadInput(f"question types are {', '.join(QUESTIONS)}; got {', '.join(unknown) or 'none'}")
    if seed < 0 or not 0 <= mark_agreement <= 1:
        raise BadInput(f"seed is at least 0 and mark_agreement in 0..1; got seed={seed}, mark_agreement={mark_agreement}")
    return _stream(seed, kinds, mark_agreement)


def _stream(seed: int, kinds: tuple[str, ...], mark_agreement: float) -> Iterator[Asked]:
    for number in itertools.count():
        drawn = draw(np.random.default_rng([seed, number]), mark_agreement)
        for kind in kinds:
            if possible := askable(kind, drawn):
                rng = np.random.default_rng([seed, number, 1 + list(QUESTIONS).index(kind)])
                question = possible[rng.integers(len(possible))]
                yield Asked(_sample(drawn, question, f"s{seed}-{number:04d}", rng), drawn, question)


def _sample(drawn: Slice, question: Question, name: str, rng: np.random.Generator) -> Sample:
    phrases = question.phrases
    chosen = phrases[rng.integers(len(phrases))]
    marked = [] if drawn.mark is None else [Region("mark", drawn.mark.mask)]
    return Sample(
        id=f"{name}-{question.kind}",
        image=Image.fromarray(drawn.pixels),
        image_id=name,
        question=chosen,
        paraphrases=tuple(p for p in phrases if p != chosen),
        answer=question.truth(drawn),
        question_type=question.kind,
        regions=[*(Region(lesion.kind, lesion.mask) for lesion in drawn.lesions), *marked],
        tags=_tags(drawn),
    )


def _tags(drawn: Slice) -> dict[str, object]:
    def each(words: list[str]) -> str:
        return " and ".join(dict.fromkeys(words)) or "none"

    return {
        "source": SOURCE,
        "modality": drawn.modality,
        "lesion": each([lesion.kind for lesion in drawn.lesions]),
        "place": each([lesion.place for lesion in drawn.lesions]),
        "laterality": each([lesion.side for lesion in drawn.lesions]),
        "radius": max((round(lesion.radius, 2) for lesion in drawn.lesions), default=None),
        "count": len(drawn.lesions),
        "mark": "none" if drawn.mark is None else drawn.mark.place,
    }
