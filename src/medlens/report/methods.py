"""What was done, and whose idea it was: notes on the methods that this run used, and the BibTeX of exactly these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from medlens.report.first import there
from medlens.store import Run

REFERENCES = Path(__file__).parent / "references.bib"
LINEAR, SHAPE, ETHAYARAJH, LENS = "razzhigaev2024linear", "razzhigaev2024shape", "ethayarajh2019", "nostalgebraist2020"
OF_MEASURES: dict[str, tuple[str, ...]] = {
    "linearity": (LINEAR,), "linearity_of_update": (LINEAR,),
    "held_out_linearity": (LINEAR, "stone1974"), "held_out_linearity_of_update": (LINEAR, "stone1974"),
    "linearity_adjusted": (LINEAR, "theil1961"), "linearity_of_update_adjusted": (LINEAR, "theil1961"),
    "linearity_floor": (LINEAR, "winkler2015"), "linearity_of_update_floor": (LINEAR, "winkler2015"),
    "cka": ("kornblith2019", "song2012"), "anisotropy": (SHAPE,), "participation_ratio": ("gao2017",),
    "effective_rank": ("roy2007",), "mean_cosine": (ETHAYARAJH,), "mean_cosine_between": (ETHAYARAJH,),
    "intrinsic_dimension": ("facco2017",), "intrinsic_dimension_between": ("facco2017",), "lens_kl": (LENS, "belrose2023"),
    **dict.fromkeys((f"intrinsic_dimension_of_{part}" for part in ("half", "quarter", "eighth")), ("facco2017", "denti2022")),
    **dict.fromkeys(("self_similarity", "intra_similarity", "adjusted_self_similarity"), (ETHAYARAJH,)),
    **dict.fromkeys(("adjusted_intra_similarity", "baseline_cosine", "baseline_mev"), (ETHAYARAJH,)),
    **dict.fromkeys(("mev", "adjusted_mev", "mev_centred"), (ETHAYARAJH,)),
    **dict.fromkeys(("answer_top", "answer_log_odds", "answer_rank", "lens_entropy"), (LENS,)),
}  # fmt: skip
OF_MAPS: dict[str, tuple[str, ...]] = {
    "gradcam_attention": ("selvaraju2017", "chefer2021"), "relevance": ("chefer2021",),
    "integrated_gradients": ("sundararajan2017",), "occlusion": ("zeiler2014",), "pixel_occlusion": ("zeiler2014",),
}  # fmt: skip


class Note(NamedTuple):
    """What was done, in a sentence, and the keys of its sources."""

    what: str
    keys: tuple[str, ...]


def notes_of(run: Run) -> list[Note]:
    """One for each method that left something in the run's tables."""
    return [Note(what, tuple(dict.fromkeys(keys))) for what, keys in _notes(run)]


def _notes(run: Run) -> Iterator[tuple[str, list[str]]]:
    measures = run.rows["measure"].unique(maintain_order=True).to_list()
    if keys := [key for measure in measures for key in OF_MEASURES.get(measure, ())]:
        yield "Measures of hidden states and of what they say, each defined beside its chart.", keys
    if run.rows["low"].is_finite().any():
        folds = "Intervals of measures: a jackknife over folds of whole images (patients where the data name them)."
        yield folds, ["tukey1958", "efron1981"]
    if run.answers["correct"].is_not_null().any():
        shares = "Intervals of shares: Wilson's, for as many independent units as the clusters by image leave."
        yield shares, ["wilson1927", "liang1986"]
    if run.rows["protocol"].eq("null: pairs").any():
        yield "Null of pairs: whole images are permuted, so that rows of one image stay together.", ["winkler2015"]
    if run.massive.height:
        yield "Massive activations: above 100, and above 1,000 times the median.", ["sun2024"]
    if there(run, "lens"):
        yield "Words of tokens: the logit lens.", [LENS]
    yield from _of_maps(run)


def _of_maps(run: Run) -> Iterator[tuple[str, list[str]]]:
    methods = [m for name in ("trust", "leaderboard") if there(run, name) for m in getattr(run, name)["method"].unique().sort()]
    if keys := [key for method in methods for key in OF_MAPS.get(method, ())]:
        yield f"Maps: {', '.join(dict.fromkeys(filter(None, methods)))}.", keys
    if there(run, "checks"):
        cards = "Report cards of maps: deletion and insertion, and the same map of a model whose weights were drawn anew."
        yield cards, ["petsiuk2018", "adebayo2018"]


@cache
def references() -> dict[str, str]:
    """Every entry of references.bib, by its key."""
    text = REFERENCES.read_text(encoding="utf-8")
    return {found[1]: found[0] for found in re.finditer(r"@\w+\{([^,]+),.*?\n\}", text, re.DOTALL)}


def cited(keys: list[str]) -> list[tuple[str, str]]:
    """Key and words of each: "Kornblith et al. 2019, Similarity of Neural Network Representations Revisited"."""
    return [(key, words_of(references()[key])) for key in keys]


def words_of(entry: str) -> str:
    """Who, when, and the title."""
    fields = dict(re.findall(r"(\w+) = \{((?:[^{}]|\{[^{}]*\})*)\}", entry))
    plain = {name: re.sub(r"\\~|[{}]", "", value) for name, value in fields.items()}
    names = [name.split(",")[0] for name in plain["author"].split(" and ")]
    who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
    return f"{who} {plain['year']}, {plain['title']}"


def bibtex(keys: list[str]) -> str:
    """The entries of these, one below the other."""
    return "\n".join(references()[key] for key in keys)
