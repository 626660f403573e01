"""`medlens lens train MODEL DATA --out FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say


def command(
    model: options.ModelName = "phantom",
    data: options.DataName = "phantom",
    out: Annotated[Path, typer.Option(help="The file to write (safetensors).")] = Path("lens.safetensors"),
    steps: Annotated[int, typer.Option(help="Of 256 tokens, for each state.")] = 400,
    question: options.Question = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    answers: Annotated[str, typer.Option(help="`generate` them, or take those `given` by the data.")] = "generate",
    vision_tower: options.VisionTower = "auto",
    adapter: options.Adapter = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    memory: options.Memory = None,
    scratch: options.Scratch = None,
    skip_bad: options.SkipBad = False,
    deidentify: options.Deidentify = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Train a tuned lens: what the model would say if it ended at a state, with what it has not said yet filled in."""
    from medlens.cli.progress import Bars, table
    from medlens.plan import Plan

    plan = Plan(
        limit=limit, seed=seed, question=question, answers=answers, vision_tower=vision_tower, adapter=adapter,  # pyright: ignore
        device=device, dtype=dtype, memory=memory, scratch=scratch, skip_bad=skip_bad, deidentify=deidentify,
    )  # fmt: skip
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens
        from medlens._tune import worth

        bars.tick()
        lens = medlens.train_lens(model, data, out, plan, steps=steps, watcher=bars)
    found = worth(lens)
    if as_json:
        say({"lens": out, **lens.told})
        return
    table(found, "on images held out: KL to what the model says in the end, nats; the gain with a 95 % interval over images")
    for row in found.filter(found["gain"] <= 0).to_dicts():
        print(f"medlens: no better than the logit lens at state {row['layer']}, {row['tokens']} tokens", file=sys.stderr)
    print(f"lens: {out}")
