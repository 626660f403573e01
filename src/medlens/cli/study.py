"""`medlens study [MODEL] [DATA] --out RUN`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medlens.cli import options

if TYPE_CHECKING:
    from medlens import Forecast, Run


def command(
    model: options.ModelName = "phantom",
    data: options.DataName = "phantom",
    out: Annotated[Path, typer.Option(help="Folder of the run; must be free.")] = Path("runs/study"),
    question: options.Question = None,
    window: options.Window = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    answers: Annotated[str, typer.Option(help="`generate` them, or take those `given` by the data.")] = "generate",
    max_new_tokens: options.MaxNewTokens = 16,
    protocol: Annotated[
        str, typer.Option(help="`sound`, or `published`: the choices and the arithmetic of the published study, without answers.")
    ] = "sound",
    unit_images: Annotated[int, typer.Option(help="Protocol published: of so many images count the words of units; 0: none.")] = 4,
    vision_tower: options.VisionTower = "auto",
    adapter: options.Adapter = None,
    null: Annotated[
        list[str] | None, typer.Option(help="Another null beside shuffled pairs: `weights` or `noise`; a walk each. Repeatable.")
    ] = None,
    instrument: Annotated[
        list[str] | None, typer.Option(help="Only this one: geometry, contextualization, lens, tokens or maps. Repeatable.")
    ] = None,
    lens_images: Annotated[int, typer.Option(help="Of so many images the lens keeps the words of every token.")] = 8,
    map_images: Annotated[
        int | None, typer.Option(help="Of so many images make maps with report cards. Default: 2; of a wide model none.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="A field or tag; each of its values gets rows of its own. Repeatable.")
    ] = None,
    measure: Annotated[list[str] | None, typer.Option(help="One of your own, as module:function. Repeatable.")] = None,
    thorough: Annotated[
        bool | None, typer.Option("--thorough/--no-thorough", help="All intervals, also where they cost more than the walk.")
    ] = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    skip_bad: options.SkipBad = False,
    memory: options.Memory = None,
    scratch: options.Scratch = None,
    workers: Annotated[int, typer.Option(help="So many processes share the walk, each with a model of its own.")] = 1,
    cluster: Annotated[str | None, typer.Option(help="`auto`, or the address of a Ray cluster whose machines share it.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="Only one share, such as 3/16, or `env` in a job array; then `medlens merge`.")
    ] = None,
    claim: options.Claims = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say the price, write nothing.")] = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Study a model on data: answers, geometry of its hidden states, and a report. Both default to the phantom."""
    from medlens.cli.progress import Bars, window_of
    from medlens.plan import INSTRUMENTS, Plan

    plan = Plan(
        limit=limit, seed=seed, question=question, window=window_of(window),
        answers=answers, max_new_tokens=max_new_tokens, protocol=protocol, device=device, dtype=dtype,  # pyright: ignore
        skip_bad=skip_bad, unit_images=unit_images, vision_tower=vision_tower, adapter=adapter,
        nulls=tuple(dict.fromkeys(("pairs", *(null or ())))), by=tuple(by or ()), measures=tuple(measure or ()),
        thorough=thorough, memory=memory, scratch=scratch, workers=workers, cluster=cluster,
        claims=tuple(claim or ()), instruments=tuple(instrument or INSTRUMENTS), lens_images=lens_images, map_images=map_images,
    )  # fmt: skip
    if measure:
        sys.path.insert(0, str(Path.cwd()))  # where measures of the user's own lie
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens

        study = medlens.study
        bars.tick()
        if dry_run:
            _say_forecast(medlens.forecast(model, data, plan, out, watcher=bars), as_json)
            return
        if shard is not None:
            folder = medlens.study_shard(model, data, plan, out, shard, watcher=bars)
            print(f"share: {folder}; when all are done: medlens merge {out}")
            return
        run = study(model, data, plan, out, watcher=bars)
    say_run(run, bars.worked, as_json)


def _say_forecast(forecast: Forecast, as_json: bool) -> None:
    from medlens.cli.progress import price

    print(json.dumps(forecast.as_dict()) if as_json else price(forecast))


def say_run(run: Run, worked: bool, as_json: bool) -> None:
    """Where the run is, and what was left out."""
    if not worked:
        print(f"medlens: {run.path} holds this very study already; nothing to do", file=sys.stderr)
    for line in run.manifest["data"]["skipped"]:
        print(f"medlens: left out: {line}", file=sys.stderr)
    if as_json:
        summary = {"run": str(run.path), "report": str(run.report), "samples": run.samples.height, "rows": run.rows.height}
        print(json.dumps(summary | {"seconds": run.manifest["seconds"], "skipped": run.manifest["data"]["skipped"]}))
    else:
        print(f"report: {run.report}")
