"""`medlens answer MODEL DATA --out answers.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="`phantom`, a folder, or a hub id owner/name.")] = "phantom",
    data: Annotated[str, typer.Argument(help="`phantom`, a data set's folder, or a file of questions.")] = "phantom",
    out: Annotated[
        Path, typer.Option(help="The file to write: one JSON line an answer, as LLaVA-Med's authors write them.")
    ] = Path("answers.jsonl"),
    question: Annotated[str | None, typer.Option(help="Asked of images that come without one.")] = None,
    window: Annotated[
        str | None,
        typer.Option(help="CENTRE,WIDTH to show DICOM images through, instead of their own window (lung CT: -600,1500)."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples (phantom: 200).")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Cap of an answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0: greedy; above: drawn at random.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="When drawn: from the likeliest tokens with this share.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A word at which an answer ends; may be given several times.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn at random.")] = 0,
    vision_tower: Annotated[
        str, typer.Option(help="LLaVA-Med's original layout: `external`, `checkpoint`, or a folder.")
    ] = "external",
    adapter: Annotated[str | None, typer.Option(help="Folder of a LoRA adapter, merged into the model.")] = None,
    device: Annotated[str, typer.Option(help="As torch names it: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out samples that cannot be read, and list them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Answer a data set and score the answers: closed questions exactly, open ones by token recall and F1."""
    from medlens.cli.progress import Bars, table, window_of
    from medlens.plan import Plan

    plan = Plan(
        limit=limit, seed=seed, question=question, window=window_of(window),
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p,
        stop=tuple(stop or ()), device=device, dtype=dtype, vision_tower=vision_tower, adapter=adapter,
        skip_bad=skip_bad,
    )  # fmt: skip
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens

        bars.tick()
        found = medlens.answer_all(model, data, plan, out, watcher=bars)
    if as_json:
        print(json.dumps({"answers": str(found.path), "n": len(found.records), "scores": found.scores.to_dicts()}))
        return
    if found.scores.height:
        table(found.scores, f"{len(found.records)} answers; 95 % intervals are clustered by image")
    print(f"answers: {found.path}")
