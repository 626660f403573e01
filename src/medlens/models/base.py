"""What a vision-language model is to us: a decoder of blocks, its final norm, its head, and a processor that makes its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medlens import hooks
from medlens.errors import BadModel
from medlens.models.families import CAPPED
from medlens.models.weights import Weights

Part = int | Literal["around", "norm", "head"]  # a block by its number; what leads to the blocks; what follows them


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A transformers vision-language model with its processor, and where its parts are.

    name: how the user called it. module: the `...ForConditionalGeneration`. processor: its tokenizer, image processor and chat
    template. `checks`: what the self-test at load found. origin: what else is known of where it came from (hub revision, layout,
    vision tower). weights: where they lie, when they are not all in memory: the model is then *streamed*, and what needs a part's
    weights says so with `here` or `whole`, which cost nothing otherwise.
    """

    name: str
    module: Any
    processor: Any
    checks: dict[str, float] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None

    def __repr__(self) -> str:
        streamed = ", streamed" if self.weights else ""
        return f"Model({self.name}: {self.family}, {self.depth} blocks, {self.width} wide{streamed})"

    @contextmanager
    def here(self, *parts: Part) -> Iterator[None]:
        """With the weights of these parts in memory for as long as the context lasts."""
        if self.weights is None:
            yield
            return
        brought = self.weights.bring(name for part in parts for name in self.names_of[part])
        try:
            yield
        finally:
            self.weights.take_away(brought)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """For transformers' own forward and generation: what is around the blocks in memory, and each block while it works."""
        if self.weights is None:
            yield
            return
        bring, take_away = self.weights.bring, self.weights.take_away
        with (
            self.here("around", "norm", "head"),
            hooks.while_each_works(self.blocks, lambda b: bring(self.names_of[b]), lambda b: take_away(self.names_of[b])),
        ):
            yield

    def expect(self, part: Part) -> None:
        """This part's weights will be needed next."""
        if self.weights is not None:
            self.weights.expect(self.names_of[part])

    @cached_property
    def names_of(self) -> dict[Part, list[str]]:
        """The parameters of each part, by their names in the module."""
        at = {module: name for name, module in self.module.named_modules()}
        prefixes: dict[Part, str] = {b: f"{at[block]}." for b, block in enumerate(self.blocks)}
        prefixes |= {"norm": f"{at[self.norm]}.", "head": f"{at[self.head]}."}
        found: dict[Part, list[str]] = {part: [] for part in (*prefixes, "around")}
        for name, _ in self.module.named_parameters(remove_duplicate=False):
            within: list[Part] = [part for part, prefix in prefixes.items() if name.startswith(prefix)]
            found[within[0] if within else "around"].append(name)
        return found

    @property
    def family(self) -> str:
        """As transformers names it: llava, gemma3, ..."""
        return self.module.config.model_type

    @cached_property
    def decoder(self) -> nn.Module:
        """The module whose `.layers` are the blocks."""
        inner = self.module.get_decoder()
        while not hasattr(inner, "layers"):
            step = getattr(inner, "model", None) or getattr(inner, "decoder", None)
            if step is None:
                raise BadModel(f"{type(self.module).__name__}: no decoder with `.layers` found, so there are no blocks to walk")
            inner = step
        return inner

    @property
    def blocks(self) -> list[nn.Module]:
        """Blocks 0 .. L-1."""
        return list(self.decoder.layers)  # pyright: ignore[reportArgumentType]

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def norm(self) -> nn.Module:
        """The final norm, between state L and the head."""
        norm = getattr(self.decoder, "norm", None)
        if norm is None:
            raise BadModel(f"{type(self.decoder).__name__} has no final `.norm`: this family is not supported yet")
        return norm  # pyright: ignore[reportReturnType]

    @property
    def head(self) -> nn.Module:
        """Unembedding: normed state (T, d) to logits (T, V)."""
        return self.module.get_output_embeddings()

    @property
    def text_config(self) -> Any:
        return self.module.config.get_text_config()

    @property
    def width(self) -> int:
        """d, the width of a hidden state."""
        return self.text_config.hidden_size

    @property
    def image_token_id(self) -> int:
        """The id that stands for an image's features in the prompt. Raises BadModel for a family without one."""
        found = getattr(self.module.config, "image_token_id", None)
        if found is None:
            raise BadModel(f"{self.name}: {self.family} has no image token in its prompts; this family cannot be read yet")
        return found

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @cached_property
    def control_tokens(self) -> frozenset[str]:
        """What must not stand among the user's words, because the tokenizer would read it as the template's."""
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        return frozenset(t for t in (*added, *self.tokenizer.all_special_tokens, self.processor.image_token) if t.strip())

    @property
    def device(self) -> torch.device:
        return self.weights.device if self.weights else self.head.weight.device  # pyright: ignore[reportReturnType]

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.dtype if self.weights else self.head.weight.dtype  # pyright: ignore[reportReturnType]

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return sum(p.numel() for p in self.module.parameters())

    def unembed(self, normed: Tensor) -> Tensor:
        """Logits (..., V) of states after the final norm, by the model's own head (and cap, where it has one)."""
        logits = self.head(normed)
        cap = getattr(self.text_config, "final_logit_softcapping", None) if self.family in CAPPED else None
        return logits if cap is None else cap * torch.tanh(logits / cap)
