"""Packing: every question on one image behind one prefix.

The image comes before the question and attention is causal, so the rows of the image do not depend on the question. A pack holds
the common prefix once and each question as a *branch* that sees the prefix and itself; a branch's positions go on where the prefix
ends. Exactly equal to one sequence a question, at a fraction of the tokens. Nothing here knows what an image is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

PADDING = -1  # a segment that nothing sees


@dataclass(frozen=True)
class Pack:
    """Sequences laid out behind their common prefix.

    ids, segments, positions: (T,) each; segment 0 is the prefix, k >= 1 the k-th branch. members: which sequence each branch is.
    """

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    positions: tuple[int, ...]
    members: tuple[int, ...]

    @property
    def prefix(self) -> int:
        """Length of the common prefix."""
        return self.segments.count(0)

    def rows(self, branch: int) -> list[int]:
        """Places, in the pack, of the whole sequence that is branch `branch` (0-based): the prefix, then its own."""
        return [i for i, s in enumerate(self.segments) if s in (0, branch + 1)]

    def own_rows(self, branch: int) -> list[int]:
        """The same without the prefix; with it for the first branch, so that over all branches every place comes once."""
        return self.rows(branch) if branch == 0 else [i for i, s in enumerate(self.segments) if s == branch + 1]


def pack(sequences: Sequence[Sequence[int]], members: Sequence[int] | None = None) -> Pack:
    """Lay out token id sequences behind their longest common prefix (each keeps at least its last token to itself)."""
    shared = common_prefix(sequences) if len(sequences) > 1 else len(sequences[0])
    ids, segments, positions = list(sequences[0][:shared]), [0] * shared, list(range(shared))
    for k, sequence in enumerate(sequences, start=1):
        own = sequence[shared:]
        ids += own
        segments += [k] * len(own)
        positions += range(shared, len(sequence))
    return Pack(tuple(ids), tuple(segments), tuple(positions), tuple(members or range(len(sequences))))


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """How many leading ids all sequences share, leaving each at least one of its own."""
    shared = 0
    for column in zip(*(s[:-1] for s in sequences), strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return shared


def visible(segments: torch.Tensor, positions: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """Who sees whom, (..., T, T) bool: row i sees column j. `window` is a sliding window in positions, as Mistral counts it.

    Padding sees only itself, so that no softmax runs over nothing.
    """
    query, key = segments.unsqueeze(-1), segments.unsqueeze(-2)
    behind = positions.unsqueeze(-1) - positions.unsqueeze(-2)
    seen = ((key == 0) | (key == query)) & (behind >= 0) & (key != PADDING) & (query != PADDING)
    if window is not None:
        seen &= behind < window
    return seen | torch.eye(segments.shape[-1], dtype=torch.bool, device=segments.device)


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask as transformers takes it: (batch, 1, T, T), 0 where seen and the most negative number where not."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(-3)
