"""`medlens lens MODEL --sample N | --image FILE --question Q --out DIR`; what else is done with lenses are subcommands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from medlens.cli import lens_neighbours, lens_train, options
from medlens.cli.result import say
from medlens.errors import BadInput

if TYPE_CHECKING:
    from medlens import Sample

READ = "read"


class _Group(TyperGroup):
    """A group whose first word may be a model: what is no subcommand is for `read`, which has no name of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        others = [f"medlens lens {name} --help" for name in self.commands if name != READ]
        self.commands[READ].epilog = f"See also: {', '.join(others)}" if others else None
        return super().parse_args(ctx, args if args and args[0] in self.commands else [READ, *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return "" if name == READ else name, found, rest


app = typer.Typer(cls=_Group, help="Read every token of a sample at every layer as words.")


@app.command(READ, hidden=True)
def command(
    model: options.ModelName = "phantom",
    sample: Annotated[int | None, typer.Option(min=0, help="This sample of --data, counted from 0.")] = None,
    image: Annotated[Path | None, typer.Option(help="Or an image of your own,")] = None,
    question: Annotated[str | None, typer.Option(help="and what is asked of it.")] = None,
    data: Annotated[
        str, typer.Option(help="`phantom`, a folder of images or a published data set, or a file of questions.")
    ] = "phantom",
    out: Annotated[Path, typer.Option(help="Folder of the page and its pictures; new, or one of an earlier page.")] = Path("lens"),
    answer: Annotated[str | None, typer.Option(help="Put behind the question in place of the model's own.")] = None,
    target: Annotated[str | None, typer.Option(help="The word to follow. Default: the first of the answer.")] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="Only the words of this state (with `--of values`: block). Repeatable.")
    ] = None,
    patch: Annotated[str | None, typer.Option(help="ROW,COLUMN of the one that is shown state by state, from 0.")] = None,
    of: Annotated[str, typer.Option(help="`states`, or `values`: what each token hands on to those that attend to it.")] = "states",
    words: Annotated[int, typer.Option(min=1, help="So many of each token.")] = 5,
    lens: Annotated[str | None, typer.Option(help="File of a tuned lens, in place of the logit lens.")] = None,
    seed: options.Seed = 0,
    deidentify: options.Deidentify = False,
    vision_tower: options.VisionTower = "auto",
    adapter: options.Adapter = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    memory: options.Memory = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Read every token of a sample at every layer as words: pictures, a page and the numbers."""
    from medlens.cli.progress import Bars

    at = None if patch is None else _row_and_column(patch)
    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens

        asked = sample_of(sample, image, question, data, seed, deidentify)
        bars.tick()
        bars.begin("loading the model", 1)
        loaded = medlens.load(model, device=device, dtype=dtype, vision_tower=vision_tower, adapter=adapter, memory=memory)
        bars.tick()
        bars.begin("reading", 1)
        tuned = None if lens is None else medlens.load_lens(lens, loaded)
        found = medlens.lens(loaded, asked, answer=answer, target=target, words=words, layers=layer, of=of, tuned=tuned)
        bars.tick()
        bars.begin("drawing", 1)
        page = found.write(out, at)
        bars.tick()
    if as_json:
        say({"page": page, **found.to_dict()})
        return
    print(f"lens: {page}")


app.command("train")(lens_train.command)
app.command("neighbours")(lens_neighbours.command)


def _row_and_column(patch: str) -> tuple[int, int]:
    row, _, column = patch.partition(",")
    if not (row.strip().isdecimal() and column.strip().isdecimal()):
        raise BadInput(f"--patch is ROW,COLUMN, counted from 0, such as 2,5; got {patch!r}")
    return int(row), int(column)


def sample_of(
    number: int | None, image: Path | None, question: str | None, data: str, seed: int, deidentify: bool = False
) -> Sample:
    """The one that is meant; under pseudonyms, with a warning where something may be written on it."""
    from medlens.data.burned_in import warn_of_text
    from medlens.data.pseudonyms import hidden, key

    found = _found(number, image, question, data, seed)
    if not deidentify:
        return found
    (found,) = hidden([found], key())
    warn_of_text([found])
    return found


def _found(number: int | None, image: Path | None, question: str | None, data: str, seed: int) -> Sample:
    import medlens

    if (number is None) == (image is None):
        raise BadInput("give either --sample N, or --image FILE with --question Q")
    if image is not None:
        if question is None:
            raise BadInput(f"what is asked of {image.name}? give --question")
        return medlens.Sample(image=image, question=question, id=image.stem)
    assert number is not None
    if data == "phantom":
        return medlens.phantom.samples(number + 1, seed)[number]
    samples = medlens.read(data, question)
    if number >= len(samples):
        raise BadInput(f"{data} has samples 0 to {len(samples) - 1}; got --sample {number}")
    return samples[number]
