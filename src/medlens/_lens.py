"""One sample under the lens: one walk of its prompt and answer, every state of every token read as words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

import polars as pl
import torch
from PIL import Image
from torch import Tensor

from medlens._record import public_name
from medlens.data.images import open_image
from medlens.errors import BadInput
from medlens.lens_reading import DECISIONS, RIVALS, WORDS, Grid, LensReading
from medlens.measures.lens import Words, likeliest, said
from medlens.models import Model, load
from medlens.models.prompt import read
from medlens.models.unembedding import Unembedding
from medlens.models.values import handed_on
from medlens.models.words import word_id
from medlens.types import Sample
from medlens.walk.cases import Case, Prompt, cases
from medlens.walk.forward import prepare, walk
from medlens.walk.generate import Decoding, answers

LONGEST = 16  # tokens of an answer that is generated: the lens follows its first
RIVALS_SHOWN = 4
OF = {"states": "states", "values": "blocks"}  # what is read, and what its layers are


def lens(
    model: Model | str | Path,
    sample: Sample,
    *,
    answer: str | None = None,
    target: str | None = None,
    words: int = 5,
    layers: Sequence[int] | None = None,
    of: str = "states",
    tuned: Any = None,
) -> LensReading:
    """Read every token of a sample at every state as words: what the model would say if it ended there (logit lens).

    of: "states"; or "values": what each token hands on in block b to those that attend to it (see `models.values`), which is what
    places of an image are for: a model is not trained to say anything there. `layers` are then blocks, 0 .. L-1.

    answer: the one that is put behind the prompt; default: the model's own, greedy. target: the word that is followed through the
    states at the position that predicts the answer; default: the answer's first token. words: how many of each. layers: only these
    states (0 .. L); the answer is followed through all. tuned: a tuned lens of these very weights (`medlens.load_lens`).

    Raises BadInput for a state that is none, and for a target that is no word of the vocabulary; and what `answer` raises.
    """
    model = model if isinstance(model, Model) else load(model)
    if words < 1:
        raise BadInput(f"at least 1 word of each token is read; got {words}")
    if of not in OF or (of == "values" and tuned is not None):
        raise BadInput(f"a lens is of {' or '.join(OF)}, a tuned one of states; got {of}")
    states = _layers(model, layers, model.depth + (of == "states"), OF[of])
    word = None if target is None else word_id(model, target)
    prompt, text, last, first = _answered(model, prepare(model, sample), answer)
    case = cases(model, [prompt])[0]
    reader = _Reader(model, case, last, states, words, of, tuned)
    walk(model, [case], [reader])
    grid, why, picture = _grid(model, case)
    word = first if word is None else word
    kind = "value" if of == "values" else "logit" if tuned is None else "tuned"
    return LensReading(
        public_name(model.name), kind, sample.id, sample.question, text, answer is not None,
        _text(model, word), reader.predicting, model.depth, states, prompt.tokens, grid, why, picture,
        reader.words(grid is not None), *reader.decisions(word),
    )  # fmt: skip


def _layers(model: Model, layers: Sequence[int] | None, count: int, what: str) -> tuple[int, ...]:
    chosen = range(count) if layers is None else layers
    wrong = [b for b in chosen if not 0 <= b < count]
    if wrong or not chosen:
        raise BadInput(f"the {what} of {model.name} are 0 to {count - 1}; got layer {wrong[0] if wrong else 'none'}")
    return tuple(sorted(set(chosen)))


def _answered(model: Model, asked: Prompt, answer: str | None) -> tuple[Prompt, str, int, int]:
    """The prompt with its answer behind it, the answer, the position that predicts it, and the id of its first token. Of an answer
    without words: the prompt alone, and the token that ended it.

    The first token is the one the model itself said, or of a given answer the one behind the prompt (in front of the answer's
    words, where the tokenizer joins them with the prompt's last)."""
    if answer is not None and not answer.strip():
        raise BadInput("the answer is empty; give words, or leave it out and the model's own is taken")
    own = answers(model, [asked], Decoding(LONGEST))[0] if answer is None else None
    text, last = str(answer if own is None else own), len(asked.tokens) - 1
    if not text.strip() and own is not None:
        return asked, text, last, own.ids[0]
    told = replace(asked, tokens=read(model, asked.sample, asked.look, text))
    if told.tokens.ids[: last + 1] != asked.tokens.ids:
        last = told.tokens.where("answer")[0] - 1
    return told, text, last, told.tokens.ids[last + 1] if own is None else own.ids[0]


class _Reader:
    """A visitor that keeps the words of every state, and the row of the position that predicts the answer."""

    def __init__(self, model: Model, case: Case, predicting: int, layers: Sequence[int], words: int, of: str, tuned: Any) -> None:
        self._model, self._case, self._layers, self._count = model, case, layers, words
        self._of, self._tuned = of, tuned
        self._head = Unembedding(model)
        self.predicting = predicting
        self._read: dict[int, Words] = {}
        self._rows: list[Tensor] = []

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        norm = self._model.norm
        with self._model.here("norm"):
            normed = norm(before[None])[0] if self._tuned is None else self._tuned.apply(block, before)
            values = norm(handed_on(self._model, block, before)[None])[0] if self._of == "values" else None
        self._rows.append(normed[self.predicting].clone())
        self._take(block, normed if values is None else values)

    def leave(self, block: int) -> None:
        pass

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        self._rows.append(normed[self.predicting].clone())
        self._take(self._model.depth, normed)

    def _take(self, layer: int, normed: Tensor) -> None:
        if layer in self._layers:
            self._read[layer] = likeliest(normed, self._head.logits, self._count)

    def words(self, gridded: bool) -> pl.DataFrame:
        """As `WORDS` says."""
        prompt, texts = self._case.prompts[0], self._case.prompts[0].tokens.texts
        number = {place: k for k, place in enumerate(prompt.tokens.where("image"))} if gridded else {}
        lines = []
        for layer, found in self._read.items():
            variant = "values" if self._of == "values" else self._variant(layer)
            names = [self._model.tokenizer.convert_ids_to_tokens(ids) for ids in found.ids.tolist()]
            for at, group in enumerate(prompt.tokens.groups):
                lines.append((
                    prompt.sample.id, prompt.image, layer, variant, at, "" if group == "image" else texts[at],
                    group, number.get(at), names[at], found.log_p[at].exp().tolist(), float(found.entropy[at]),
                ))  # fmt: skip
        return pl.DataFrame(lines, schema=WORDS, orient="row")

    def decisions(self, word: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """As `DECISIONS` and `RIVALS` say."""
        rows, layers = torch.stack(self._rows), range(len(self._rows))
        final = rows[-1:].expand_as(rows)
        found = said(rows, final, torch.full((len(rows),), word, device=rows.device), self._head.logits)
        name, text = self._case.prompts[0].sample.id, _text(self._model, word)
        values = zip(found.log_p.exp().tolist(), found.rank.int().tolist(), found.log_odds.tolist(), found.kl.tolist(), strict=True)
        lines = [(name, b, self._variant(b), text, *of) for b, of in zip(layers, values, strict=True)]
        others = [i for i in likeliest(rows[-1:], self._head.logits, RIVALS_SHOWN + 1).ids[0].tolist() if i != word][:RIVALS_SHOWN]
        logits = self._head.of_words(rows, torch.tensor([word, *others])).double()
        shares = (logits[:, 1:] - logits[:, :1] + found.log_p[:, None]).exp().tolist()
        rivals = [(b, _text(self._model, i), shares[b][k]) for k, i in enumerate(others) for b in layers]
        return pl.DataFrame(lines, schema=DECISIONS, orient="row"), pl.DataFrame(rivals, schema=RIVALS, orient="row")

    def _variant(self, layer: int) -> str:
        return "normed" if layer == self._model.depth else "raw"


def _text(model: Model, word: int) -> str:
    return model.tokenizer.convert_ids_to_tokens([word])[0]


def _grid(model: Model, case: Case) -> tuple[Grid | None, str, Image.Image | None]:
    """The image's tokens as rows and columns of what the model sees, and that picture; or why they are no one grid.

    They are one grid where one picture went in whole, and so many rows and columns of equal squares give so many tokens."""
    sample, count = case.prompts[0].sample, case.prompts[0].tokens.groups.count("image")
    if not count:
        return None, "the model was shown no image", None
    first = open_image(sample.image, sample.id)
    pixels = case.look.inputs.get("pixel_values")
    if len(sample.images) > 1:
        return None, f"{len(sample.images)} images were shown; their tokens are {count} places in a list", first
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[0] != 1 or pixels.shape[1] not in (1, 3):
        return None, f"the model sees the image in pieces; its tokens are {count} places in a list", first
    height, width = pixels.shape[2:]
    rows = isqrt(count * height // width)
    if not rows or count % rows or rows * width != count // rows * height:
        return None, f"{count} image tokens are no grid of squares on {width} x {height} pixels", first
    return Grid(rows, count // rows), "", _seen(model, pixels[0])


def _seen(model: Model, pixels: Tensor) -> Image.Image:
    """What the model sees: the processor's normalisation undone."""
    maker = model.processor.image_processor
    mean, std = (
        torch.tensor(getattr(maker, name, None) or [default]) for name, default in (("image_mean", 0.0), ("image_std", 1.0))
    )
    plain = pixels.float().cpu()
    if getattr(maker, "do_normalize", False):
        plain = plain * std[:, None, None] + mean[:, None, None]
    levels = (plain * 255).round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())
