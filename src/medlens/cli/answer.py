"""`medlens answer MODEL DATA --out answers.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say


def command(
    model: options.ModelName = "phantom",
    data: options.DataName = "phantom",
    out: Annotated[
        Path, typer.Option(help="The file to write: one JSON line an answer, as LLaVA-Med's authors write them.")
    ] = Path("answers.jsonl"),
    question: options.Question = None,
    window: options.Window = None,
    limit: options.Limit = None,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: Annotated[float, typer.Option(help="0: greedy; above: drawn at random.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="When drawn: from the likeliest tokens with this share.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A word at which an answer ends; may be given several times.")] = None,
    seed: options.Seed = 0,
    vision_tower: options.VisionTower = "auto",
    adapter: options.Adapter = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    skip_bad: options.SkipBad = False,
    deidentify: options.Deidentify = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Answer a data set and score the answers: closed questions exactly, open ones by token recall and F1."""
    from medlens.cli.progress import Bars, table, window_of
    from medlens.plan import Plan

    plan = Plan(
        limit=limit, seed=seed, question=question, window=window_of(window),
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p,
        stop=tuple(stop or ()), device=device, dtype=dtype, vision_tower=vision_tower, adapter=adapter,
        skip_bad=skip_bad, deidentify=deidentify,
    )  # fmt: skip
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens

        bars.tick()
        found = medlens.answer_all(model, data, plan, out, watcher=bars)
    if as_json:
        say({"answers": found.path, "n": len(found.records), "scores": found.scores.to_dicts()})
        return
    if found.scores.height:
        table(found.scores, f"{len(found.records)} answers; 95 % intervals are clustered by image")
    print(f"answers: {found.path}")
