"""`medlens explain MODEL --sample N | --image FILE --question Q --out DIR`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medlens.cli import options
from medlens.cli.lens import sample_of
from medlens.cli.result import say
from medlens.errors import BadInput

if TYPE_CHECKING:
    from medlens.saliency import Choices


def command(
    model: options.ModelName = "phantom",
    dataset: Annotated[
        str | None, typer.Argument(help="With --benchmark: data with answers and regions (default: phantom).")
    ] = None,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Which method's maps lie on what is there, over a data set?")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="With --benchmark: only the first so many samples (phantom: 400).")] = None,
    sample: Annotated[int | None, typer.Option(min=0, help="This sample of --data, counted from 0.")] = None,
    image: Annotated[Path | None, typer.Option(help="Or an image of your own,")] = None,
    question: Annotated[str | None, typer.Option(help="and what is asked of it.")] = None,
    data: Annotated[
        str, typer.Option(help="`phantom`, a folder of images or a published data set, or a file of questions.")
    ] = "phantom",
    out: Annotated[Path, typer.Option(help="Folder of the page and its maps; new, or one of earlier maps.")] = Path("maps"),
    target: Annotated[str | None, typer.Option(help="The word to explain. Default: the first of the model's own answer.")] = None,
    contrast: Annotated[str | None, typer.Option(help="Or two words, the first against the second: yes,no.")] = None,
    begun: Annotated[str | None, typer.Option(help="First words of the answer, from which the model goes on.")] = None,
    layer: Annotated[int | None, typer.Option(help="Block of the methods that are read at one. Default: the middle.")] = None,
    methods: Annotated[str | None, typer.Option(help="With commas between them.")] = None,
    published: Annotated[
        str | None, typer.Option(help="What the published study did otherwise, to see what it moves: closed,maximum or all.")
    ] = None,
    tokens: Annotated[bool, typer.Option(help="Also a map of each token of question and answer.")] = True,
    card: Annotated[bool, typer.Option(help="Also a report card for each map: some 300 walks of the sample.")] = True,
    seed: options.Seed = 0,
    vision_tower: options.VisionTower = "auto",
    adapter: options.Adapter = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    memory: options.Memory = None,
    deidentify: options.Deidentify = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """What on the image speaks for the answer? Maps of several methods on the image's own pixels."""
    if benchmark:
        how = {"device": device, "dtype": dtype, "vision_tower": vision_tower, "adapter": adapter, "memory": memory}
        how["deidentify"] = deidentify
        _benchmark(model, dataset or data, methods, out, {"limit": limit, "seed": seed, **how}, as_json)
        return
    if dataset is not None or limit is not None:
        raise BadInput("a data set and --limit go with --benchmark; one sample of a data set is --data DATA --sample N")
    from medlens.cli.progress import Bars

    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens
        from medlens._explain import methods_for, ticks
        from medlens._explain.page import FOREIGN

        asked = sample_of(sample, image, question, data, seed, deidentify)
        bars.tick()
        bars.begin("loading the model", 1)
        loaded = medlens.load(model, device=device, dtype=dtype, vision_tower=vision_tower, adapter=adapter, memory=memory)
        bars.tick()
        chosen = methods_for(loaded) if methods is None else _words(methods)
        bars.begin("explaining", ticks(len(chosen), card))
        found = medlens.explain(
            loaded, asked, target=target, contrast=None if contrast is None else _words(contrast), begun=begun, layer=layer,
            methods=chosen, tokens=tokens, card=card, seed=seed, tick=bars.tick,
            choices=None if published is None else _choices(published),
        )  # fmt: skip
        bars.begin("drawing", 1)
        page = found.write(out)
        bars.tick()
    if found.foreign:
        print(f"medlens: {FOREIGN}", file=sys.stderr)
    if found.gate and not found.gate.rests:
        print(f"medlens: {found.gate.words}", file=sys.stderr)
    for failed in found.failed:
        print(f"medlens: {failed.method} gave no map: {failed.reason}", file=sys.stderr)
    if as_json:
        verdicts = {card.method: card.verdict for card in found.cards}
        say({"page": page, "answer": found.answer, "methods": [m.method for m in found.maps], "cards": verdicts})
        return
    for of in found.cards:
        print(f"{of.method}: {of.verdict}{': ' if of.why else ''}{'; '.join(of.why)}{'; ' if of.said else ''}{of.said}")
    print(f"maps: {page}")


def _benchmark(model: str, data: str, methods: str | None, out: Path, plan: dict[str, Any], as_json: bool) -> None:
    from medlens.cli.progress import Bars, table
    from medlens.plan import Plan

    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens
        from medlens.report.benchmark import best

        bars.tick()
        run = medlens.benchmark_maps(
            model, data, None if methods is None else _words(methods), out, Plan(**plan), watcher=bars
        )  # fmt: skip
    if as_json:
        say({"run": run.path, "report": run.report, "leaderboard": best(run).to_dicts()})
        return
    table(best(run), "who finds what is there (pointing game, on test images)", width=120)
    print(f"report: {run.report}")


def _choices(said: str) -> Choices:
    from medlens.saliency import Choices

    known = vars(Choices.published())
    if said == "all":
        return Choices.published()
    if unknown := [word for word in _words(said) if word not in known]:
        raise BadInput(f"--published is all, or some of {', '.join(known)}; got {unknown[0]!r}")
    return Choices(**dict.fromkeys(_words(said), True))


def _words(said: str) -> list[str]:
    return [word.strip() for word in said.split(",")]
