"""`medlens neurons [MODEL] [DATA] --concept WORD | --by TAG --out RUN`."""

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
    concept: Annotated[str | None, typer.Option(help="A word; true where it is the answer, or what --by says.")] = None,
    by: Annotated[str | None, typer.Option(help="A field or tag, such as modality or finding, whose values are words.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/neurons"),
    cards: Annotated[int, typer.Option(help="Of each word so many units are looked at one by one.")] = 5,
    draws: Annotated[int, typer.Option(help="Of layer-matched random units, which the top 1 % are compared with.")] = 100,
    heads: Annotated[bool | None, typer.Option(help="Attention heads too, one by one (default: up to 256 of them).")] = None,
    gate: Annotated[str, typer.Option(help="Name of the MLP's gate projection in a block.")] = "mlp.gate_proj",
    down: Annotated[str, typer.Option(help="Name of the MLP's down projection in a block.")] = "mlp.down_proj",
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples (phantom: 2400).")] = None,
    seed: options.Seed = 0,
    question: options.Question = None,
    window: options.Window = None,
    vision_tower: options.VisionTower = "auto",
    adapter: options.Adapter = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    skip_bad: options.SkipBad = False,
    deidentify: options.Deidentify = False,
    memory: options.Memory = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Which neurons make it say so? Units found by attribution, proved by ablation, read on cards."""
    from medlens.cli.progress import Bars, table, window_of
    from medlens.plan import Plan

    plan = Plan(
        limit=limit, seed=seed, question=question, window=window_of(window), device=device, dtype=dtype, skip_bad=skip_bad,
        vision_tower=vision_tower, adapter=adapter, memory=memory, deidentify=deidentify,
    )  # fmt: skip
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens
        from medlens.report.neurons import best

        bars.tick()
        run = medlens.neurons(
            model, data, concept, by, out, plan, cards=cards, draws=draws, names=(gate, down), heads=heads, watcher=bars
        )  # fmt: skip
    found = best(run)
    for line in [*run.manifest["neurons"]["left"], *run.manifest["data"]["skipped"]]:
        print(f"medlens: left out: {line}", file=sys.stderr)
    if as_json:
        say({"run": run.path, "report": run.report, "cards": found.to_dicts()})
        return
    table(found, "units and verdicts", width=130)
    print(f"report: {run.report}")
