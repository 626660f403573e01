"""The words that the lens reads at the image's tokens, counted and read by a physician's lists: from a run's tables alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from medlens import store
from medlens.errors import BadInput
from medlens.measures.units import varies
from medlens.medical import COUNTED, Vocabulary
from medlens.stats.intervals import jackknife, jackknife_share
from medlens.types import Value

LISTED = 10  # words of a state
SHARES = {  # what `medical_share` returns
    "of": pl.String, "layer": pl.Int32, "tokens": pl.String, "kind": pl.String, "share": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "vocabulary": pl.Float64, "weight": pl.Float64, "note": pl.String,
}  # fmt: skip


def occurrence(
    run: store.Run | str | Path, layers: Sequence[int] | None = None, *, listed: int = LISTED, seed: int = 0
) -> pl.DataFrame:
    """The most frequent likeliest words of the image's tokens, by the logit lens: a row a word, with the columns of the run's table
    `lens_words`.

    Nulls: `expected`, the count if words were drawn at random from the vocabulary; `ratio` and `p`, whether the count varies with
    the image more than when images are shuffled at every place of their grid (see `measures.units.varies`). The interval is that of
    the mean count of an image, with images (patients, where the data name them) left out one by one. A word's kinds: see
    `medlens.medical`.

    run: one with the instrument lens, or its folder. layers: states, by default all. listed: words a state. Raises BadInput for a
    state that the run does not have, or a run without such words; BadRun.
    """
    run = run if isinstance(run, store.Run) else store.open_run(run)
    vocabulary, blocks = _vocabulary(run), run.manifest["model"]["blocks"]
    if outside := [layer for layer in layers or () if not 0 <= layer <= blocks]:
        raise BadInput(f"layers are states 0 to {blocks} of {run.manifest['model']['name']}; got {outside[0]}")
    if listed < 1:
        raise BadInput(f"listed is {listed}; expected a positive number of words")
    read, clusters = _first_words(run), _clusters(run)
    if read.is_empty():
        raise BadInput(f"{run.path.name} holds no words of image tokens; study images with --instrument lens")
    found = []
    for layer in sorted(set(read["layer"] if layers is None else layers)):
        found += _of_layer(read.filter(pl.col("layer") == layer), vocabulary, clusters, listed, seed)
    return pl.DataFrame(found, schema=store.TABLES["lens_words"], orient="row")


def medical_share(run: store.Run | str | Path) -> pl.DataFrame:
    """How many words are medical, by layer: the lens's likeliest ones, or those that units write (protocol published).

    Columns: of, "lens", or "units, published" and "units, sound"; layer, the state, or the block of the units; tokens, "image" or
    "text"; kind, "medical" for any; share, with low and high (whole images left out: the lens's fold by fold); n, of words;
    vocabulary, the null: the same share of the vocabulary, or of what all units of the block write; weight (of the lens, any kind):
    the share that medical words have of the probability of the five likeliest; note.

    A share above its null is not yet medicine: a model of random weights has favourite words too (protocol "null: weights" in the
    run's rows, where the plan asked for it). Raises BadInput for a run without such words; BadRun.
    """
    run = run if isinstance(run, store.Run) else store.open_run(run)
    vocabulary = _vocabulary(run)
    found = [_of_lens(run, vocabulary, kind) for kind in COUNTED] + [_of_units(run, vocabulary)]
    shares = pl.concat([frame for frame in found if frame.height] or [pl.DataFrame(schema=SHARES)])
    if shares.is_empty():
        raise BadInput(f"{run.path.name} holds no words; study with --instrument lens, or --protocol published")
    return shares.sort("of", "tokens", "layer", maintain_order=True)


def _of_lens(run: store.Run, vocabulary: Vocabulary, kind: str) -> pl.DataFrame:
    keys = ["layer", "tokens"]
    rows = run.rows.filter(pl.col("protocol") == "sound", pl.col("group") == "all", pl.col("variant") == "raw")
    weight = rows.filter(pl.col("measure") == f"{kind}_weight").select(*keys, weight="value")
    shares = rows.filter(pl.col("measure") == f"{kind}_words").with_columns(
        of=pl.lit("lens"), kind=pl.lit(kind), share="value", vocabulary=pl.lit(vocabulary.shares[kind])
    )
    return shares.join(weight, on=keys, how="left", maintain_order="left").select(list(SHARES))


def _of_units(run: store.Run, vocabulary: Vocabulary) -> pl.DataFrame:
    """Of the words that were counted in each image; their null is counted over all units of the block."""
    clusters, found = _clusters(run, "image"), []
    written = run.occurrence.with_columns(
        kinds=pl.col("word").map_elements(lambda word: sorted(vocabulary.kinds(word)), return_dtype=pl.List(pl.String))
    )
    of_images = written.filter(pl.col("image").is_not_null())
    for (protocol, layer), mine in of_images.group_by("protocol", "layer", maintain_order=True):
        everywhere = written.filter(pl.col("protocol") == f"null: all units, {protocol}", pl.col("layer") == layer)
        total = int(mine["count"].sum())
        for kind in COUNTED:
            shares = {str(image): _share(own, kind) for (image,), own in mine.group_by("image", maintain_order=True)}
            mean = _mean(list(shares.values()))
            low, high, why = jackknife_share(mean, _left_out(shares, clusters), len(shares))
            own = (f"units, {protocol}", layer, "image", kind, float(mean), low, high, total)
            found.append((*own, _share(everywhere, kind), None, why))
    return pl.DataFrame(found, schema=SHARES, orient="row")


def _share(counted: pl.DataFrame, kind: str) -> float:
    """Of words with their counts."""
    are = pl.col("kinds").list.len() > 0 if kind == "medical" else pl.col("kinds").list.contains(kind)
    return int(counted.filter(are)["count"].sum()) / int(counted["count"].sum())


def write(folder: Path) -> None:
    """Count the words of a run folder and write the table `lens_words` into it: empty where the lens saw no image."""
    run = store.open_run(folder)
    records = occurrence(run, seed=run.manifest["plan"]["seed"]).to_dicts() if not _first_words(run).is_empty() else []
    store.write_table(folder, "lens_words", records)


def _vocabulary(run: store.Run) -> Vocabulary:
    """Raises BadInput for a run from before there were medical words."""
    if (found := run.manifest["model"].get("vocabulary")) is None:
        raise BadInput(f"{run.path.name} does not say how many words of the vocabulary are medical; repeat the study")
    return Vocabulary(**found)


def _first_words(run: store.Run) -> pl.DataFrame:
    """The likeliest word of every token of the image, at every state."""
    shown = run.lens.filter(pl.col("patch").is_not_null())
    return shown.select("sample", "layer", "patch", pl.col("words").list.first().alias("word")).sort("sample", "layer", "patch")


def _clusters(run: store.Run, of: str = "sample") -> dict[str, str]:
    """Of each sample (or image), what is left out together: its patient, or its image."""
    asked = run.samples.select(of, cluster=pl.coalesce("patient " + pl.col("patient"), "image " + pl.col("image")))
    return dict(asked.unique(of, keep="first", maintain_order=True).iter_rows())


def _of_layer(
    read: pl.DataFrame, vocabulary: Vocabulary, clusters: dict[str, str], listed: int, seed: int
) -> Iterator[tuple[Any, ...]]:
    """The rows of one state. read: sample, patch and word of all its image tokens, in order."""
    images = {str(sample): own["word"].to_list() for (sample,), own in read.group_by("sample", maintain_order=True)}
    totals, expected = Counter(read["word"].to_list()), read.height / len(images) / vocabulary.words
    words = sorted(totals, key=lambda word: (-totals[word], word))[:listed]
    for word, varied in zip(words, varies(_by_place(list(images.values()), words), seed), strict=True):
        counts = {sample: float(own.count(word)) for sample, own in images.items()}
        mean = _mean(list(counts.values()))
        low, high, why = jackknife(mean, _left_out(counts, clusters))
        low = None if low is None else max(0.0, low)
        note = "; ".join(dict.fromkeys(filter(None, (why, varied.ratio.note))))
        kinds = ", ".join(sorted(vocabulary.kinds(word)))
        layer = read["layer"][0]
        yield layer, word, kinds, float(mean), low, high, expected, float(varied.ratio), float(varied.p), len(images), note


def _by_place(images: Sequence[Sequence[str]], words: Sequence[str]) -> Tensor:
    """Whether each word stands at each place of each image: (words, images, places), of the places that all images have."""
    places = min(map(len, images))
    return torch.tensor([[[int(said == word) for said in own[:places]] for own in images] for word in words])


def _mean(counts: Sequence[float]) -> Value:
    return Value(sum(counts) / len(counts), len(counts))


def _left_out(counts: dict[str, float], groups: dict[str, str]) -> list[Value]:
    """The mean without each group of images."""
    names = dict.fromkeys(groups[image] for image in counts)
    rest = [[count for image, count in counts.items() if groups[image] != left] for left in names]
    return [_mean(kept) for kept in rest if kept]
