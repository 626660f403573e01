"""Image tokens that go after a block: dropped, or merged into those that stay. Context managers, which leave nothing behind.

From the block behind `after` on nobody sees the keys of the tokens that went; all others keep their positions. Those who went walk
on, unseen, so that states and caches stay as long as they were: this shows what a shorter prompt would say, not how fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from medlens import hooks
from medlens.errors import BadInput, BadModel
from medlens.models.base import Model
from medlens.walk.cases import apart
from medlens.walk.knockout import MASK

Rule = Literal["attention", "random"]
RULES = ("attention", "random")
NOTE = "medlens_thinned"  # among what a decoder is called with, and hands on to its blocks

Gone = list[tuple[int, ...]]  # of each pass of block `after`, and each row of its batch: the places that go


def image_tokens_dropped(
    model: Model, after: int, share: float = 0.5, by: Rule = "attention", seed: int = 0
) -> AbstractContextManager[Gone]:
    """With this share of the image tokens dropped behind block `after` (FastV, Chen et al. 2024).

    by: "attention", those go that get the least of it in block `after`, mean over its heads and over all tokens behind the image
    (an answer that is read on counts among these); "random", drawn by `seed`, the same of all images of as many tokens. Gives a
    list that tells which places went, one entry for each time that a prompt passed the block.

    By attention each question chooses for itself, so `cases` packs nothing meanwhile; in random order a pack is what it was.
    Attention is computed by "eager". Lay out and walk within the context: cases that entered the model before are refused.

    Raises BadInput for a block that is not there or has none behind it, for a share outside 0 to 1, an unknown rule, and packs of
    several questions by attention; BadModel for a family whose blocks take no mask, or are not handed what their decoder is given.
    """
    return _thinned(model, after, share, by, seed, merged=False)


def image_tokens_merged(
    model: Model, after: int, share: float = 0.5, by: Rule = "attention", seed: int = 0
) -> AbstractContextManager[Gone]:
    """As `image_tokens_dropped`, but each token that goes first joins the kept image token that is most like it (cosine of the
    states behind block `after`): that one becomes the mean of itself and all that joined it (after ToMe, Bolya et al. 2023).
    Something must be kept: a share of 1 raises BadInput."""
    if share == 1:
        raise BadInput("a share of 1 leaves no image token to merge the others into; drop them")
    return _thinned(model, after, share, by, seed, merged=True)


@contextmanager
def _thinned(model: Model, after: int, share: float, by: Rule, seed: int, merged: bool) -> Iterator[Gone]:
    if not 0 <= after < model.depth - 1:
        raise BadInput(f"image tokens can go after blocks 0 to {model.depth - 2} of {model.name}; got {after}")
    if not 0 <= share <= 1:
        raise BadInput(f"the share of image tokens that go is from 0 to 1; got {share}")
    if by not in RULES:
        raise BadInput(f"image tokens go by {' or '.join(RULES)}; got {by!r}")
    thinning = _Thinning(model, after, share, by, seed)
    with ExitStack() as stack:
        stack.enter_context(hooks.attention(model.module, "eager"))
        if by == "attention":
            stack.enter_context(apart())
        stack.enter_context(hooks.changed_call(model.module, thinning.begin))
        stack.enter_context(hooks.changed_call(model.decoder, thinning.note))
        for b, block in enumerate(model.blocks):
            stack.enter_context(hooks.changed_call(block, lambda call, b=b: thinning.enter(b, call)))
        stack.enter_context(hooks.attentions_of(model.blocks[after], thinning.choose))
        if merged:
            stack.enter_context(hooks.changed_output(model.blocks[after], thinning.merge))
        yield thinning.told


@dataclass(eq=False)
class _Note:
    """What is known of one prompt (or pack) on its way; it travels among what its blocks are called with.

    image: (T,) bool. gone: (batch, T) bool, once block `after` was passed.
    """

    image: Tensor
    gone: Tensor | None = None


class _Thinning:
    def __init__(self, model: Model, after: int, share: float, by: Rule, seed: int) -> None:
        self.model, self.after, self.share, self.by, self.seed = model, after, share, by, seed
        self.told: Gone = []
        self._begun: _Note | None = None
        self._passing: _Note | None = None  # whose call block `after` is working on
        self._of_cache: WeakKeyDictionary[Any, _Note] = WeakKeyDictionary()  # of what goes on: its prompt's

    def begin(self, call: hooks.Call) -> hooks.Call:
        """The model is called: where are its image's tokens?"""
        if (ids := call.kwargs.get("input_ids")) is None:
            raise BadInput("the model is called without input_ids, so where its image tokens are is not known")
        mask = call.kwargs.get(MASK)
        packed = isinstance(mask, dict) or (mask is not None and mask.dim() == 4)
        if packed and self.by == "attention":
            raise BadInput(
                "by attention, each question on an image chooses its own tokens: lay the prompts out within the context (it packs "
                "none together), or choose by random"
            )
        self._begun = _Note(ids[0] == self.model.image_token_id)
        return call

    def note(self, call: hooks.Call) -> hooks.Call:
        """The decoder is called, by its model or, for tokens that go on behind a cache, by itself."""
        cache, begun, self._begun = call.kwargs.get("past_key_values"), self._begun, None
        note = begun if cache is None else self._of_cache.get(cache, begun)
        if note is None:
            raise BadInput("this prompt entered the model before its image tokens were to go: let it enter within the context")
        if cache is not None:
            self._of_cache[cache] = note
        return hooks.Call(call.args, {**call.kwargs, NOTE: note})

    def enter(self, block: int, call: hooks.Call) -> hooks.Call:
        """A block is called: without the note, and behind block `after` with another mask."""
        kwargs = dict(call.kwargs)
        note: _Note | None = kwargs.pop(NOTE, None)
        if note is None:
            raise BadInput(
                f"block {block} of {self.model.name} is called without word of its image tokens: either this prompt entered before "
                f"the context, or a {type(self.model.decoder).__name__} does not hand it on"
            )
        if block == self.after:
            self._passing = note
        elif block > self.after:
            kwargs[MASK] = self._masked(block, kwargs.get(MASK), note)
        return hooks.Call(call.args, kwargs)

    def choose(self, weights: Tensor) -> Tensor:
        """Attention weights of block `after`, (batch, heads, new, T): of a whole prompt (new = T) they say what goes."""
        note = self._passing
        assert note is not None
        if note.gone is not None and weights.shape[-2] != len(note.image):
            return note.gone  # a token that goes on
        places = note.image.nonzero()[:, 0]
        count = int(self.share * len(places) + 0.5)
        note.gone = torch.zeros(weights.shape[0], len(note.image), dtype=torch.bool, device=weights.device)
        for row, of_row in zip(note.gone, weights.detach(), strict=True):
            row[places[self._order(of_row, places)[:count]]] = True
            self.told.append(tuple(row.nonzero()[:, 0].tolist()))
        return note.gone

    def _order(self, weights: Tensor, places: Tensor) -> Tensor:
        """The image's tokens, by their number in it, those first that go first. weights: (heads, T, T)."""
        if self.by == "random":
            return torch.randperm(len(places), generator=torch.Generator().manual_seed(self.seed)).to(places.device)
        if not len(places):
            return places
        behind = weights[:, int(places[-1]) + 1 :, places]
        if not behind.shape[1]:
            raise BadInput("no token behind the image attends to it, so attention does not say which of its tokens go")
        return behind.mean((0, 1)).argsort(stable=True)

    def _masked(self, block: int, mask: Tensor | None, note: _Note) -> Tensor:
        """The block's mask (batch, 1 or heads, new, T), and the keys of what is gone unseen by all others."""
        if mask is None or note.gone is None:
            what = f"without {MASK}" if mask is None else f"before block {self.after}"
            raise BadModel(f"{self.model.name}: block {block} of {self.model.family} is called {what}: nothing can go")
        new, seen = mask.shape[-2:]
        gone = torch.zeros(len(note.gone), seen, dtype=torch.bool, device=mask.device)
        gone[:, : note.gone.shape[1]] = note.gone
        itself = torch.eye(seen, dtype=torch.bool, device=mask.device)[seen - new :]  # or its softmax would run over nothing
        cut = gone[:, None, None] & ~itself
        return mask & ~cut if mask.dtype == torch.bool else mask.masked_fill(cut, torch.finfo(mask.dtype).min)

    def merge(self, states: Tensor) -> Tensor:
        """States behind block `after`, (batch, T, d), with those that went in the kept ones that are most like them."""
        note = self._passing
        assert note is not None
        if note.gone is None or states.shape[1] != len(note.image):
            return states
        merged = states.clone()
        for own, gone, new in zip(states, note.gone, merged, strict=True):
            kept = (note.image & ~gone).nonzero()[:, 0]
            if not len(kept) or not gone.any():
                continue
            length = own / own.norm(dim=1, keepdim=True)
            nearest = kept[(length[gone] @ length[kept].T).argmax(1)]
            joined = torch.zeros_like(own).index_add(0, nearest, own[gone])
            count = torch.zeros(len(own), dtype=own.dtype, device=own.device).index_add(
                0, nearest, torch.ones_like(own[gone][:, 0])
            )
            new[kept] = ((own + joined) / (1 + count)[:, None])[kept]
        return merged
