"""On the way back: how much each unit of the MLP gives a word where it is true, and not where it is false."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medlens.measures.units import attribute
from medlens.models.base import Model
from medlens.models.unembedding import Unembedding
from medlens.stats.contrast import Contrast, Contrasts
from medlens.walk.cases import Case
from medlens.walk.target import Aim, LogOdds
from medlens.walk.units import Names, UnitTracer

SCOPES = ("image", "all", "direct")


class Place(NamedTuple):
    """Where a sample belongs for a word: its half of the data, its fold there, and whether the word is true of it."""

    half: str
    fold: int
    true: bool


class OfBlock(NamedTuple):
    """What is known of a block's units, on one half of the data, for one word.

    scores: of each of SCOPES the contrast, (units,) each: "image", gradient x activation summed over the image's tokens, and
    "all", over all; "direct", activation x what the unit writes to the word, at the token that predicts it. active: mean
    activation at image tokens where the word is true, and where it is false, (units,) each. mean: at all tokens, of all samples.
    """

    block: int
    word: int
    half: str
    scores: Mapping[str, Contrast]
    active: tuple[Tensor, Tensor]
    mean: Tensor


class Attribution(UnitTracer):
    """Sums over samples, of one block at a time: memory does not grow with the number of images.

    places: of each word (id) where each sample (id) belongs. After each block `found` gives what is known of its units, and the
    sums are forgotten with `leave`.

    Gradient x activation: Schwettmann et al. 2023, Multimodal Neurons in Pretrained Text-Only Transformers. The direct path, which
    needs no gradient: Pan et al. 2024, Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers; here with the final
    norm's weight folded in, and without its division by the state's size.
    """

    def __init__(
        self, model: Model, places: Mapping[int, Mapping[str, Place]], folds: int, names: Names = Names()  # noqa: B008
    ) -> None:  # fmt: skip
        super().__init__(model, range(model.depth), LogOdds, False, names)
        self.places, self.folds = places, folds
        self._rows = _folded_rows(model, list(places))
        self._sums: dict[tuple[int, str], _Sums] = {}
        self._block = -1
        self._writes: dict[int, Tensor] = {}

    def note(self, block: int, case: Case, target: Aim, value: Tensor, gradient: Tensor) -> None:
        assert isinstance(target, LogOdds)
        if block != self._block:  # now, because a streamed model's block is in memory now
            columns = self.written(block)
            self._writes = {word: (columns @ row).double() for word, row in self._rows.items()}
            self._block = block
        word, prompt = target.word.id, case.prompts[target.branch]
        place = self.places[word][prompt.sample.id]
        products = attribute(value, gradient)
        image = [i for i, group in enumerate(case.groups) if group == "image"]
        own = case.pack.rows(target.branch)
        scores = {
            "image": products[image].double().sum(0),
            "all": products.double().sum(0),
            "direct": value[own[target.word.after]].double() * self._writes[word],
        }
        sums = self._sums.setdefault((word, place.half), _Sums(self.folds, len(products[0]), value.device))
        sums.add(place, scores, value[image].double().mean(0), value[own].double())

    def found(self, block: int) -> Iterator[OfBlock]:
        """Of each word and half."""
        for (word, half), sums in sorted(self._sums.items()):
            active = sums.active / torch.tensor(sums.n).clamp(min=1)[:, None].to(sums.active)
            scores = {scope: found.contrast() for scope, found in sums.scores.items()}
            yield OfBlock(block, word, half, scores, (active[1].cpu(), active[0].cpu()), (sums.total / sums.tokens).cpu())

    def leave(self, block: int) -> None:
        self._sums = {}


class _Sums:
    """Of one word and half, over samples. active and n: where the word is false, and where it is true."""

    def __init__(self, folds: int, units: int, device: torch.device) -> None:
        self.scores = {scope: Contrasts(folds, units, device) for scope in SCOPES}
        self.active = torch.zeros(2, units, dtype=torch.float64, device=device)
        self.n = [0, 0]
        self.total, self.tokens = torch.zeros(units, dtype=torch.float64, device=device), 0

    def add(self, place: Place, scores: Mapping[str, Tensor], active: Tensor, values: Tensor) -> None:
        for scope, of_units in scores.items():
            self.scores[scope].add(place.fold, place.true, of_units)
        self.active[int(place.true)] += active
        self.n[int(place.true)] += 1
        self.total += values.sum(0)
        self.tokens += len(values)


def _folded_rows(model: Model, words: Sequence[int]) -> dict[int, Tensor]:
    """The head's row of each word, with the final norm's weight in it, (d,)."""
    with model.here("norm", "head"):
        found: dict[int, Tensor] = {}
        for begin, rows in Unembedding(model).rows(folded=True):
            found |= {word: rows[word - begin].clone() for word in words if 0 <= word - begin < len(rows)}
    return found
