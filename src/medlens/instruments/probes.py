"""Where the model knows what: a linear probe of every tag at every state, on the mean image token and on the last token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medlens.errors import BadInput
from medlens.findings import Findings
from medlens.measures.probes import FEWEST_FOLDS, Probe, linear_probe
from medlens.types import Row
from medlens.walk.cases import Case, folds_of
from medlens.walk.subgroups import values_of

MEASURED = ("accuracy", "balanced", "majority", "control", "selectivity")
OF_QUESTIONS = "questions on one image differ in it: read at the last token alone"


@dataclass(frozen=True)
class Targets:
    """What is to be read. of_sample: of each tag the value of each sample that has one. image_of: of each sample; unit_of: of each
    image its patient where the data name one, else itself; fold_of: of each image."""

    of_sample: Mapping[str, Mapping[str, str]]
    image_of: Mapping[str, str]
    unit_of: Mapping[str, str]
    fold_of: Mapping[str, int]

    def of_image(self, tag: str) -> dict[str, str] | None:
        """The value of each image; None where questions on one image differ in it."""
        pairs = {(self.image_of[sample], value) for sample, value in self.of_sample[tag].items()}
        found = dict(pairs)
        return found if len(found) == len(pairs) else None


def targets_of(laid: Sequence[Case], tags: Sequence[str], folds: int) -> Targets:
    """Of all cases of a job. Raises BadInput for a tag that no sample has, one with a single value or too many, fewer images than
    folds, and fewer than three folds."""
    samples = {prompt.sample.id: prompt.sample for case in laid for prompt in case.prompts}
    fold_of = folds_of(laid, folds)
    if folds < FEWEST_FOLDS:
        raise BadInput(
            f"folds is {folds}; a probe needs at least {FEWEST_FOLDS}: one is held out, in the others the penalty is chosen"
        )
    if len(set(fold_of.values())) < folds:
        raise BadInput(f"{len(set(fold_of.values()))} images or patients for {folds} folds; give more images, or fewer folds")
    if not tags or isinstance(tags, str):
        raise BadInput(f"tags is {tags!r}; expected one or more fields or tags of the samples, such as ('modality',)")
    of_sample: dict[str, dict[str, str]] = {}
    for tag in dict.fromkeys(tags):
        chosen = values_of(list(samples.values()), tag)
        if len(chosen) < 2:
            raise BadInput(f"every sample with a {tag} has the same one, {min(chosen)!r}: there is nothing to tell apart")
        of_sample[tag] = {sample: value for value, found in chosen.items() for sample in found}
    patients = {case.image: case.prompts[0].sample.patient_id for case in laid}
    unit_of = {image: image if patient is None else f"patient {patient}" for image, patient in patients.items()}
    return Targets(of_sample, {p.sample.id: case.image for case in laid for p in case.prompts}, unit_of, fold_of)


class Probes:
    """Turns one vector for each image, or for each sample, into rows of the table."""

    def __init__(self, targets: Targets, findings: Findings, controls: int, seed: int) -> None:
        self.targets, self.findings, self.controls, self.seed = targets, findings, controls, seed
        self._of_image = {tag: targets.of_image(tag) for tag in targets.of_sample}

    def note(self, layer: int, tokens: str, vectors: Mapping[str, Tensor], *, of_samples: bool = False) -> None:
        """vectors: (d,) of each image, or of each sample."""
        for tag in self.targets.of_sample:
            labels = self.targets.of_sample[tag] if of_samples else self._of_image[tag]
            if labels is None:
                self._undefined(layer, tokens, tag, OF_QUESTIONS)
            elif not (named := [name for name in vectors if name in labels]):
                self._undefined(layer, tokens, tag, "no rows")
            else:
                images = [self.targets.image_of[name] if of_samples else name for name in named]
                found = linear_probe(
                    torch.stack([vectors[name] for name in named]),
                    [labels[name] for name in named],
                    [self.targets.unit_of[image] for image in images],
                    [self.targets.fold_of[image] for image in images],
                    self.controls,
                    self.seed,
                )
                self._add(layer, tokens, tag, found)

    def _add(self, layer: int, tokens: str, tag: str, found: Probe) -> None:
        for name in MEASURED:
            scored = getattr(found, name)
            row = (float(scored.value), scored.low, scored.high, scored.value.n, scored.value.note)
            self.findings.add(Row("sound", f"probe_{name}", layer, tokens, tag, "raw", *row))
        if not math.isnan(found.p):
            said = f"of {self.controls} draws of shuffled labels"
            self.findings.add(Row("sound", "probe_p", layer, tokens, tag, "raw", found.p, None, None, found.accuracy.value.n, said))

    def note_questions(self, words: Mapping[str, Sequence[int]]) -> None:
        """What the questions themselves give away: a probe of how often each word (id) is in them. words: of each sample."""
        columns = {word: k for k, word in enumerate(sorted({word for own in words.values() for word in own}))}
        counts = {sample: torch.zeros(len(columns)) for sample in words}
        for sample, own in words.items():
            for word in own:
                counts[sample][columns[word]] += 1
        if columns:
            self.note(0, "question", counts, of_samples=True)

    def _undefined(self, layer: int, tokens: str, tag: str, why: str) -> None:
        for name in MEASURED:
            self.findings.add(Row("sound", f"probe_{name}", layer, tokens, tag, "raw", math.nan, None, None, 0, why))


class Probing:
    """Reads the walk: the mean of each image's tokens, once an image, and the last token of each sample's prompt, raw."""

    def __init__(self, probes: Probes) -> None:
        self.probes = probes
        self._image: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        self._see(case, before)

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        self._see(case, raw)

    def _see(self, case: Case, state: Tensor) -> None:
        if case.image not in self._image and (places := [i for i, g in enumerate(case.groups) if g == "image"]):
            self._image[case.image] = state[places].float().mean(0).cpu()
        for prompt, reading in zip(case.prompts, case.readings, strict=True):
            self._last[prompt.sample.id] = state[reading[-1]].float().cpu()

    def leave(self, block: int) -> None:
        self._note(block)

    def conclude(self, layer: int) -> None:
        self._note(layer)

    def _note(self, layer: int) -> None:
        self.probes.note(layer, "image", self._image)
        self.probes.note(layer, "last", self._last, of_samples=True)
        self._image, self._last = {}, {}
