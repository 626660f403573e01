"""Consistency: what must not change an answer is changed, and what must (left and right, on a mirrored image) is expected to."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from medlens.data.images import open_image
from medlens.models.base import Model
from medlens.models.prompt import look, read
from medlens.scoring import YES_NO, normalised, score
from medlens.stats.intervals import clustered
from medlens.types import Sample
from medlens.walk.cases import Prompt
from medlens.walk.generate import Decoding, answers

NEW_TOKENS = 16
DEGREES = 3.0  # as a patient lies askew
MARGIN = 0.02  # of a side, cut off all around, and enlarged again
BRIGHTER, WINDOW = 1.15, 0.85  # grey values times this; and the width of the window about the middle grey
SAME = 0.5  # share of words (F1) that two answers that say the same have more than in common
ORDERS = ("yes or no ?", "no or yes ?")
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
SIDED = "names a side"  # the group of samples whose own answer says left or right: which a mirror must swap

Row = dict[str, Any]


class Change(NamedTuple):
    """One thing that is changed: of the image (`picture`) or of the question (the sample's own where it is None); `expected`: the
    answer that must come of it, given the one without."""

    kind: str
    question: str
    picture: Callable[[Image.Image], Image.Image] | None = None
    expected: Callable[[str], str] = str


def mirrored_words(text: str) -> str:
    """The same words with "left" and "right" exchanged, in the case they are written in."""

    def other(found: re.Match[str]) -> str:
        word = found[0]
        swapped = "right" if word.lower() == "left" else "left"
        return swapped.upper() if word.isupper() else swapped.capitalize() if word[0].isupper() else swapped

    return SIDES.sub(other, text)


def turned(image: Image.Image, degrees: float) -> Image.Image:
    """Turned about its middle; the corners that come in take the median of the border."""
    pixels = np.asarray(image)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    fill = np.median(rim, axis=0).astype(int)
    corner = int(fill) if fill.ndim == 0 else tuple(map(int, fill))
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=corner)


def cropped(image: Image.Image) -> Image.Image:
    """Without a margin on all sides, and as large as before."""
    width, height = image.size
    x, y = max(1, round(MARGIN * width)), max(1, round(MARGIN * height))
    return image.resize(image.size, Image.Resampling.BICUBIC, (x, y, width - x, height - y))


def brighter(image: Image.Image) -> Image.Image:
    return image.point([min(255, round(BRIGHTER * value)) for value in range(256)] * len(image.getbands()))


def windowed(image: Image.Image) -> Image.Image:
    """Through a narrower window about the middle grey: more contrast, and the ends cut off."""
    shown = [min(255, max(0, round(127.5 + (value - 127.5) / WINDOW))) for value in range(256)]
    return image.point(shown * len(image.getbands()))


PICTURES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "turned left": lambda image: turned(image, DEGREES),
    "turned right": lambda image: turned(image, -DEGREES),
    "cropped": cropped,
    "brighter": brighter,
    "windowed": windowed,
}
KINDS = ("mirrored", *PICTURES, "paraphrased", "order")


def changes(sample: Sample, said: str) -> Iterator[Change]:
    """What is changed about a sample whose own answer is `said`.

    mirrored: the image and, in question and answer, left and right: the whole scene in a mirror. (The question as it stands would
    have no answer that it must have: "is there fluid on the left?" is true before and after, where there is some on both sides.)
    The other pictures: the answer must stay. paraphrased: the sample's own paraphrases, else by `paraphrases.txt`. order: of closed
    questions, "yes or no" behind the question against "no or yes".
    """
    yield Change("mirrored", mirrored_words(sample.question), ImageOps.mirror, mirrored_words)
    for kind, picture in PICTURES.items():
        yield Change(kind, sample.question, picture)
    for words in sample.paraphrases or paraphrases(sample.question):
        yield Change("paraphrased", words)
    if len(set(normalised(said)) & YES_NO) == 1:
        for order in ORDERS:
            yield Change("order", f"{sample.question} {order}")


def paraphrases(question: str) -> list[str]:
    """Other words for a question: of the first two patterns that fit it."""
    found = [match.expand(words) for pattern, words in _templates() if (match := pattern.fullmatch(question.strip()))]
    return found[:2]


@cache
def _templates() -> list[tuple[re.Pattern[str], str]]:
    lines = Path(__file__).with_name("paraphrases.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" => ", 1) for line in lines if line and not line.startswith("#")]
    return [(re.compile(pattern, re.IGNORECASE), words) for pattern, words in pairs]


def contradicts(said: str, expected: str) -> bool:
    """Whether two answers do not say the same: they differ in a yes, no, not, left, right or number, or have half of their words
    (F1) or less in common. A reworded long answer passes, "mass" for "cyst" and "lower left" for "upper left" do not."""
    ours, theirs = normalised(said), normalised(expected)
    if ours == theirs:
        return False
    return _key(ours) != _key(theirs) or (score(said, expected, closed=False).f1 or 0.0) <= SAME


def _key(words: Sequence[str]) -> set[str]:
    return {word for word in words if word in {*YES_NO, "not", "left", "right"} or word[0].isdigit()}


def consistency(
    model: Model, prompts: Sequence[Prompt], *, tick: Callable[[], None] = lambda: None, spill: Path | None = None
) -> list[Row]:
    """Rows of the table `changes`: each question asked again of the changed image, and in other words; one row for each of them.

    The model's own greedy answers are compared, whatever is true: this asks whether it agrees with itself. All that is asked of one
    picture shares a pack. Prompts without an image, or with several, are left out. `tick` is called once for each of the others.
    """
    shown = [prompt for prompt in prompts if len(prompt.sample.images) == 1]
    decoding = Decoding(NEW_TOKENS)
    own = answers(model, shown, decoding, spill=spill) if shown else []
    asked: list[tuple[int, Change, Prompt]] = []
    seen: dict[str, Any] = {}
    for number, (prompt, said) in enumerate(zip(shown, own, strict=True)):
        asked += [(number, change, _asked(model, prompt, change, seen)) for change in changes(prompt.sample, str(said))]
    texts = [str(text) for text in answers(model, [one for *_, one in asked], decoding, spill=spill)] if asked else []
    for _ in shown:
        tick()
    return _compared(shown, [str(said) for said in own], asked, texts)


def _asked(model: Model, prompt: Prompt, change: Change, seen: dict[str, Any]) -> Prompt:
    sample, name, shows = prompt.sample, prompt.image, prompt.look
    if change.picture is not None:
        name = f"{change.kind}: {prompt.image}"
        if name not in seen:
            seen[name] = look(model, [change.picture(open_image(sample.image, sample.id, grey=True))])
        shows = seen[name]
    again = Sample(
        images=sample.images, turns=(*sample.turns[:-1], change.question), id=sample.id, image_id=sample.image_id,
        patient_id=sample.patient_id, tags=sample.tags,
    )  # fmt: skip
    return replace(prompt, sample=again, look=shows, tokens=read(model, again, shows), image=name)


def _compared(
    shown: Sequence[Prompt], own: Sequence[str], asked: Sequence[tuple[int, Change, Prompt]], texts: Sequence[str]
) -> list[Row]:
    found, before = [], {}
    for (number, change, _), text in zip(asked, texts, strict=True):
        expected = change.expected(own[number])
        if change.kind == "order":  # the two are held against each other, not against the question without them
            if number not in before:
                before[number] = text
                continue
            expected = before[number]
        sample = shown[number].sample
        sided = bool(SIDES.search(own[number]))
        found.append({
            "sample": sample.id, "unit": shown[number].unit, "kind": change.kind, "question_type": sample.question_type or "",
            "sided": sided, "question": change.question, "own": own[number], "expected": expected, "said": text,
            "contradicted": contradicts(text, expected),
        })  # fmt: skip
    return found


def contradictions(each: Sequence[Row]) -> list[Row]:
    """Rows of the table `consistency`: the share of contradicted answers by kind of change and question type ("all", and SIDED),
    with 95 % intervals clustered by patient or image (`stats.intervals.clustered`). each: rows of `changes`."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in each:
        for kind in ("any", row["kind"]):
            for group in {"all", row["question_type"] or "all", *([SIDED] if row["sided"] else [])}:
                groups[kind, group].append(row)
    found = [_row(kind, group, rows) for (kind, group), rows in groups.items()]
    if each and ("mirrored", SIDED) not in groups:
        why = "no answer names a side: nothing has to swap"
        found.append(dict.fromkeys(("contradicted", "low", "high")) | _named("mirrored", SIDED, 0, 0, why))
    order = ("any", *KINDS)
    return sorted(found, key=lambda row: (order.index(row["kind"]), row["question_type"] != "all", row["question_type"]))


def _row(kind: str, group: str, rows: Sequence[Row]) -> Row:
    units = [row["unit"] for row in rows]
    share, low, high = clustered([float(row["contradicted"]) for row in rows], units)
    return _named(kind, group, len(rows), len(set(units)), "") | {"contradicted": share, "low": low, "high": high}


def _named(kind: str, group: str, n: int, images: int, note: str) -> Row:
    return {"kind": kind, "question_type": group, "n": n, "images": images, "note": note}
