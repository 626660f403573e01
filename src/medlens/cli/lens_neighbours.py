"""`medlens lens neighbours [MODEL] [DATA] --out DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say


def command(
    model: options.ModelName = "phantom",
    data: options.DataName = "phantom",
    out: Annotated[Path, typer.Option(help="Folder for the tables and pictures.")] = Path("neighbours"),
    image: Annotated[Path | None, typer.Option(help="Read this image alone; words still come from DATA, or --texts.")] = None,
    question: options.Question = None,
    texts: Annotated[
        Path | None, typer.Option(help="Where words come from: a file with one sentence a line, or a saved library (.safetensors).")
    ] = None,
    save_texts: Annotated[Path | None, typer.Option(help="Keep the library of text states in this file, .safetensors.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="A state, 0 to L; may be given several times.")] = None,
    images: Annotated[int, typer.Option(min=1, help="The first so many images.")] = 4,
    cap: Annotated[int, typer.Option(min=1, help="Words of the library, at each layer.")] = 4096,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours of each patch.")] = 5,
    leave_out_massive: Annotated[bool, typer.Option(help="Cosines without the columns of massive activations.")] = False,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    deidentify: options.Deidentify = False,
    vision_tower: options.VisionTower = "auto",
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    memory: options.Memory = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """The words of text whose states are nearest to each patch of an image, at any layer (LatentLens)."""
    from medlens.cli.progress import Bars, table

    with Bars() as bars:
        bars.begin("importing torch", 1)
        import medlens
        from medlens.data.burned_in import warn_of_text
        from medlens.data.pseudonyms import hidden, key

        bars.tick()
        bars.begin("loading the model", 1)
        loaded = medlens.load(model, device=device, dtype=dtype, vision_tower=vision_tower, memory=memory)
        bars.tick()
        samples = medlens.phantom.samples(limit or 200, seed) if data == "phantom" else medlens.read(data, question)[:limit]
        shown = samples if image is None else [medlens.Sample(image, question or "what is shown ?", id=image.stem)]
        if deidentify:
            samples, shown = hidden(samples, key()), hidden(shown, key())
        bars.begin("walking and comparing", 1)
        found = medlens.neighbours(
            loaded, shown, texts or samples, layers=layer, k=k, images=images, cap=cap, seed=seed,
            leave_out_massive=leave_out_massive,
        )  # fmt: skip
        found.save(out, loaded)
        if deidentify:
            warn_of_text(found.samples)
        if save_texts is not None:
            found.texts.save(save_texts)
        bars.tick()
    if as_json:
        say({"out": out, "words": len(found.texts), "layers": found.null.to_dicts()})
        return
    words = f"{len(found.texts)} words of text at each of {len(found.texts.layers)} layers"
    table(found.null, f"{words}; nearest to {len(found.samples)} images")
    print(f"tables and pictures: {out}")
