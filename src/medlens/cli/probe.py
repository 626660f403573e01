"""`medlens probe [MODEL] [DATA] --by TAG --out RUN`."""

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
    by: Annotated[list[str] | None, typer.Option(help="A field or tag to be read off the states. Repeatable.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/probe"),
    controls: Annotated[int, typer.Option(help="How often labels are shuffled for the control.")] = 50,
    folds: Annotated[int, typer.Option(help="Of whole images; at least 3.")] = 5,
    limit: options.Limit = None,
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
    """Where does the model know it? Linear probes with control tasks, through vision tower, projector and decoder."""
    from medlens.cli.progress import Bars, table, window_of
    from medlens.plan import Plan

    plan = Plan(
        limit=limit, seed=seed, folds=folds, question=question, window=window_of(window), device=device, dtype=dtype,
        skip_bad=skip_bad, deidentify=deidentify, vision_tower=vision_tower, adapter=adapter, memory=memory,
    )  # fmt: skip
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens
        from medlens.report.probes import best

        bars.tick()
        run = medlens.probe(model, data, tuple(by or ("modality",)), out, plan, controls=controls, watcher=bars)
    found = best(run.rows)
    for line in filter(None, [run.manifest["probe"]["note"], *run.manifest["data"]["skipped"]]):
        print(f"medlens: {line}", file=sys.stderr)
    if as_json:
        say({"run": run.path, "report": run.report, "best": found.to_dicts()})
        return
    table(found.drop("note", "n", "balanced"), "the best state of each tag (the best of several is too good by chance)", width=130)
    print(f"report: {run.report}")
