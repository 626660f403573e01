"""`medlens prune [MODEL] [DATA] --out RUN`."""

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
    out: Annotated[Path, typer.Option(help="Folder of the run, and of the checkpoint in it.")] = Path("runs/prune"),
    budget: Annotated[
        float | None, typer.Option(help="Share of the blocks that may go. Default: 0.25 (phantom slices: 0.5).")
    ] = None,
    draws: Annotated[int, typer.Option(help="Random choices of blocks at each size, for comparison.")] = 20,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples (phantom: 600).")] = None,
    seed: options.Seed = 0,
    max_new_tokens: options.MaxNewTokens = 16,
    question: options.Question = None,
    window: options.Window = None,
    vision_tower: options.VisionTower = "auto",
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    skip_bad: options.SkipBad = False,
    deidentify: options.Deidentify = False,
    memory: options.Memory = None,
    scratch: options.Scratch = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Which blocks can go? Taken out, or made linear, and judged by the answers that are kept."""
    from medlens.cli.progress import Bars, table, window_of
    from medlens.plan import Plan

    plan = Plan(
        limit=limit, seed=seed, max_new_tokens=max_new_tokens, question=question, window=window_of(window), device=device,
        dtype=dtype, skip_bad=skip_bad, vision_tower=vision_tower, memory=memory,
        scratch=scratch, deidentify=deidentify,
    )  # fmt: skip
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens
        from medlens.report.pruned import best, said

        bars.tick()
        run = medlens.prune(model, data, out, plan, budget=budget, draws=draws, watcher=bars)
    found, checkpoint = best(run), run.manifest["prune"]["checkpoint"]
    for line in run.manifest["data"]["skipped"]:
        print(f"medlens: left out: {line}", file=sys.stderr)
    for note in sorted(set(found["note"]) - {""}):
        print(f"medlens: limited: {note}", file=sys.stderr)
    if checkpoint["why"]:
        print(f"medlens: no checkpoint was written: {checkpoint['why']}", file=sys.stderr)
    if as_json:
        say({"run": run.path, "report": run.report, "said": said(run), "chosen": found.to_dicts()})
        return
    told = ["how", "rule", "blocks", "kept", "low", "high", "best_random", "accuracy", "kl", "follows", "parameters", "seconds"]
    table(found.select(told), "what is kept without some blocks", width=150)
    print(f"{said(run)}\nreport: {run.report}")
    if not checkpoint["why"]:
        tied = " (head and input table are one weight, written once)" if checkpoint["tied"] else ""
        print(f"checkpoint: {run.path / 'checkpoint'}{tied}")
