"""What image tokens are near to in the model's own text: the nearest stored states of words, at any layer, for image tokens that
the logit lens cannot read (LatentLens: Krojer et al. 2026). (`_neighbours`, because the public function is called `neighbours`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import polars as pl
import torch
from PIL import Image
from torch import Tensor

from medlens._near_pictures import picture
from medlens._near_regions import true_words
from medlens._record import fingerprint
from medlens.data.images import open_image
from medlens.errors import BadInput, BadModel, CannotWrite
from medlens.instruments.kept import Kept
from medlens.instruments.texts import Sentence, TextStates, Word, choose, load_texts, sentences_in, sentences_of
from medlens.measures.nearest import Nearest, nearest
from medlens.models.base import Model
from medlens.models.frame import frame, side_of
from medlens.types import Sample
from medlens.walk.cases import Prompt, cases
from medlens.walk.forward import prepare, walk

STORED = 8  # layers at most, and the last one: more would be gigabytes
TEXT, IMAGE = "text {}", "image {}"  # what walks is called so, whatever the data call it
Texts = TextStates | Sequence[Sample] | str | Path | None


@dataclass(frozen=True)
class Neighbours:
    """table: a row for each patch, layer and neighbour (`rank` 1 is the nearest): sample, image, layer, patch (index in the image's
    grid), rank, word, sentence, text_layer (whose state of the word it is), similarity (cosine).

    null: of each layer, `similarity` (mean over patches, of the nearest), `null` and `null_95` (mean and 95 % quantile of the same
    where every column was shuffled over the patches: each has its own values, and no patch is one any more), `above` (share of
    patches beyond null_95), `words` (how many different ones are nearest), `commonest` and its `share`: a word that is near to
    everything says little; `text_layer`: the median over patches of the layer that the nearest word's state comes from.

    texts: the library, to be saved and used again. samples: whose images these are. left_out: columns with massive activations,
    where they were left out.
    """

    table: pl.DataFrame
    null: pl.DataFrame
    texts: TextStates
    samples: tuple[Sample, ...]
    left_out: tuple[int, ...]

    def true_words(self, model: Model, names: Sequence[str]) -> pl.DataFrame:
        """How often the nearest word of a patch on a named region is its name: see `_near_regions.true_words`."""
        return true_words(model, self.table.filter(pl.col("rank") == 1), self.samples, names)

    def picture(self, model: Model, number: int, layer: int) -> Image.Image:
        """Image `number` as the model sees it, each patch with its nearest word at a layer; on blue where it is nearer than the
        null's 95 % quantile. Raises BadInput for what was not read, BadModel where the patches are no grid."""
        layers = self.null["layer"].to_list()
        if layer not in layers or not 0 <= number < len(self.samples):
            raise BadInput(f"read were images 0 to {len(self.samples) - 1} at layers {layers}; got image {number}, layer {layer}")
        sample = self.samples[number]
        shown = (pl.col("image") == _image(sample, number)) & (pl.col("layer") == layer) & (pl.col("rank") == 1)
        rows = self.table.filter(shown).sort("patch")
        side_of(model, rows.height)
        limit = self.null.filter(pl.col("layer") == layer)["null_95"][0]
        caption = f"{_image(sample, number)}: nearest words of text, image states of layer {layer} of {model.depth}"
        seen = frame(model, open_image(sample.image, sample.id, grey=True))
        return picture(seen, rows["word"].to_list(), (rows["similarity"] > limit).to_list(), caption)

    def save(self, folder: str | Path, model: Model) -> Path:
        """Write `neighbours.parquet`, `layers.parquet`, and a picture of every image at every layer. Raises CannotWrite."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.table.write_parquet(folder / "neighbours.parquet")
            self.null.write_parquet(folder / "layers.parquet")
            for number in range(len(self.samples)):
                for layer in self.null["layer"]:
                    self.picture(model, number, layer).save(folder / f"image-{number:02d}-layer-{layer:02d}.png")
        except OSError as e:
            raise CannotWrite(f"{folder} cannot be written: {e.strerror or e}") from e
        return folder


def neighbours(
    model: Model, samples: Sequence[Sample] | Sample, texts: Texts = None, *, layers: Sequence[int] | None = None, k: int = 5,
    images: int = 4, cap: int = 4096, seed: int = 0, leave_out_massive: bool = False,
) -> Neighbours:  # fmt: skip
    """The k nearest text states of every patch of the first `images` images, at each of `layers`, by cosine of the raw states.

    texts: where words come from: a file with one sentence a line; samples, whose questions and answers are read; a library, or its
    file (.safetensors), which is searched at the layers it has; None: these samples' own. Sentences are read without any image.
    layers: states whose words are stored and whose patches are read, each compared with all of them (default: all, or at most 8
    evenly spread and the last). cap: words at each layer, drawn by `seed`. leave_out_massive: cosines without the columns of
    massive activations, which otherwise make everything near to everything; raw by default, as in the paper.

    One walk of images and sentences together. In memory: layers x (cap + images x patches) x width x 4 bytes (7 billion parameters:
    0.9 GB), and the walk's own.

    Raises BadInput for layers that are not there or arguments that make no sense, BadData where there is no word, or the file
    cannot be read, BadModel for a library of other weights.
    """
    chosen = _one_of_each_image([samples] if isinstance(samples, Sample) else samples, images)
    weights = fingerprint(model)
    stored = texts if isinstance(texts, TextStates) else None
    if isinstance(texts, str | Path) and Path(texts).suffix == ".safetensors":
        stored = load_texts(texts, weights)
    if stored is not None and stored.fingerprint != weights:
        raise BadModel(f"text states of weights {stored.fingerprint}, this model's are {weights}: write its own")
    at = _layers(model, stored.layers if stored and layers is None else layers)
    looked = [replace(prepare(model, s), image=IMAGE.format(n)) for n, s in enumerate(chosen)]
    sentences = [] if stored else _sentences(texts, samples)
    read = [_prompt(model, n, sentence) for n, sentence in enumerate(sentences)]
    words = [] if stored else choose(read, sentences, model.tokenizer, cap, seed)
    states, queries, columns = _walked(model, looked, read, words, at)
    if stored is None:
        told = tuple(w.word for w in words), tuple(w.sentence for w in words)
        stored = TextStates(states, *told, at, weights)
    return _compared(stored, queries, chosen, at, k, seed, columns if leave_out_massive else ())


def _one_of_each_image(samples: Sequence[Sample], images: int) -> list[Sample]:
    if images < 1 or not samples:
        raise BadInput(f"at least one image of at least one sample; got images={images} and {len(samples)} samples")
    first: dict[str, Sample] = {}
    for number, sample in enumerate(samples):
        if len(sample.images) != 1:
            raise BadInput(f"sample {sample.id or number}: {len(sample.images)} images; neighbours are of samples with one")
        first.setdefault(_image(sample, number), sample)
    return list(first.values())[:images]


def _layers(model: Model, layers: Sequence[int] | None) -> tuple[int, ...]:
    if layers is None:
        return tuple(sorted({*range(0, model.depth, ceil(model.depth / STORED)), model.depth}))
    wrong = [b for b in layers if not 0 <= b <= model.depth]
    if wrong or not layers:
        raise BadInput(f"layers are states 0 to {model.depth} of {model.name}; got {', '.join(map(str, wrong)) or 'none'}")
    return tuple(sorted(set(layers)))


def _sentences(texts: Texts, samples: Sequence[Sample] | Sample) -> list[Sentence]:
    if isinstance(texts, str | Path):
        return sentences_in(Path(texts))
    assert not isinstance(texts, TextStates)
    own = [samples] if isinstance(samples, Sample) else samples
    return sentences_of(own if texts is None else texts)


def _prompt(model: Model, number: int, sentence: Sentence) -> Prompt:
    alone = Sample(question=sentence.question, id=sentence.source)
    return replace(prepare(model, alone, sentence.answer), image=TEXT.format(number))


def _walked(
    model: Model, looked: Sequence[Prompt], read: Sequence[Prompt], words: Sequence[Word], at: tuple[int, ...]
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """States of the words (layers, N, d), of the patches (layers, images x patches, d), and which columns are massive."""
    places = {prompt.image: prompt.tokens.where("image") for prompt in looked}
    patches = {len(where) for where in places.values()}
    if len(patches) > 1 or 0 in patches:
        raise BadModel(f"{model.name} has {sorted(patches)} tokens for these images: expected as many for each")
    spoken: dict[str, list[int]] = {}
    for word in words:
        spoken.setdefault(TEXT.format(word.prompt), []).append(word.place)
    kept = Kept(places | spoken, at, model.depth)
    walk(model, cases(model, [*looked, *(prompt for prompt in read if prompt.image in spoken)]), [kept])
    states, shown = kept.states(), sum(map(len, places.values()))
    return states[:, shown:], states[:, :shown], tuple(sorted(kept.massive))


def _compared(
    texts: TextStates, queries: Tensor, chosen: Sequence[Sample], at: Sequence[int], k: int, seed: int, left_out: Sequence[int]
) -> Neighbours:
    """queries: (layers, images x patches, d)."""
    library = texts.states.flatten(0, 1)
    if left_out:
        queries, library = queries.clone(), library.clone()
        queries[..., list(left_out)] = library[:, list(left_out)] = 0.0
    generator = torch.Generator().manual_seed(seed)
    tables, nulls = [], []
    for layer, rows in zip(at, queries, strict=True):
        both = nearest(torch.cat([rows, _shuffled(rows, generator)]), library, k)
        tables.append(_table(texts, Nearest(both.rows[: len(rows)], both.similarity[: len(rows)]), chosen, layer))
        nulls.append(_against_null(tables[-1], both.similarity[len(rows) :, 0], layer))
    return Neighbours(pl.concat(tables), pl.concat(nulls), texts, tuple(chosen), tuple(left_out))


def _shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Each column in an order of its own."""
    return rows.gather(0, torch.rand(rows.shape, generator=generator).argsort(0))


def _table(texts: TextStates, found: Nearest, chosen: Sequence[Sample], layer: int) -> pl.DataFrame:
    count, n = found.rows.shape, len(texts)
    patches = count[0] // len(chosen)
    row, rank = (index.flatten().tolist() for index in torch.meshgrid(*map(torch.arange, count), indexing="ij"))
    number = found.rows.flatten().tolist()
    return pl.DataFrame({
        "sample": [chosen[r // patches].id for r in row],
        "image": [_image(chosen[r // patches], r // patches) for r in row],
        "layer": pl.Series([layer] * len(row), dtype=pl.Int32),
        "patch": pl.Series([r % patches for r in row], dtype=pl.Int32),
        "rank": pl.Series([r + 1 for r in rank], dtype=pl.Int32),
        "word": [texts.words[i % n] for i in number],
        "sentence": [texts.sentences[i % n] for i in number],
        "text_layer": pl.Series([texts.layers[i // n] for i in number], dtype=pl.Int32),
        "similarity": found.similarity.flatten().tolist(),
    })  # fmt: skip


def _image(sample: Sample, number: int) -> str:
    return sample.image_id or sample.id or f"sample {number}"


def _against_null(table: pl.DataFrame, null: Tensor, layer: int) -> pl.DataFrame:
    first = table.filter(pl.col("rank") == 1)
    similarity, limit = first["similarity"], float(null.quantile(0.95))
    words = first["word"].value_counts(sort=True).sort(["count", "word"], descending=[True, False])
    return pl.DataFrame({
        "layer": pl.Series([layer], dtype=pl.Int32),
        "similarity": similarity.mean(),
        "null": float(null.mean()),
        "null_95": limit,
        "above": (similarity > limit).mean(),
        "words": words.height,
        "commonest": words["word"][0],
        "share": words["count"][0] / first.height,
        "text_layer": first["text_layer"].median(),
    })  # fmt: skip
