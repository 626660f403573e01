"""`medlens phantom evaluate [NAME]` and `medlens phantom show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say

app = typer.Typer(help="The phantom: what its models know and look at, and what its slices show.", no_args_is_help=True)


@app.command("evaluate")
def evaluate(
    model: Annotated[
        str, typer.Argument(help="`phantom`, `phantom:shortcut`, `phantom:textonly`, `phantom:random`, or any model.")
    ] = "phantom",
    n: Annotated[int, typer.Option("--n", min=1, help="Questions to ask, each of three images.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the slices; no seed draws one that the models were trained on.")] = 0,
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Ask a model the phantom's questions: of each image, of another in its place, and of a blank one."""
    from medlens.cli.progress import Bars, table

    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens
        from medlens.phantom import evaluate

        bars.tick()
        bars.begin("loading the model", 1)
        loaded = medlens.load(model, device=device)
        bars.tick()
        bars.begin("asking", 3 * n)
        found = evaluate(loaded, n, seed, tick=bars.tick)
    if as_json:
        tables = {"questions": found.questions(), "groups": found.groups(), "marks": found.marks()}
        named = {"model": found.model, "n": n, "seed": seed}
        say(named | {name: table.to_dicts() for name, table in tables.items()})
        return
    images = found.answers["image"].n_unique()
    table(found.questions(), f"{found.model}: {n} questions on {images} fresh slices (seed {seed})")
    print(EXPLAINED)
    table(found.groups(), "accuracy by modality, and by the size of the lesion (small below 9 px, large from 12 px)")
    table(found.marks(), "is there a lesion? where the slice is marked as well, or only one of the two is there")


EXPLAINED = """
accuracy: its 95 % interval is low..high (Wilson)    guess: always the commonest answer      blank: accuracy on a blank image
swapped: accuracy when the image is another slice's  predicted: what reading that one gives  follows: answers true of that one
unchanged: answers that the swap did not change"""


@app.command("show")
def show(
    out: Annotated[Path, typer.Option(help="The picture to write: .png.")] = Path("phantom.png"),
    seed: Annotated[int, typer.Option(min=0, help="Of the slices.")] = 0,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Draw a contact sheet: every modality and kind of slice, beside its masks."""
    from medlens.phantom.contact import save_sheet

    sheet = save_sheet(out, seed)
    if as_json:
        say({"sheet": sheet})
        return
    print(f"contact sheet: {sheet}")
