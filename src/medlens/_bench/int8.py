"""One block of the 7B model in eight bits: what it needs while it stays in memory, and what it takes to work."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from medlens._bench import block
from medlens._bench.turns import Job, Table, Turns
from medlens.models.int8 import quantise_block

TOKENS, TIMES = 256, 3
DTYPES = ("float32", "bfloat16", "int8")


def section(turns: Turns) -> str:
    table = Table(turns, "of float32's bytes", "weights", "MiB", "seconds a forward", "MiB more, at work")
    results = dict(zip(DTYPES, turns(*(Job("int8", "measured", (dtype, TOKENS)) for dtype in DTYPES)), strict=True))
    whole = results["float32"].more.get("resident")
    for dtype, result in results.items():
        if result.why or whole is None:
            table.add("–", dtype, "–", result.why or "–", "–")
        else:
            mib = result.more["resident"] / 2**20
            share = f"**{100 * result.more['resident'] / whole:.0f} %**"
            table.add(share, dtype, f"{mib:.0f}", f"{result.more['forward']:.2f}", f"{result.mib:.0f}")
    return f"## A block in eight bits\n\n{ABOUT}\n\n{table}"


ABOUT = f"""A decoder block of Mistral-7B (random weights), {TOKENS} tokens at a time, as `load(dtype=...)` keeps it. int8 weights
are dequantised for each product, so a block in eight bits is no faster than float32: it is smaller. Seconds: the best of {TIMES};
memory at work is on top of the weights."""


def measured(dtype: str, tokens: int) -> Callable[[], dict[str, float]]:
    """dtype: of the block's weights; int8 computes in float32."""
    made, call = block.made(tokens)
    kind = torch.float32 if dtype == "int8" else getattr(torch, dtype)
    made.to(kind)
    if dtype == "int8":
        quantise_block(made)
    resident = sum(t.nbytes for t in (*made.parameters(), *made.buffers()))
    state = torch.randn(1, tokens, block.SHAPE.width, dtype=kind)
    turned = tuple(part.to(kind) for part in call["position_embeddings"])  # pyright: ignore[reportGeneralTypeIssues]

    def run() -> dict[str, float]:
        seconds = []
        with torch.no_grad():
            for _ in range(TIMES):
                began = time.perf_counter()
                made(state, **{**call, "position_embeddings": turned})
                seconds.append(time.perf_counter() - began)
        return {"resident": resident, "forward": min(seconds)}

    return run
