"""Whether the words of patches are true: how often a patch that lies on a named region has the region's name for its word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from medlens.errors import BadInput
from medlens.models.base import Model
from medlens.models.frame import covered
from medlens.stats.intervals import jackknife
from medlens.types import Sample, Value

ON = 0.5  # of a patch, at least: it lies on a region; a patch that no region touches lies beside


class Image(NamedTuple):
    """names: of its regions; on: of each, which patches lie on it (patches,) bool; beside: patches that no region touches."""

    names: tuple[str, ...]
    on: tuple[np.ndarray, ...]
    beside: np.ndarray


def true_words(model: Model, words: pl.DataFrame, samples: Sequence[Sample], names: Sequence[str]) -> pl.DataFrame:
    """Of each layer and name ("all": of all of `names`), the share of patches whose word is the name of a region.

    words: image, layer, patch, word, one row for each patch and layer, such as a table of neighbours where `rank` is 1. samples:
    one of each image, with the regions. names: of regions, which are looked for as words (case does not matter).

    Columns: layer, name, `on` (share among patches that lie at least half on such a region, of those whose word is its name),
    `beside` (the same name, among the same image's patches that no region touches), `elsewhere` (what `on` is on average when each
    image is given the names of another one's regions), `difference` (on - beside), `specific` (on - elsewhere), both with `_low`
    and `_high` (95 %, leaving out one image at a time), patches, images.

    A difference alone proves little: lesions look unlike what is beside them, so a word can be theirs whatever they are; `specific`
    is of the right name among names. And neither interval knows how few names there are: random weights, too, send three looks to
    words, now and then to the right ones. What they give is the null. Raises BadInput where no image has such a region.
    """
    wanted = {name.casefold() for name in names}
    first = words["layer"].min()
    patches = words.filter(pl.col("layer") == first).group_by("image").len()["len"][0]
    images = {}
    for sample, name in zip(samples, words["image"].unique(maintain_order=True), strict=True):
        if (found := _image(model, sample, wanted, patches)) is not None:
            images[name] = found
    if not images:
        known = sorted({region.name for sample in samples for region in sample.regions})
        here = ", ".join(known) or "none"
        raise BadInput(f"no image has a region named {', '.join(names)} as large as a patch; regions here: {here}")
    rows = []
    for (layer,), table in words.sort("layer", "patch").group_by("layer", maintain_order=True):
        said = {name: [w.casefold() for w in of["word"]] for (name,), of in table.group_by("image", maintain_order=True)}
        for name in (*sorted(wanted), "all"):
            rows.append({"layer": layer, "name": name} | _shares(images, said, wanted if name == "all" else {name}))
    return pl.DataFrame(rows, infer_schema_length=None).filter(pl.col("patches") > 0)


def _image(model: Model, sample: Sample, wanted: set[str], patches: int) -> Image | None:
    shares = [(region.name.casefold(), covered(model, region.array(), patches)) for region in sample.regions]
    on = [(name, share >= ON) for name, share in shares if name in wanted and (share >= ON).any()]
    if not on:
        return None
    return Image(tuple(name for name, _ in on), tuple(o for _, o in on), np.all([share == 0 for _, share in shares], axis=0))


def _shares(images: dict[str, Image], said: dict[str, list[str]], names: set[str]) -> dict[str, float | int | None]:
    """Of some names. counts: of each image, (hits on, patches on, hits beside, patches beside, hits under others' names)."""
    counts = []
    for name, image in images.items():
        hits = np.zeros(5)
        words = np.array(said[name])
        for region, on in zip(image.names, image.on, strict=True):
            if region not in names:
                continue
            others = [other for key, of in images.items() if key != name for other in set(of.names) & names]
            away = np.mean([(words[on] == other).sum() for other in others]) if others else np.nan
            hits += (words[on] == region).sum(), on.sum(), (words[image.beside] == region).sum(), image.beside.sum(), away
        if hits[1]:
            counts.append(hits)
    return _summary(np.array(counts).reshape(-1, 5))


def _summary(counts: np.ndarray) -> dict[str, float | int | None]:
    total = counts.sum(0)
    without = [total - one for one in counts]
    found: dict[str, float | int | None] = {
        "on": _ratio(total[0], total[1]),
        "beside": _ratio(total[2], total[3]),
        "elsewhere": _ratio(total[4], total[1]),
    }
    for name, hits, of in (("difference", 2, 3), ("specific", 4, 1)):
        full, *others = (_less(of_all, hits, of) for of_all in (total, *without))
        low, high, _ = jackknife(full, others)
        found |= {name: float(full), f"{name}_low": low, f"{name}_high": high}
    return found | {"patches": int(total[1]), "images": len(counts)}


def _ratio(hits: float, of: float) -> float:
    return float(hits / of) if of else float("nan")


def _less(total: np.ndarray, hits: int, of: int) -> Value:
    """The share on the regions less another share, by the columns of its hits and its patches."""
    if not total[1] or not total[of]:
        return Value.undefined(int(total[1]), "no patches on a region, or none beside it")
    return Value(_ratio(total[0], total[1]) - _ratio(total[hits], total[of]), int(total[1]))
