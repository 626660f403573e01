"""Claims about the curves of a run, judged by their intervals: the published study's sentences, and the user's own.

A claim is one line (see `grammar`); its verdict is "supported", "not supported" (the data contradict it) or "cannot be said" (the
interval leaves both open, or a value is undefined, and the note says why). K folds of whole images; every interval is a jackknife
over them, by Student's t with K - 1 degrees of freedom. Only the raw variant and all samples are looked at.

- falls, rises: the least-squares slope over the layers, its 95 % interval on one side of zero. Undefined layers are passed over; at
  least three are needed.
- below, above (a number, or another curve at the same layers): at every layer (or those named), by intervals that hold at
  all of them together (Bonferroni); the row's own where no fold changes a value, such as a share of 0. Not supported as soon as one
  layer contradicts it; cannot be said while one layer is open or undefined.
- peaks: the place of a maximum has no interval. Instead the peak set: all layers whose difference to the highest one is not
  significantly below zero (one-sided, 5 %, Bonferroni over the layers). It holds the true peak in 95 of 100 studies. Undefined
  layers cannot be excluded, so they are in it.
  - peaks at LAYER: not supported where the layer is not in the set; near LAYER: nor any within one sixteenth of the depth.
  - peaks with: not supported where the two sets are disjoint. A block b counts as its states b and b + 1.
  - Otherwise supported (that is: "cannot be told apart"), but only if each set is narrower than half of the layers; a set that is
    wider says nothing about a place, and then it cannot be said.

A true null is called supported in 2.5 % of the studies for each direction of a slope, more rarely for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medlens import store
from medlens.curves import Curve, Key, curves, spans
from medlens.grammar import OF_PAIRS, Claim, Of, own_names, parse
from medlens.spread import jackknife_error, student

SUPPORTED, NOT_SUPPORTED, OPEN = "supported", "not supported", "cannot be said"
LEVEL = 0.05
STILL = 1e-12  # the error of a value that no fold changes, such as a share of 0: its row's own interval is taken then

# The study's conclusions, each with the lines that we read it as (none: this run does not measure it).
PUBLISHED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("linearity of image tokens declines with depth", ("linearity/image falls",)),
    (
        "centred linearity and intrinsic dimension peak together near layer 25",
        ("linearity_of_update/all peaks with intrinsic_dimension/all", "linearity_of_update/all peaks near 25"),
    ),
    ("anisotropy of image tokens falls steadily", ("anisotropy/image falls",)),
    ('anisotropy of text tokens stays low ("low" read as below 0.2 at every layer)', ("anisotropy/text below 0.2",)),
    ("image tokens have the lower intrinsic dimension", ("intrinsic_dimension/image below intrinsic_dimension/text",)),
    ("self-similarity falls with depth", ("self_similarity/text falls",)),
    ("maximum explainable variance falls with depth", ("mev/text falls",)),
    ("intra-similarity rises with depth", ("intra_similarity/text rises",)),
    (
        'early layers decode to medical words and late ones to general words ("early" read as up to layer 5)',
        ("medical_words/image falls", "medical_words/image above medical_words_floor/image from 0 to 5"),
    ),
    ("Grad-CAM lies on the pathology", ()),
)
CAVEATS = {
    "intrinsic_dimension": "the interval of a dimension is conservative: a jackknife does not strictly hold for nearest neighbours",
    "medical_words": "words of the logit lens, not of units; the floor is the share of such words in the vocabulary, and a model "
    "of random weights has favourite words too (null weights)",
    "anisotropy": "no interval holds where the two largest eigenvalues are nearly equal",
}


class Verdict(NamedTuple):
    """What is to be said of a claim, with the figure that says so: a slope, the value (or difference) at the layer that decides,
    or the layer of the maximum; low and high: its interval, or first and last layer of the peak set. layers: how many were looked
    at. The columns of the table `claims`."""

    claim: str
    sentence: str
    verdict: str
    value: float | None
    low: float | None
    high: float | None
    layers: int
    note: str


def judge(run: store.Run, claims: Sequence[str] | str = (), protocol: str = "sound") -> list[Verdict]:
    """Judge the claims of the published study, those of the run's plan, and these (see `medlens.claims` for grammar and rules).

    protocol: whose rows are looked at. The rows of "published" carry no intervals, so of them nothing can be said.
    Raises BadInput for a claim that cannot be read or names an unknown measure; BadRun for a damaged run.
    """
    plan = run.manifest["plan"]
    asked = [*plan.get("claims", ()), *([claims] if isinstance(claims, str) else claims)]
    own = own_names(plan.get("measures", ()))
    parsed = {claim.text: claim for claim in (parse(text, own) for text in asked)}
    found = _Curves(run, protocol)
    verdicts = []
    for sentence, lines in PUBLISHED:
        verdicts += [_verdict(parse(line), sentence, found) for line in lines]
        if not lines:
            verdicts.append(Verdict("", sentence, OPEN, None, None, None, 0, "not measured in this run"))
    known = {verdict.claim for verdict in verdicts}
    return verdicts + [_verdict(claim, "", found) for text, claim in parsed.items() if text not in known]


def write(folder: Path) -> None:
    """Judge the claims of a run folder and write the table `claims` into it."""
    store.write_table(folder, "claims", [verdict._asdict() for verdict in judge(store.open_run(folder))])


class _Curves:
    """The curves of one protocol, of all samples, raw."""

    def __init__(self, run: store.Run, protocol: str) -> None:
        self.protocol, self.depth = protocol, run.manifest["model"]["blocks"]
        self._found = curves(run)

    def get(self, of: Of) -> Curve | None:
        return self._found.get(Key(self.protocol, of.measure, of.tokens, "all", "raw"))


class _Figure(NamedTuple):
    """What is said of one claim."""

    verdict: str
    value: float | None
    low: float | None
    high: float | None
    layers: int
    note: str


def _verdict(claim: Claim, sentence: str, found: _Curves) -> Verdict:
    figure = _missing(claim, found) or _judged(claim, found)
    named = claim.of.measure + (claim.other.measure if claim.other else "")
    caveats = [said for about, said in CAVEATS.items() if about in named and figure.value is not None]
    return Verdict(claim.text, sentence, *figure[:-1], "; ".join(filter(None, (figure.note, *caveats))))


def _open(why: str, layers: int = 0) -> _Figure:
    return _Figure(OPEN, None, None, None, layers, why)


def _missing(claim: Claim, found: _Curves) -> _Figure | None:
    """Why there is nothing to judge by; None if there is."""
    for of in filter(None, (claim.of, claim.other)):
        curve = found.get(of)
        if curve is None:
            return _open(f"{of} was not measured in this run" + (f" by protocol {found.protocol}" * (found.protocol != "sound")))
        if len(curve.folds) < 2:
            undefined = not np.isfinite(curve.values).any()
            return _open(
                _why(curve) if undefined else f"no intervals under this protocol ({found.protocol}), or fewer than two folds"
            )
    return None


def _judged(claim: Claim, found: _Curves) -> _Figure:
    curve = found.get(claim.of)
    other = found.get(claim.other) if claim.other else None
    assert curve is not None
    if claim.what in ("falls", "rises"):
        return _slope(curve.within(claim.span), claim.what == "falls")
    if claim.what in ("below", "above"):
        against = claim.number if other is None else other.within(claim.span)
        return _on_one_side(curve.within(claim.span), against, claim.what == "below")
    peak = _Peak(curve, claim.of.measure in OF_PAIRS)
    if other is not None and claim.other is not None:
        return _together(peak, _Peak(other, claim.other.measure in OF_PAIRS))
    near = max(1, round(found.depth / 16)) if claim.what == "peaks near" else 0
    return _at(peak, int(claim.number or 0), near)


# ---- slopes


def slope(layers: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares slope of values (..., L) over layers (L,), per layer."""
    centred = layers - layers.mean()
    return values @ centred / (centred @ centred)


def _slope(curve: Curve, falls: bool) -> _Figure:
    sure = curve.at(curve.sure)
    count = len(sure.layers)
    if count < 3:
        return _open(f"a slope needs three layers, {count} are defined{_and_why(curve)}", count)
    value = float(slope(sure.layers, sure.values))
    half = float(student(len(curve.folds) - 1, LEVEL / 2) * jackknife_error(slope(sure.layers, sure.without)))
    low, high = value - half, value + half
    holds, contradicted = (high < 0, low > 0) if falls else (low > 0, high < 0)
    note = f"slope per layer over layers {sure.layers[0]} to {sure.layers[-1]}"
    return _Figure(
        _said(holds, contradicted), value, low, high, count, note + (_and_why(curve) if count < len(curve.layers) else "")
    )


# ---- one side of a number, or of another curve


def _on_one_side(curve: Curve, other: Curve | float | None, below: bool) -> _Figure:
    if isinstance(other, Curve):
        if curve.folds != other.folds:
            return _open("the two curves do not have the same folds")
        _, mine, theirs = np.intersect1d(curve.layers, other.layers, return_indices=True)
        curve, other = curve.at(mine), other.at(theirs)
        both, values, without = curve.sure & other.sure, curve.values - other.values, curve.without - other.without
        ends, why = (curve.low - other.high, curve.high - other.low), _and_why(curve) or _and_why(other)
    else:
        both, values, without, why = curve.sure, curve.values - (other or 0.0), curve.without, _and_why(curve)
        ends = curve.low - (other or 0.0), curve.high - (other or 0.0)
    count = int(both.sum())
    if count == 0:
        return _open(f"no layer is defined{why}")
    values, layers = values[both], curve.layers[both]
    error = jackknife_error(without[:, both])
    half = student(len(curve.folds) - 1, LEVEL / 2 / count) * error
    low, high = values - half, values + half
    still = (error < STILL) & np.isfinite(ends[0][both]) & np.isfinite(ends[1][both])
    low, high = np.where(still, ends[0][both], low), np.where(still, ends[1][both], high)
    holds, contradicted = (high < 0, low >= 0) if below else (low > 0, high <= 0)
    worst = int(np.argmax(high if below else -low)) if not contradicted.any() else int(np.argmax(low if below else -high))
    shift = 0.0 if isinstance(other, Curve) else other or 0.0
    what = "difference" if isinstance(other, Curve) else "value"
    note = f"{what} at layer {layers[worst]}, the one that decides; intervals hold at all {count} layers together"
    complete = count == len(both)
    value, least, most = (float(part[worst] + shift) for part in (values, low, high))
    verdict = _said(bool(holds.all()) and complete, bool(contradicted.any()))
    return _Figure(verdict, value, least, most, count, note + ("" if complete else why))


# ---- peaks


def peak_set(values: NDArray[np.float64], without: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(L,): the layers that are not significantly below the highest, from values (L,) and those without each fold (K, L).

    If layer m is the true peak and another one came out highest, then m is left out only if that one is significantly above m: each
    of the L - 1 others has its share of the error, so m is in the set in 95 of 100 studies.
    """
    top = int(np.argmax(values))
    below, error = values - values[top], jackknife_error(without - without[:, [top]])
    return below + student(len(without) - 1, LEVEL / max(1, len(values) - 1)) * error >= 0


class _Peak:
    """The peak set of a curve: `layers`, and `states`, where a block counts as the states before and after it."""

    def __init__(self, curve: Curve, of_pairs: bool) -> None:
        sure = curve.at(curve.sure)
        self.count, self.defined, self.why = len(curve.layers), len(sure.layers), _and_why(curve)
        self.kind = "block" if of_pairs else "state"
        if self.defined == 0:
            return
        self.last, self.top = int(curve.layers.max()), int(sure.layers[np.argmax(sure.values)])
        inside = sure.layers[peak_set(sure.values, sure.without)]
        self.layers = set(inside.tolist()) | set(curve.layers[~curve.sure].tolist())
        self.states = self.layers | {layer + 1 for layer in self.layers} if of_pairs else self.layers

    @property
    def narrow(self) -> bool:
        return 2 * len(self.layers) < self.count

    def __str__(self) -> str:
        return f"{self.kind}s {spans(self.layers)} of {self.count}"


def _together(one: _Peak, two: _Peak) -> _Figure:
    if not one.defined or not two.defined:
        return _open(f"no layer is defined{one.why or two.why}")
    mixed = one.kind != two.kind
    meet = one.states & two.states if mixed else one.layers & two.layers
    said = f"not significantly below the maximum: {one}, and {two}"
    note = said + (": they cannot be told apart" if meet else ": they do not meet") + _too_wide(one, two) * bool(meet)
    return _peak_figure(one, note, bool(meet), one.narrow and two.narrow, one.count + two.count)


def _at(peak: _Peak, layer: int, near: int) -> _Figure:
    if not peak.defined:
        return _open(f"no layer is defined{peak.why}")
    if layer > peak.last:
        return _open(f"there is no layer {layer}: the last one is {peak.last}", peak.count)
    inside = any(abs(own - layer) <= near for own in peak.layers)
    within = f", near is within {near}" if near else ""
    note = f"not significantly below the maximum: {peak}{within}" + _too_wide(peak) * inside
    return _peak_figure(peak, note, inside, peak.narrow, peak.count)


def _peak_figure(peak: _Peak, note: str, meet: bool, narrow: bool, count: int) -> _Figure:
    verdict = _said(meet and narrow, not meet)
    return _Figure(verdict, float(peak.top), float(min(peak.layers)), float(max(peak.layers)), count, note)


def _too_wide(*peaks: _Peak) -> str:
    return "" if all(peak.narrow for peak in peaks) else "; half of the layers or more: too wide to be a place"


def _said(holds: bool, contradicted: bool) -> str:
    return NOT_SUPPORTED if contradicted else SUPPORTED if holds else OPEN


def _why(curve: Curve) -> str:
    """Why a layer is not defined: the first reason."""
    missing = np.flatnonzero(~curve.sure)
    notes = [note for note in (curve.notes[k] for k in missing) if note]
    layers = set(curve.layers[missing].tolist())
    return f"undefined at layer{'s' * (len(layers) > 1)} {spans(layers)}: {notes[0] if notes else 'with one fold less'}"


def _and_why(curve: Curve) -> str:
    return "" if curve.sure.all() and len(curve.layers) else f"; {_why(curve)}" if len(curve.layers) else ""
