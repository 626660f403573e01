"""The head a block of the vocabulary at a time: tokens x vocabulary is never in memory, nor is a head that lies in its file."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from medlens.errors import BadModel
from medlens.models.base import Model
from medlens.models.families import CAPPED

BLOCK = 512  # words at a time: 8 MiB of a head 4,096 wide, in float32


class Unembedding:
    """logits(normed) of a model's head. words: how many of its rows are words; rows behind those only pad the table, and are never
    shown. block: words at a time."""

    def __init__(self, model: Model, block: int = BLOCK) -> None:
        self.model, self.block = model, block
        config, head = model.text_config, model.head
        if not isinstance(head, torch.nn.Linear):
            raise BadModel(f"{model.name}: its head is a {type(head).__name__}; the lens reads linear ones")
        self.words = min(head.out_features, len(model.tokenizer))
        self.cap: float | None = getattr(config, "final_logit_softcapping", None) if model.family in CAPPED else None

    def logits(self, normed: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Of rows (T, d) behind the final norm: (id of the first word, logits (T, at most `block`)), block after block."""
        for begin in range(0, self.words, self.block):
            weight, bias = self._rows(begin, min(begin + self.block, self.words))
            yield begin, self._capped(functional.linear(normed, weight, bias))

    def of_words(self, normed: Tensor, ids: Tensor) -> Tensor:
        """The logits (T, n) of some words, by their ids (n)."""
        rows = [self._rows(int(i), int(i) + 1) for i in ids]
        bias = None if rows[0][1] is None else torch.cat([b for _, b in rows])  # pyright: ignore[reportArgumentType]
        return self._capped(functional.linear(normed, torch.cat([w for w, _ in rows]), bias))

    def rows(self, folded: bool = False) -> Iterator[tuple[int, Tensor]]:
        """The head's own rows, (id of the first word, (at most `block`, d)), block after block; what a vector in the last state
        says to each word. folded: with the final norm's weight in them (and, where it is a LayerNorm, its centring), which is all
        of it but the division by the state's size. Of a streamed model the final norm must be in memory then."""
        weight, centred = self._of_norm() if folded else (None, False)
        for begin in range(0, self.words, self.block):
            rows, _ = self._rows(begin, min(begin + self.block, self.words))
            rows = rows if weight is None else rows * weight
            yield begin, rows - rows.mean(1, keepdim=True) if centred else rows

    @torch.no_grad()
    def _of_norm(self) -> tuple[Tensor, bool]:
        """The final norm's weight (d,), and whether it centres: by what it does to +1, -1, +1, ..., whose size is 1 and whose mean
        is 0, and to all ones; some families' weight is 1 + what they store."""
        ones = torch.ones(self.model.width, device=self.model.device, dtype=self.model.dtype)
        signs = ones.clone()
        signs[1::2] = -1
        weight, level = ((self._normed(x) - self._normed(-x)) / 2 * x for x in (signs, ones))
        return weight, float(level.abs().max()) < 1e-3 * float(weight.abs().max())

    def _normed(self, x: Tensor) -> Tensor:
        return self.model.norm(x[None, None])[0, 0]

    def _rows(self, begin: int, end: int) -> tuple[Tensor, Tensor | None]:
        read = self._rows_of_file if self.model.head.weight.is_meta else self._rows_in_memory
        return read("weight", begin, end), read("bias", begin, end) if self.model.head.bias is not None else None

    def _rows_in_memory(self, leaf: str, begin: int, end: int) -> Tensor:
        return getattr(self.model.head, leaf).detach()[begin:end]

    def _rows_of_file(self, leaf: str, begin: int, end: int) -> Tensor:
        assert self.model.weights is not None
        name = next(n for n in self.model.names_of["head"] if n.endswith(leaf))
        return self.model.weights.read_rows(name, begin, end)

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)
