"""Protocol "published": geometry and contextualisation as the published study has them, its rows and its arithmetic."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from medlens.findings import Findings
from medlens.measures.cosines import mean_cosine
from medlens.measures.published import (
    adjusted,
    cosine_to_mean,
    published_dimension,
    published_linearity_from_sums,
    published_linearity_of_update_from_sums,
    uncentred_mev,
)
from medlens.measures.spectrum import anisotropy_from_sums
from medlens.plan import Plan
from medlens.stats import PairSums
from medlens.stats.flat import need, nested, parts
from medlens.stats.numbered import Numbered
from medlens.types import Row, Value
from medlens.walk.cases import Case, Prompt
from medlens.walk.choice import SEED, SEQUENCES, TOKENS, Choice, positions

PROTOCOL = "published"
NEIGHBOURS = 4096  # the first so many rows of image and of all enter the dimension; of text all of them
BASELINE = 64  # tokens drawn for each baseline
WORD = 1  # index in the text group of the token whose contexts are compared: the study's "there"
DRAWN = "64 text tokens drawn for this layer alone, by the plan's seed (the study: without one)"
PAIRS: dict[str, Callable[[PairSums], Value]] = {
    "linearity": published_linearity_from_sums,
    "linearity_of_update": published_linearity_of_update_from_sums,
}


class Spoken:
    """Of one state, what contextualisation needs: rows of one word in its contexts, those drawn for each baseline, and the sum of
    the samples' intra-similarities with their number."""

    kept = ("word", "cosine", "mev")

    def __init__(self) -> None:
        self.rows = {name: Numbered() for name in self.kept}
        self.intra, self.samples = 0.0, 0

    def add(self, x: Tensor) -> None:
        """The text rows of a sample."""
        value = cosine_to_mean(x)
        if value.n and float(value) == float(value):
            self.intra += float(value)
            self.samples += 1

    def merge(self, other: Spoken) -> None:
        for name, rows in self.rows.items():
            rows.merge(other.rows[name])
        self.intra += other.intra
        self.samples += other.samples

    def values(self) -> Iterator[tuple[str, Value]]:
        """All of it, each measure beside its baseline."""
        word, cosines, explained = (self.rows[name].rows() for name in self.kept)
        intra = (
            Value(self.intra / self.samples, self.samples)
            if self.samples
            else Value.undefined(0, "no sample with text tokens that have a direction")
        )
        found = {
            "self_similarity": _of_contexts(mean_cosine, word),
            "intra_similarity": intra,
            "mev": _of_contexts(uncentred_mev, word),
        }
        cosine, mev = mean_cosine(cosines), uncentred_mev(explained)
        yield from found.items()
        for name, base in (("baseline_cosine", cosine), ("baseline_mev", mev)):
            yield name, Value(base, base.n, base.note or DRAWN)
        for name, value in found.items():
            yield f"adjusted_{name}", adjusted(value, mev if name == "mev" else cosine)

    def tensors(self) -> dict[str, Tensor]:
        found = {"intra": torch.tensor(self.intra, dtype=torch.float64), "samples": torch.tensor(self.samples)}
        for name, rows in self.rows.items():
            found |= nested(name, rows.tensors())
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Spoken:
        new, (own, found) = cls(), parts(tensors)
        need("contexts", [*own, *found], ["intra", "samples", *cls.kept])
        new.rows = {name: Numbered.from_tensors(found[name]) for name in cls.kept}
        new.intra, new.samples = float(own["intra"]), int(own["samples"])
        return new


class Published:
    """Rows with protocol "published". choice: of all samples of the study; empty where sums are only taken.

    State measures (anisotropy, intrinsic_dimension) for states 0..L-1, pair measures for blocks 0..L-2: the study computed nothing
    of the last block but contextualisation behind the final norm. Rows of an image that several of its samples show are summed as
    often as these were chosen, as there.
    """

    def __init__(self, plan: Plan, choice: Choice, findings: Findings) -> None:
        self.plan, self.choice, self.findings = plan, choice, findings
        self._pairs = {group: PairSums() for group in TOKENS}
        self._draws: tuple[int | str, dict[str, dict[int, int]]] | None = None
        self._clear()
        self._last = Spoken()

    def _clear(self) -> None:
        self._near = {group: Numbered() for group in TOKENS}
        self._counts = {group: [0, 0] for group in TOKENS}  # samples, and rows that repeat others
        self._spoken = Spoken()

    # ---- while the cases pass

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        for group in TOKENS:
            if taken := list(self._taken(case, group)):
                places = [place for _, own, _ in taken for place in own]
                self._pairs[group].update(before[places], after[places])
                for prompt, own, first in taken:
                    count = len(own) if group == "text" else max(0, min(len(own), NEIGHBOURS - first))
                    self._near[group].update(before[own[:count]], range(first, first + count))
                    self._counts[group][0] += 1
                    if group != "text" and prompt.sample.id in self.choice.again[group]:
                        self._counts[group][1] += len(prompt.tokens.where("image"))
        self._speak(self._spoken, block, case, before)

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        self._speak(self._last, "last", case, normed)

    def _taken(self, case: Case, group: str) -> Iterator[tuple[Prompt, list[int], int]]:
        """The chosen prompts of a case with the places of their rows in its pack, and how many rows come before them."""
        for branch, prompt in enumerate(case.prompts):
            first = self.choice.first[group].get(prompt.sample.id)
            if first is not None:
                at = case.pack.rows(branch)
                yield prompt, [at[p] for p in positions(prompt.tokens, group)], first

    def _speak(self, spoken: Spoken, layer: int | str, case: Case, state: Tensor) -> None:
        drawn = self._drawn(layer)
        for prompt, own, first in self._taken(case, "text"):
            spoken.add(state[own])
            number = self.choice.context_of.get(prompt.sample.id)
            if number is not None and len(own) > WORD:
                spoken.rows["word"].update(state[[own[WORD]]], [number])
            for name, numbers in drawn.items():
                chosen = [(place, numbers[first + k]) for k, place in enumerate(own) if first + k in numbers]
                spoken.rows[name].update(state[[place for place, _ in chosen]], [number for _, number in chosen])

    def _drawn(self, layer: int | str) -> dict[str, dict[int, int]]:
        """For each baseline the text rows that are drawn at this layer, by their number among all, and in which turn."""
        if self._draws is None or self._draws[0] != layer:
            total, found = self.choice.total["text"], {}
            for name in ("cosine", "mev"):
                rng = random.Random(f"{self.plan.seed} {layer} {name}")
                found[name] = {row: turn for turn, row in enumerate(rng.sample(range(total), min(BASELINE, total)))}
            self._draws = layer, found
        return self._draws[1]

    # ---- when they have passed

    def leave(self, block: int) -> None:
        for group, pairs in self._pairs.items():
            said = self._how(group)
            for name, of_sums in PAIRS.items():
                self._note(name, block, group, "raw", of_sums(pairs), said)
            self._note("anisotropy", block, group, "raw", anisotropy_from_sums(pairs.x), said)
            near = self._near[group].rows()
            first = f"the first {NEIGHBOURS} of {pairs.n} rows" if len(near) < pairs.n else ""
            self._note("intrinsic_dimension", block, group, "raw", published_dimension(near), said, first)
        for name, value in self._spoken.values():
            self._note(name, block, "text", "raw", value)
        self._follow()

    def conclude(self, layer: int) -> None:
        """All have left the last block. Only now is it known that it was the last: the study has no transition through it."""
        rows = self.findings.rows
        rows[:] = [row for row in rows if not (row.protocol == PROTOCOL and row.measure in PAIRS and row.layer == layer - 1)]
        for name, value in self._last.values():
            self._note(name, layer, "text", "normed", value)

    def _follow(self) -> None:
        self._pairs = {group: pairs.follow() for group, pairs in self._pairs.items()}
        self._clear()

    def _how(self, group: str) -> str:
        """Whose rows these are."""
        samples, repeats = self._counts[group]
        if group == "text":
            return "question and closing template"
        again = f"; {repeats} rows repeat those of an image shown before" if repeats else ""
        if group == "image":
            return f"every third sample: {samples}{again}"
        drawn = f"{SEQUENCES} samples drawn with Python's random, seed {SEED} (inferred)"
        return f"whole sequences of {drawn if samples == SEQUENCES else f'all {samples} samples: fewer than {SEQUENCES}'}{again}"

    def _note(self, measure: str, layer: int, tokens: str, variant: str, value: Value, *more: str) -> None:
        note = "; ".join(filter(None, (value.note, *more)))
        self.findings.add(Row(PROTOCOL, measure, layer, tokens, "all", variant, float(value), None, None, value.n, note))

    # ---- across machines

    def hand_over(self) -> dict[str, Tensor]:
        """The sums of the block that all cases here have passed, as named tensors, for another's `take`; the next block follows."""
        found = nested("spoken", self._spoken.tensors())
        for group in TOKENS:
            found |= nested(f"pairs/{group}", self._pairs[group].tensors())
            found |= nested(f"near/{group}", self._near[group].tensors())
            found |= {f"counts/{group}.counts": torch.tensor(self._counts[group])}
        self._follow()
        return found

    def hand_over_last(self) -> dict[str, Tensor]:
        """The same of the last state."""
        return nested("last", self._last.tensors())

    def take(self, sums: Mapping[str, Tensor]) -> None:
        """Add what another has handed over, of a block or of the last state. Raises BadRun for anything else."""
        _, found = parts(sums)
        if "last" in found:
            need("sums of the last state", found, ["last"])
            self._last.merge(Spoken.from_tensors(found["last"]))
            return
        need("sums of a block", found, ["spoken", *(f"{what}/{g}" for what in ("pairs", "near", "counts") for g in TOKENS)])
        self._spoken.merge(Spoken.from_tensors(found["spoken"]))
        for group in TOKENS:
            self._pairs[group].merge(PairSums.from_tensors(found[f"pairs/{group}"]))
            self._near[group].merge(Numbered.from_tensors(found[f"near/{group}"]))
            more = found[f"counts/{group}"]["counts"].tolist()
            self._counts[group] = [mine + theirs for mine, theirs in zip(self._counts[group], more, strict=True)]


def _of_contexts(measure: Callable[[Tensor], Value], word: Tensor) -> Value:
    if len(word) < 2:
        return Value.undefined(len(word), f"no question is asked of more than {len(word)} images: --question asks one of all")
    value = measure(word)
    return Value(value, value.n, value.note or f"token {WORD} of the question asked of most images")
