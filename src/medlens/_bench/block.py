"""One block of the 7B model at its full size: how much of what this machine can multiply is reached, alone and with the sums."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from medlens._bench.checkpoint import STD, Decoder
from medlens._bench.turns import Job, Table, Turns
from medlens.instruments.geometry import Geometry
from medlens.plan import Plan

SHAPE, TOKENS, SEQUENCES = Decoder(), 600, 8
SIDE = 4096  # of the matrix product that all is compared with
SHOWN = {"product": f"float32 product of {SIDE} x {SIDE} matrices", "block": "a block", "sums": "a block and its sums"}


def section(turns: Turns) -> str:
    (result,) = turns(Job("block", "measured", (TOKENS, 3 if turns.quick else SEQUENCES)))
    table = Table(turns, "of the product", "what", "GFLOP/s")
    for key, what in SHOWN.items():
        share = "–" if result.why else f"**{100 * result.more[key] / result.more['product']:.0f} %**"
        table.add(share, what, result.why or f"{result.more[key]:.0f}")
    return f"## One block at full size\n\n{ABOUT}\n\n{table}"


ABOUT = f"""A decoder block of Mistral-7B ({SHAPE.width} wide, MLP {SHAPE.mlp}, {SHAPE.heads} heads, {SHAPE.kv_heads} of keys and
values, random weights, float32), {TOKENS} tokens at a time. Counted: 2 x parameters x tokens, and the attention that a causal mask
leaves. With its sums: the same count, while every state of the sequence also enters the float64 sums of one group of tokens, as in
a walk. All take turns in one process; each is the best of several, what the machine does when nothing else wants it."""


def measured(tokens: int, sequences: int) -> Callable[[], dict[str, float]]:
    block, call = _block(tokens)
    work = 2 * tokens * sum(p.numel() for p in block.parameters()) + 2 * tokens**2 * SHAPE.width
    (a, b), visit = torch.randn(2, SIDE, SIDE), _sums(tokens)

    def run() -> dict[str, float]:
        products, blocks, both = [], [], []
        with torch.no_grad():
            for k in range(sequences):
                state = torch.randn(1, tokens, SHAPE.width)
                products.append(_seconds(lambda: a @ b))
                blocks.append(_seconds(lambda state=state: block(state, **call)))
                both.append(_seconds(lambda state=state, k=k: visit(k, state[0], _first(block(state, **call))[0])))
        done = {"product": (2 * SIDE**3, products), "block": (work, blocks), "sums": (work, both)}
        return {key: count / min(seconds) / 1e9 for key, (count, seconds) in done.items()}

    return run


def _block(tokens: int) -> tuple[torch.nn.Module, dict[str, object]]:
    """The block, and what its model would call it with."""
    from transformers.models.mistral.configuration_mistral import MistralConfig
    from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralRotaryEmbedding

    config = MistralConfig(
        hidden_size=SHAPE.width, intermediate_size=SHAPE.mlp, num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads, sliding_window=None,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    block = MistralDecoderLayer(config, 0).eval()
    for parameter in block.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=STD)
    positions = torch.arange(tokens).unsqueeze(0)
    turned = MistralRotaryEmbedding(config)(torch.zeros(1, tokens, SHAPE.width), positions)
    return block, {"position_embeddings": turned, "position_ids": positions, "attention_mask": None}


class _Case:
    """A sequence of image tokens on its walk, as far as geometry wants to know."""

    def __init__(self, image: str, tokens: int) -> None:
        self.image, self._places = image, list(range(tokens))

    def where(self, group: str) -> list[int]:
        return self._places if group == "image" else []

    @property
    def readings(self) -> list[list[int]]:
        return [self._places]

    def described(self, reading: int, place: int) -> tuple[str, int, str, str]:
        return self.image, place, "", "image"

    def identity(self, place: int) -> tuple[str, int]:
        return self.image, place


def _sums(tokens: int) -> Callable[[int, Tensor, Tensor], None]:
    """Geometry in the middle of a long walk: it has passed a block, so that what enters the next one is what left the last, and has
    seen more rows than a state is wide, so that they are summed and not kept."""
    plan, first = Plan(), _Case("first", SHAPE.width + 1)
    geometry = Geometry(plan)
    for b in range(2):
        states = torch.randn(2, SHAPE.width + 1, SHAPE.width)
        geometry.visit(b, first, *states)
        if b == 0:
            geometry.hand_over()
    known: dict[int, _Case] = {}
    return lambda k, before, after: geometry.visit(1, known.setdefault(k, _Case(str(k), tokens)), before, after)


def _first(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
