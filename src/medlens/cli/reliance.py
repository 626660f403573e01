"""`medlens reliance [MODEL] [DATA] --out RUN`."""

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
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/reliance"),
    by: Annotated[list[str] | None, typer.Option(help="A field or tag, each of whose values is summed up (repeatable).")] = None,
    answers: Annotated[str, typer.Option(help="generate, or given: the data's own answers.")] = "generate",
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples (phantom: 600).")] = None,
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
    """Does the answer rest on the image? Every question is asked again with other images."""
    from medlens.cli.progress import Bars, table, window_of
    from medlens.plan import Plan

    plan = Plan(
        limit=limit, seed=seed, question=question, window=window_of(window), device=device, dtype=dtype, skip_bad=skip_bad,
        vision_tower=vision_tower, adapter=adapter, memory=memory, deidentify=deidentify, by=tuple(by or ()), answers=answers,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens
        from medlens.report.lights import reservations, summary, verdict

        bars.tick()
        run = medlens.reliance(model, data, out, plan, watcher=bars)
    said, but, found = verdict(run), reservations(run), summary(run)
    for line in run.manifest["data"]["skipped"]:
        print(f"medlens: left out: {line}", file=sys.stderr)
    if as_json:
        say({"run": run.path, "report": run.report, "verdict": said, "reservations": but, "lights": found.to_dicts()})
        return
    table(found, "does the answer rest on the image?", width=150)
    print(f"What {run.manifest['model']['name']} says {', '.join(filter(None, (said, but)))}.\nreport: {run.report}")
