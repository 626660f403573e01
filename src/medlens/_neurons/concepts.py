"""What is looked for: words, the samples they are true or false of, and which half of the data each image belongs to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from medlens.errors import BadInput
from medlens.instruments.attribution import Place
from medlens.models.base import Model
from medlens.models.words import first_id, word_id
from medlens.types import Sample
from medlens.walk.cases import Prompt
from medlens.walk.subgroups import values_of

FOLDS = 5  # of whole images (patients), in each half
FEWEST = 2 * FOLDS  # images of which a word is true, and as many of which it is false: one in each fold of each half
HALVES = ("discovery", "test")
FINDINGS = ("finding", "lesion", "pathology")  # tags that say what was found, by their names in data
NOTHING = ("none", "no", "nothing", "normal")  # values of a tag that name nothing to be found


@dataclass(frozen=True)
class Concept:
    """A word, its token (the first one, where `by` gives a word of several), and of each sample (id) that is looked at whether it
    is true. asked: the types of question that it is an answer to; empty where it is the answer to none: it is then followed behind
    every question."""

    word: str
    id: int
    true: Mapping[str, bool]
    asked: tuple[str, ...]


def concepts_of(
    model: Model, prompts: Sequence[Prompt], concept: str | None, by: str | None
) -> tuple[list[Concept], list[str]]:  # fmt: skip
    """The concepts, and why values of `by` are none.

    by: each value of this field or tag that is one word; one of several tokens is followed by its first, unless others begin with
    the same. "finding" also finds what data call a lesion. concept: this word alone, which one token must say; without `by` it is
    true where it is the answer, and false where another one is.
    Raises BadInput for a word that no one token says, for too few images, and where nothing is left to look for.
    """
    samples = [prompt.sample for prompt in prompts]
    image_of = {prompt.sample.id: prompt.image for prompt in prompts}
    if by is None:
        if concept is None:
            raise BadInput("what is looked for? give concept (a word) or by (a field or tag, such as 'modality')")
        return [_checked(_by_answer(model, samples, concept), image_of)], []
    value_of = {sample: value for value, ids in values_of(samples, _field(samples, by)).items() for sample in ids}
    if concept is not None:
        return [_checked(_by_value(samples, concept, word_id(model, concept), value_of), image_of)], []
    found, left = [], []
    values = sorted({value for value in value_of.values() if value.casefold() not in NOTHING})
    for value, token in _tokens(model, values).items():
        try:
            if isinstance(token, str):
                raise BadInput(token)
            found.append(_checked(_by_value(samples, value, token, value_of), image_of))
        except BadInput as e:
            left.append(str(e))
    if not found:
        raise BadInput(f"nothing to look for by {by}: {'; '.join(left) or 'no value names anything'}")
    return found, left


def _tokens(model: Model, values: Sequence[str]) -> dict[str, int | str]:
    """The token of each value, or why there is none."""
    first = {value: first_id(model, value) for value in values if len(value.split()) == 1}
    shared = [token for token, n in Counter(first.values()).items() if n > 1]
    found: dict[str, int | str] = {value: f"{value!r} is more than one word" for value in values}
    for value, token in first.items():
        found[value] = f"{value!r} begins with the same token as another value" if token in shared else token
    return found


def places_of(prompts: Sequence[Prompt], concepts: Sequence[Concept], seed: int) -> dict[int, dict[str, Place]]:
    """Of each word (id) where each of its samples belongs. Whole images (patients, where the data name them) are dealt out to
    halves and folds, in random order, those of which the same words are true one after the other: so all have some of each."""
    truths: dict[str, set[str]] = defaultdict(set)
    unit_of = {p.sample.id: p.unit for p in prompts}
    for concept in concepts:
        for sample, true in concept.true.items():
            truths[unit_of[sample]] |= {concept.word} if true else set()
    units = sorted(truths)
    Random(seed).shuffle(units)
    units.sort(key=lambda unit: sorted(truths[unit]))
    dealt = {unit: (HALVES[k % 2], k // 2 % FOLDS) for k, unit in enumerate(units)}
    return {c.id: {s: Place(*dealt[unit_of[s]], true) for s, true in c.true.items()} for c in concepts}


def _field(samples: Sequence[Sample], by: str) -> str:
    known = {tag for sample in samples for tag in sample.tags}
    return next((name for name in FINDINGS if name in known), by) if by == "finding" else by


def _by_answer(model: Model, samples: Sequence[Sample], word: str) -> Concept:
    token = word_id(model, word)
    said = {s.id: _same(s.answer, word) for s in samples if s.answer is not None}
    asked = _asked(samples, word, said)
    if not asked:
        raise BadInput(f"{word!r} is no sample's answer; say where it is true with by (a field or tag)")
    return Concept(word, token, {s.id: said[s.id] for s in samples if s.question_type in asked and s.id in said}, asked)


def _by_value(samples: Sequence[Sample], word: str, token: int, value_of: Mapping[str, str]) -> Concept:
    """True where the value is the word, false where it says another; samples whose value says it and more are left out."""
    true = {s: _same(value, word) for s, value in value_of.items() if _same(value, word) or word not in value.split()}
    asked = _asked(samples, word, true)
    kept = {s.id: true[s.id] for s in samples if s.id in true and (not asked or s.question_type in asked)}
    return Concept(word, token, kept, asked)


def _asked(samples: Sequence[Sample], word: str, true: Mapping[str, bool]) -> tuple[str, ...]:
    """The types of question to which the word is an answer, and of whose samples it is true of some and false of others."""
    types: dict[str | None, set[bool]] = defaultdict(set)
    for sample in samples:
        if sample.id in true:
            types[sample.question_type].add(true[sample.id])
    answered = {s.question_type for s in samples if _same(s.answer, word)}
    return tuple(sorted(t for t in answered if t is not None and len(types[t]) == 2))


def _same(said: str | None, word: str) -> bool:
    return said is not None and said.strip().casefold() == word.strip().casefold()


def _checked(concept: Concept, image_of: Mapping[str, str]) -> Concept:
    for kind in (True, False):
        images = {image_of[sample] for sample, true in concept.true.items() if true == kind}
        if len(images) < FEWEST:
            said = "true" if kind else "false"
            raise BadInput(
                f"{concept.word!r} is {said} of {len(images)} images; {FEWEST} are needed ({FOLDS} folds in each of two halves)"
            )
    return concept
