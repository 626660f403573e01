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
from medlens.medical import COUNTED, MARKS, Vocabulary
from medlens.stats.intervals import jackknife
from medlens.types import Value

LISTED = 10  # words of a state


def occurrence(
    run: store.Run | str | Path, layers: Sequence[int] | None = None, *, listed: int = LISTED, seed: int = 0
) -> pl.DataFrame:
    """The most frequent likeliest words of the image's tokens, by the logit lens: a row a word, with the columns of the run's table
    `lens_words`.

    Nulls: `expected`, the count if words were drawn at random from the vocabulary; `ratio` and `p`, whether the count varies with the
    image more than when images are shuffled at every place of their grid (see `measures.units.varies`). The interval is that of the
    mean count of an image, with images (patients, where the data name them) left out one by one. A word's kinds: see
    `medlens.medical`.

    run: one with the instrument lens, or its folder. layers: states, by default all. Raises BadInput for a state that the run does
    not have, or a run without such words; BadRun.
    """
    run = run if isinstance(run, store.Run) else store.open_run(run)
    blocks = run.manifest["model"]["blocks"]
    if outside := [layer for layer in layers or () if not 0 <= layer <= blocks]:
        raise BadInput(f"layers are states 0 to {blocks} of {run.manifest['model']['name']}; got {outside[0]}")
    if listed < 1:
        raise BadInput(f"listed is {listed}; expected a positive number of words")
    if not (run.path / "lens.parquet").exists() or (read := _first_words(run)).is_empty():
        raise BadInput(f"{run.path} holds no words of image tokens: study images with --instrument lens")
    chosen = sorted(set(read["layer"]) if layers is None else set(layers))
    of_vocabulary = _Reading(read, run.manifest["model"].get("words"))
    found = [row for layer in chosen for row in of_vocabulary.of_layer(layer, _clusters(run), listed, seed)]
    return pl.DataFrame(found, schema=store.TABLES["lens_words"], orient="row")


def medical_share(run: store.Run | str | Path) -> pl.DataFrame:
    """How many of the likeliest words are medical, by state: columns layer, tokens ("image", "text"), kind ("medical": any), share with
    low and high (by folds of whole images, or patients), n (tokens), vocabulary (the null: the same share in the vocabulary), note;
    and, of any kind, weight: the share that medical words have of the probability of the first five.

    A share above its null is not yet medicine: a model of random weights has favourite words too (`null: weights` in the run's rows,
    where the plan asked for it). Raises BadInput for a run without such rows; BadRun.
    """
    run = run if isinstance(run, store.Run) else store.open_run(run)
    rows = run.rows.filter(pl.col("protocol") == "sound", pl.col("group") == "all", pl.col("variant") == "raw")
    keys = ["layer", "tokens"]
    found = []
    for kind in COUNTED:
        mine = rows.filter(pl.col("measure") == f"{kind}_words")
        floor = rows.filter(pl.col("measure") == f"{kind}_words_floor").select(*keys, pl.col("value").alias("vocabulary"))
        weight = rows.filter(pl.col("measure") == f"{kind}_weight").select(*keys, pl.col("value").alias("weight"))
        shares = mine.select(*keys, pl.lit(kind).alias("kind"), pl.col("value").alias("share"), "low", "high", "n", "note")
        found.append(shares.join(floor, on=keys, how="left").join(weight, on=keys, how="left"))
    shares = pl.concat(found)
    if shares.is_empty():
        raise BadInput(f"{run.path} has no medical words: study again with --instrument lens (protocol sound)")
    order = ["layer", "tokens", "kind", "share", "low", "high", "n", "vocabulary", "weight", "note"]
    return shares.select(order).sort("tokens", "layer", maintain_order=True)


def write(folder: Path) -> None:
    """Count the words of a run folder and write the table `lens_words` into it: empty where the lens was not asked, or saw no image."""
    run = store.open_run(folder)
    records = occurrence(run, seed=run.manifest["plan"]["seed"]).to_dicts() if not _first_words(run).is_empty() else []
    store.write_table(folder, "lens_words", records)


def _first_words(run: store.Run) -> pl.DataFrame:
    """The likeliest word of every token of the image, at every state."""
    shown = run.lens.filter(pl.col("patch").is_not_null())
    return shown.select("sample", "layer", "patch", pl.col("words").list.first().alias("word")).sort("sample", "layer", "patch")


def _clusters(run: store.Run) -> dict[str, str]:
    """Of each sample, what is left out together: its patient, or its image."""
    asked = run.samples.select("sample", "image", "patient").iter_rows()
    return {sample: f"image {image}" if patient is None else f"patient {patient}" for sample, image, patient in asked}


class _Reading:
    """words: of the vocabulary; None where the run does not tell."""

    def __init__(self, read: pl.DataFrame, words: int | None) -> None:
        self.read, self.words = read, words
        self.vocabulary = Vocabulary(words or 0, bool(read["word"].str.contains("|".join(MARKS)).any()), {})

    def of_layer(self, layer: int, groups: dict[str, str], listed: int, seed: int) -> Iterator[tuple[Any, ...]]:
        """The rows of one state."""
        mine = self.read.filter(pl.col("layer") == layer)
        images = {str(sample): own["word"].to_list() for (sample,), own in mine.group_by("sample", maintain_order=True)}
        totals = Counter(mine["word"].to_list())
        words = sorted(totals, key=lambda word: (-totals[word], word))[:listed]
        expected = None if self.words is None else mine.height / len(images) / self.words
        for word, varied in zip(words, varies(_by_place(list(images.values()), words), seed), strict=True):
            counts = {image: float(own.count(word)) for image, own in images.items()}
            mean = _mean(list(counts.values()))
            low, high, why = jackknife(mean, _left_out(counts, groups))
            low = None if low is None else max(0.0, low)
            note = "; ".join(dict.fromkeys(filter(None, (why, varied.ratio.note))))
            kinds = ", ".join(sorted(self.vocabulary.kinds(word)))
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
