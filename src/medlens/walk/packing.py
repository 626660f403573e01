"""Packing: every question on one image behind one prefix.

The image comes before the question and attention is causal, so the rows of the image do not depend on the question. A pack holds
the common prefix once and each question as a *branch* that sees the prefix and itself; a branch's positions go on where the prefix
ends. Exactly equal to one sequence a question, at a fraction of the tokens. Nothing here knows what an image is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medlens.errors import BadInput

PADDING = -1  # a segment that nothing sees


@dataclass(frozen=True)
class Pack:
    """Sequences laid out behind their common prefix.

    ids, segments, positions: (T,) each; segment 0 is the prefix, k >= 1 the k-th branch.
    """

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    positions: tuple[int, ...]

    @property
    def prefix(self) -> int:
        """Length of the common prefix."""
        return self.segments.count(0)

    def rows(self, branch: int) -> list[int]:
        """Places, in the pack, of the whole sequence that is branch `branch` (0-based): the prefix, then its own."""
        return [i for i, s in enumerate(self.segments) if s in (0, branch + 1)]


def pack(sequences: Sequence[Sequence[int]], shared: int) -> Pack:
    """Lay out token id sequences behind their first `shared` ids, which are the same in all of them."""
    prefix = tuple(sequences[0][:shared])
    ids, segments, positions = list(prefix), [0] * shared, list(range(shared))
    for k, sequence in enumerate(sequences, start=1):
        if tuple(sequence[:shared]) != prefix:
            raise BadInput(f"sequence {k} does not begin with the {shared} ids of the first one")
        ids += sequence[shared:]
        segments += [k] * (len(sequence) - shared)
        positions += range(shared, len(sequence))
    return Pack(tuple(ids), tuple(segments), tuple(positions))


def visible(
    segments: torch.Tensor, positions: torch.Tensor, window: int | None = None, together: torch.Tensor | None = None
) -> torch.Tensor:
    """Who sees whom, (..., T, T) bool: row i sees column j. `window` is a sliding window in positions, as Mistral counts it.
    together: (..., T), places of the prefix with the same number see each other both ways (-1: none), as far as the window reaches.

    Padding sees only itself, so that no softmax runs over nothing.
    """
    query, key = segments.unsqueeze(-1), segments.unsqueeze(-2)
    behind = positions.unsqueeze(-1) - positions.unsqueeze(-2)
    allowed = behind >= 0
    if together is not None:
        allowed |= (together.unsqueeze(-1) == together.unsqueeze(-2)) & (together.unsqueeze(-1) >= 0)
    seen = ((key == 0) | (key == query)) & allowed & (key != PADDING) & (query != PADDING)
    if window is not None:
        seen &= behind < window
    return seen | torch.eye(segments.shape[-1], dtype=torch.bool, device=segments.device)


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask as transformers takes it: (batch, 1, T, T), 0 where seen and the most negative number where not."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(-3)
