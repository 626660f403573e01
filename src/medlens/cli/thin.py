"""`medlens thin [MODEL] [DATA] --out RUN`."""

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
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/thin"),
    what: Annotated[list[str] | None, typer.Option(help="dropped, merged, units; again for more. Default: all.")] = None,
    share: Annotated[list[float] | None, typer.Option(help="That goes, 0 to 1; again for more. Default: 0.25 to 0.95.")] = None,
    after: Annotated[int, typer.Option(help="The block behind which image tokens go.")] = 2,
    draws: Annotated[int, typer.Option(help="Of random order.")] = 5,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples (phantom: 200).")] = None,
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
    """What can it do without? Image tokens and units taken out, by a rule and at random; answers that stay."""
    from medlens.cli.progress import Bars, table, window_of
    from medlens.plan import Plan

    plan = Plan(
        limit=limit, seed=seed, question=question, window=window_of(window), device=device, dtype=dtype, skip_bad=skip_bad,
        vision_tower=vision_tower, adapter=adapter, memory=memory, deidentify=deidentify,
    )  # fmt: skip
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens
        from medlens.report.thin import sentences

        bars.tick()
        chosen = {name: tuple(given) for name, given in (("what", what), ("shares", share)) if given}
        run = medlens.thin(model, data, out, plan, after=after, draws=draws, watcher=bars, **chosen)  # pyright: ignore
    for line in run.manifest["data"]["skipped"]:
        print(f"medlens: left out: {line}", file=sys.stderr)
    if as_json:
        say({"run": run.path, "report": run.report, "thinned": run.thinned.to_dicts()})
        return
    table(run.thinned.select("what", "by", "share", "kept", "low", "high", "correct"), "answers kept", width=100)
    for line in sentences(run.thinned):
        print(line)
    print(f"report: {run.report}")
