"""What a claim may say: one line about the curve of a measure over the layers."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal, NamedTuple

from medlens.errors import BadInput
from medlens.medical import MEASURES as MEDICAL
from medlens.types import GROUPS

_LINEARITY = ("linearity", "linearity_of_update")
OF_PAIRS = (
    *_LINEARITY,
    "cka",
    *(f"held_out_{name}" for name in _LINEARITY),
    *(f"{name}_floor" for name in _LINEARITY),
    *(f"{name}_adjusted" for name in _LINEARITY),
)
OF_STATES = (
    "anisotropy",
    "participation_ratio",
    "effective_rank",
    "mean_cosine",
    "mean_cosine_between",
    *(f"intrinsic_dimension{which}" for which in ("", "_between", "_of_half", "_of_quarter", "_of_eighth")),
    "self_similarity",
    "intra_similarity",
    "mev",
    "mev_centred",
    "baseline_cosine",
    "baseline_mev",
    *(f"adjusted_{name}" for name in ("self_similarity", "intra_similarity", "mev")),
    "lens_entropy",
    "lens_kl",
    *MEDICAL,
    "medical_words_floor",
    "answer_log_odds",
    "answer_rank",
    "answer_top",
)
MEASURED = (*OF_PAIRS, *OF_STATES)
TOKENS = (*GROUPS, "all")

EXPECTED = "MEASURE/TOKENS, then: falls | rises [from LAYER to LAYER] | below | above NUMBER or \
MEASURE/TOKENS [from LAYER to LAYER] | peaks with MEASURE/TOKENS | peaks at | near LAYER"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CURVE, _SPAN = r"[^\s/]+/[^\s/]+", r"(?: from (?P<first>\d+) to (?P<last>\d+))?"
_FORMS = (
    rf"({_CURVE}) (?P<what>falls|rises){_SPAN}",
    rf"({_CURVE}) (?P<what>below|above) (?:(?P<other>{_CURVE})|(?P<number>{_NUMBER})){_SPAN}",
    rf"({_CURVE}) (?P<what>peaks with) (?P<other>{_CURVE})",
    rf"({_CURVE}) (?P<what>peaks at|peaks near) (?P<layer>\d+)",
)


class Of(NamedTuple):
    """The curve of a measure of a group of tokens."""

    measure: str
    tokens: str

    def __str__(self) -> str:
        return f"{self.measure}/{self.tokens}"


class Claim(NamedTuple):
    """A claim, taken apart. span: first and last layer; number: what a curve is compared with, or the layer of a peak."""

    text: str
    of: Of
    what: Literal["falls", "rises", "below", "above", "peaks with", "peaks at", "peaks near"]
    span: tuple[int, int] | None = None
    number: float | None = None
    other: Of | None = None


def parse(claim: str, own: Collection[str] = ()) -> Claim:
    """Take a claim apart. own: names of the user's own measures. Raises BadInput, naming the claim and what was expected."""
    text = " ".join(claim.split())
    for form in _FORMS:
        if found := re.fullmatch(form, text):
            said = {"first": None, "number": None, "layer": None, "other": None} | found.groupdict()
            span = None if said["first"] is None else (int(said["first"]), int(said["last"] or 0))
            if span and span[1] - span[0] < 2:
                raise BadInput(f"the claim {text!r} needs three layers or more; expected from LAYER to a LAYER beyond the next")
            number, other = said["number"] or said["layer"], said["other"]
            return Claim(
                text,
                _of(found[1], text, own),
                said["what"],  # pyright: ignore[reportArgumentType]
                span,
                None if number is None else float(number),
                _of(other, text, own) if other else None,
            )
    raise BadInput(f"the claim {text!r} cannot be read; expected {EXPECTED}")


def own_names(measures: Collection[str]) -> tuple[str, ...]:
    """The names of measures that are given as "module:function"."""
    return tuple(measure.rpartition(":")[2] for measure in measures)


def _of(said: str, claim: str, own: Collection[str]) -> Of:
    measure, _, tokens = said.partition("/")
    if measure not in (*MEASURED, *own):
        raise BadInput(f"the claim {claim!r} names the measure {measure!r}; expected one of {', '.join((*MEASURED, *own))}")
    if tokens not in TOKENS:
        raise BadInput(f"the claim {claim!r} names the tokens {tokens!r}; expected one of {', '.join(TOKENS)}")
    return Of(measure, tokens)
