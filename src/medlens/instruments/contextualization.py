"""Contextualisation by layer: how much a token's row depends on the image before it, and how alike the rows of one sample are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from math import isnan
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medlens.findings import Findings
from medlens.measures.contextual import averaged, centred_gram_of, gram_of, intra_of_sample, mev_centred_of_gram, mev_of_gram
from medlens.measures.cosines import mean_cosine, mean_cosine_between_from_sums
from medlens.plan import Plan
from medlens.stats import CosineSums, Folds, RowSample
from medlens.stats.flat import need, nested, parts
from medlens.stats.intervals import Interval, jackknife
from medlens.stats.rows import priority
from medlens.types import Row, Value
from medlens.walk.cases import Case
from medlens.walk.layout import Followed, Layout

CONTEXTS = 128  # images whose rows are kept, in all folds together
PLACES = 16  # of the grid that are followed, evenly spread
DRAWS = 20  # of other tokens, for the baseline of MEV
SHOWN = ("text", "image")
OF_TOKENS = ("self_similarity", "mev", "mev_centred")


class Scores:
    """Of each sample one number: how many, their sum, rows they stand on, and samples that have none."""

    def __init__(self) -> None:
        self.n, self.rows, self.lost, self.sum = 0, 0, 0, torch.zeros((), dtype=torch.float64)

    def update(self, value: Value) -> None:
        if isnan(value):
            self.lost += 1
            return
        self.n, self.rows, self.sum = self.n + 1, self.rows + value.n, self.sum + float(value)

    def merge(self, other: Scores) -> Scores:
        self.n, self.rows, self.lost, self.sum = (
            self.n + other.n, self.rows + other.rows, self.lost + other.lost, self.sum + other.sum,
        )  # fmt: skip
        return self

    def tensors(self) -> dict[str, Tensor]:
        return {"counts": torch.tensor([self.n, self.rows, self.lost]), "sum": self.sum}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Scores:
        need("scores of samples", tensors, ["counts", "sum"])
        new = cls()
        (new.n, new.rows, new.lost), new.sum = tensors["counts"].tolist(), tensors["sum"]
        return new

    def mean(self) -> Value:
        lost = [Value.undefined(0, "")] * self.lost
        if not self.n:
            return averaged(lost)
        return Value(float(self.sum) / self.n, self.rows, averaged([Value(0.0), *lost]).note)


class Seen:
    """What is kept of one state, by group and fold: scores of samples, sums for cosines, and two bounded samples of contexts.

    A context is one image's rows side by side, (1, k d): `tokens` those that are followed, `draws` other ones of the group.
    """

    kinds: Mapping[str, Any] = {"intra": Scores, "cosines": CosineSums, "tokens": RowSample, "draws": RowSample}

    def __init__(self, folds: int) -> None:
        self.cap = -(-CONTEXTS // folds)
        new: dict[str, Callable[[], Any]] = {k: (kind if kind is not RowSample else self._sample) for k, kind in self.kinds.items()}
        self.sums = {f"{kind}/{group}": Folds(make, folds) for kind, make in new.items() for group in SHOWN}

    def _sample(self) -> RowSample:
        return RowSample(self.cap)

    def __getitem__(self, name: str) -> Folds[Any]:
        return self.sums[name]

    def close(self) -> None:
        for group in SHOWN:
            for cosines in self.sums[f"cosines/{group}"]:
                cosines.close()

    def merge(self, other: Seen) -> None:
        for name, folds in self.sums.items():
            folds.merge(other.sums[name])

    def tensors(self) -> dict[str, Tensor]:
        self.close()
        return {key: tensor for name, folds in self.sums.items() for key, tensor in nested(name, folds.tensors()).items()}

    @classmethod
    def from_tensors(cls, folds: int, tensors: Mapping[str, Tensor]) -> Seen:
        new, (own, found) = cls(folds), parts(tensors)
        need("contexts", own, [])
        need("contexts", found, list(new.sums))
        for name, empty in new.sums.items():
            kind = cls.kinds[name.partition("/")[0]]
            new.sums[name] = Folds.from_tensors(found[name], lambda _, of, kind=kind: kind.from_tensors(of), empty.new)
        return new


class Estimate(NamedTuple):
    """A value, the same without each fold that has rows, and why no interval may be put to it."""

    full: Value
    without: Mapping[int, Value]
    why_none: str = ""

    def less(self, other: Estimate) -> Estimate:
        """The difference. Folds that the other has no rows in change nothing in it."""
        without = {k: _less(value, other.without.get(k, other.full)) for k, value in self.without.items()}
        return Estimate(_less(self.full, other.full), without, self.why_none or other.why_none)


def _less(value: Value, other: Value) -> Value:
    if isnan(value) or isnan(other):
        return Value.undefined(value.n, value.note if isnan(value) else f"its baseline: {other.note}")
    return Value(float(value) - float(other), value.n, value.note)


def mean_of(estimates: Sequence[Estimate], what: str) -> Estimate:
    """Of several tokens (or draws) the mean: of those that are defined. Each counts once."""

    def mean(values: Iterable[Value]) -> Value:
        values = list(values)
        found = [value for value in values if not isnan(value)]
        if not found:
            return Value.undefined(values[0].n, values[0].note)
        lost = f"{len(values) - len(found)} of {len(values)} {what} left out: undefined" if len(found) < len(values) else ""
        return Value(sum(map(float, found)) / len(found), found[0].n, lost)

    tied = sum(bool(e.why_none) for e in estimates)
    why = f"no interval: of {tied} of {len(estimates)} {what} the two largest eigenvalues are within 10 %" if tied else ""
    without = {k: mean(e.without[k] for e in estimates) for k in estimates[0].without}
    return Estimate(mean(e.full for e in estimates), without, why)


class Contexts:
    """Kept rows: v (images, tokens, d), and the fold of each image."""

    def __init__(self, samples: Folds[RowSample], tokens: int, most: Sequence[int] | None = None) -> None:
        """most: at most so many images of each fold."""
        rows = [s.rows[: None if most is None else most[k]] for k, s in enumerate(samples) if s.rows is not None]
        counts = [len(s.rows) if s.rows is not None else 0 for s in samples]
        self.counts = counts if most is None else [min(n, m) for n, m in zip(counts, most, strict=True)]
        self.fold = torch.tensor([k for k, n in enumerate(self.counts) for _ in range(n)], dtype=torch.int64)
        self.v = torch.cat(rows).unflatten(1, (tokens, -1)) if rows and tokens else torch.zeros(0, tokens, 1)

    def estimates(self, token: int, names: Sequence[str] = OF_TOKENS) -> dict[str, Estimate]:
        """Of one token each measure, with and without each fold."""
        v = self.v[:, token].double()
        gram, centred = gram_of(v), centred_gram_of(v) if len(v) else v.new_zeros(0, 0)
        measures: dict[str, Callable[[Tensor], Value]] = {
            "self_similarity": lambda at: mean_cosine(v[at]),
            "mev": lambda at: mev_of_gram(gram[at][:, at]),
            "mev_centred": lambda at: mev_centred_of_gram(centred[at][:, at], float(gram.diagonal()[at].sum())),
        }
        return {name: self._estimate(measures[name]) for name in names}

    def _estimate(self, measure: Callable[[Tensor], Value]) -> Estimate:
        full = measure(torch.ones_like(self.fold, dtype=torch.bool))
        if len(self.fold) < 2:
            full = Value.undefined(len(self.fold), "one image" if len(self.fold) else "no rows")
        without = {k: measure(self.fold != k) for k, n in enumerate(self.counts) if n}
        return Estimate(full, without, f"no interval: {full.note}" if "eigenvalues" in full.note else "")


class Contextualization:
    """Self-similarity, intra-similarity and maximum explainable variance (Ethayarajh 2019), with their baselines, of every state.

    plan: its seed chooses which rows are kept, the same at every layer. layout: the fold of each image, and which question is
    followed. Cases of one image must pass one after the other. An `Instrument`: see `_instruments`.
    """

    def __init__(self, plan: Plan, layout: Layout | None = None, findings: Findings | None = None) -> None:
        self.plan, self.layout, self.findings = plan, layout or Layout(), findings or Findings()
        self.followed = self.layout.followed
        self._seen = self._empty()
        self._last = {variant: self._empty() for variant in ("raw", "normed")}
        self._open: str | None = None
        self._asked = False

    def _empty(self) -> Seen:
        return Seen(self.layout.folds)

    # ---- while the cases pass

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        self._see(case, [(self._seen, before)])

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        self._see(case, list(zip(self._last.values(), (raw, normed), strict=True)))

    def _see(self, case: Case, states: Sequence[tuple[Seen, Tensor]]) -> None:
        fold, first = self.layout.fold_of.get(case.image, 0), self._open != case.image
        if first:
            self._open, self._asked = case.image, False
            for seen, _ in states:
                seen.close()
        order = torch.tensor([priority(self.plan.seed, "context", case.image)])
        for places, ids in self._questions(case):
            for seen, state in states:
                seen["intra/text"][fold].update(intra_of_sample(state[places]))
                seen["cosines/text"][fold].update(state[places], case.image)
                if ids == self.followed.ids and not self._asked:
                    seen["tokens/text"][fold].update(state[places].reshape(1, -1), order)
            self._asked |= ids == self.followed.ids
        if first:  # a case that holds the image again adds nothing
            self._see_image(case, fold, order, states)
            self._draw(case, "text", fold, order, states)

    def _see_image(self, case: Case, fold: int, order: Tensor, states: Sequence[tuple[Seen, Tensor]]) -> None:
        places = _places(case, 0, "image")
        if not places:
            return
        for seen, state in states:
            seen["intra/image"][fold].update(intra_of_sample(state[places]))
            seen["cosines/image"][fold].update(state[places], case.image)
            if len(places) == self.followed.patches:
                chosen = [places[k] for k in spread(len(places))]
                seen["tokens/image"][fold].update(state[chosen].reshape(1, -1), order)
        if len(places) == self.followed.patches:
            self._draw(case, "image", fold, order, states)

    def _draw(self, case: Case, group: str, fold: int, order: Tensor, states: Sequence[tuple[Seen, Tensor]]) -> None:
        """Tokens of this image for the baseline of MEV: one for each draw, of all that the case has."""
        if places := case.where(group):
            chosen = [places[priority(self.plan.seed, "draw", k, case.image) % len(places)] for k in range(DRAWS)]
            for seen, state in states:
                seen[f"draws/{group}"][fold].update(state[chosen].reshape(1, -1), order)

    def _questions(self, case: Case) -> Iterable[tuple[list[int], tuple[int, ...]]]:
        for branch in range(len(case.prompts)):
            if places := _places(case, branch, "text"):
                yield places, tuple(case.pack.ids[i] for i in places)

    # ---- when they have passed

    def leave(self, block: int) -> None:
        self._note_state(block, "raw", self._seen)
        self._seen, self._open = self._empty(), None

    def conclude(self, layer: int) -> None:
        for variant, seen in self._last.items():
            self._note_state(layer, variant, seen)

    def _note_state(self, layer: int, variant: str, seen: Seen) -> None:
        seen.close()
        for group in SHOWN:
            at = (layer, variant)
            cosine = _of_folds(seen[f"cosines/{group}"], mean_cosine_between_from_sums)
            intra = _of_folds(seen[f"intra/{group}"], Scores.mean)
            self._note("baseline_cosine", group, at, cosine)
            self._note("intra_similarity", group, at, intra)
            self._note("adjusted_intra_similarity", group, at, intra.less(cosine))
            self._note_tokens(group, at, seen, cosine)

    def _note_tokens(self, group: str, at: tuple[int, str], seen: Seen, cosine: Estimate) -> None:
        texts = self.followed.texts if group == "text" else ("",) * len(spread(self.followed.patches))
        kept, said = Contexts(seen[f"tokens/{group}"], len(texts)), self._said(group, seen)
        drawn = Contexts(seen[f"draws/{group}"], DRAWS, kept.counts)
        if not texts or not len(kept.v):
            nothing = Estimate(Value.undefined(0, "no rows"), {})
            found, baseline = [dict.fromkeys(OF_TOKENS, nothing)], nothing
        else:
            found = [kept.estimates(token) for token in range(len(texts))]
            baseline = mean_of([drawn.estimates(k, ["mev"])["mev"] for k in range(DRAWS)], "draws")
        self._note("baseline_mev", group, at, baseline, f"mean of {DRAWS} draws of one token an image")
        against = {"self_similarity": cosine, "mev": baseline}
        for name in OF_TOKENS:
            of_tokens = [of[name] for of in found]
            named = [
                (f"text:{k}:{text}", of) for k, (text, of) in enumerate(zip(texts, of_tokens, strict=False)) if group == "text"
            ]
            mean = mean_of(of_tokens, "tokens" if group == "text" else "places")
            for tokens, estimate in [*named, (group, mean)]:
                self._note(name, tokens, at, estimate, said)
                if name in against:
                    self._note(f"adjusted_{name}", tokens, at, estimate.less(against[name]), said)

    def _said(self, group: str, seen: Seen) -> str:
        """What the rows that are kept stand for."""
        samples = seen[f"tokens/{group}"]
        came, kept = sum(s.n for s in samples), sum(len(s.rows) for s in samples if s.rows is not None)
        said = []
        if group == "text" and self.followed.questions > 1:
            said.append(f"of {self.followed.questions} questions, the one that is asked of most images: of {self.followed.images}")
        if group == "image" and self.followed.patches > PLACES:
            said.append(f"at {PLACES} of {self.followed.patches} places of the grid")
        if kept < came:
            said.append(f"{kept} of {came} images")
        return "; ".join(said)

    def _note(self, measure: str, tokens: str, at: tuple[int, str], estimate: Estimate, said: str = "") -> None:
        (layer, variant), full = at, estimate.full
        interval = jackknife(full, list(estimate.without.values()))
        if isnan(full):
            interval = Interval(None, None)  # the value says why itself
        elif estimate.why_none:
            interval = Interval(None, None, estimate.why_none)
        notes = [full.note if full.note not in interval.note else "", interval.note, said]
        row = Row(
            "sound", measure, layer, tokens, "all", variant, float(full), *interval[:2], full.n, "; ".join(filter(None, notes))
        )
        self.findings.add(row, estimate.without if interval.low is not None else None)

    # ---- across machines

    def hand_over(self) -> dict[str, Tensor]:
        """What is kept of the state before the block that all cases here have passed, for another's `take`."""
        found = {"followed": _as_tensor(self.followed), **nested("seen", self._seen.tensors())}
        self._seen, self._open = self._empty(), None
        return found

    def hand_over_last(self) -> dict[str, Tensor]:
        """The same of the last state."""
        found = {"followed": _as_tensor(self.followed)}
        for variant, seen in self._last.items():
            found |= nested(variant, seen.tensors())
        return found

    def take(self, sums: Mapping[str, Tensor]) -> None:
        """Add what another has handed over, of a block or of the last state. Raises BadRun for anything else."""
        own, found = parts(sums)
        need("contexts", own, ["followed"])
        self.followed = _from_tensor(own["followed"])
        into = {"seen": self._seen} if "seen" in found else self._last
        need("contexts of a state", found, list(into))
        for name, seen in into.items():
            seen.merge(Seen.from_tensors(self.layout.folds, found[name]))


def spread(patches: int) -> list[int]:
    """The places of a grid that are followed: all, or so many as `PLACES`, evenly spread."""
    count = min(patches, PLACES)
    return [(2 * k + 1) * patches // (2 * count) for k in range(count)]


def _places(case: Case, branch: int, group: str) -> list[int]:
    return [place for place in case.pack.rows(branch) if case.groups[place] == group]


def _of_folds(folds: Folds[Any], measure: Callable[[Any], Value]) -> Estimate:
    return Estimate(measure(folds.total()), {k: measure(folds.without(k)) for k in folds.filled})


def _as_tensor(followed: Followed) -> Tensor:
    return torch.tensor(list(json.dumps(asdict(followed)).encode()), dtype=torch.uint8)


def _from_tensor(tensor: Tensor) -> Followed:
    told = json.loads(bytes(tensor.tolist()))
    return Followed(**{**told, "ids": tuple(told["ids"]), "texts": tuple(told["texts"])})


def contextualization_bytes(followed: Followed, images: int, width: int, itemsize: int) -> int:
    """What is kept of the last state, in two variants: at most, while the cases pass."""
    rows = len(followed.ids) + len(spread(followed.patches)) + 2 * DRAWS
    return 2 * 2 * min(images, CONTEXTS) * rows * width * itemsize  # twice: a sample is copied when it grows
