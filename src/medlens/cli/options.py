"""Arguments and options that several commands share."""

from typing import Annotated

import typer

ModelName = Annotated[str, typer.Argument(help="`phantom`, a folder, or a hub id owner/name.")]
DataName = Annotated[str, typer.Argument(help="`phantom`, a folder of images or a published data set, or a file of questions.")]
Question = Annotated[str | None, typer.Option(help="Asked of images that come without one.")]
Window = Annotated[
    str | None,
    typer.Option(help="CENTRE,WIDTH to show DICOM images through, instead of their own window (lung CT: -600,1500)."),
]
Limit = Annotated[int | None, typer.Option(help="Only the first so many samples (phantom: 200).")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn at random.")]
MaxNewTokens = Annotated[int, typer.Option(help="Cap of a generated answer.")]
VisionTower = Annotated[
    str,
    typer.Option(
        help="LLaVA-Med's layout: `external` (its authors' way), `checkpoint` (its own), a folder; auto: external if here."
    ),
]
Adapter = Annotated[str | None, typer.Option(help="Folder of a LoRA adapter, merged into the model.")]
Device = Annotated[str, typer.Option(help="As torch names it: cpu, cuda, cuda:1.")]
Dtype = Annotated[str, typer.Option(help="float32, float16 or bfloat16; or int8: the blocks' weights in eight bits.")]
Memory = Annotated[
    str | None, typer.Option(help="At most so much, such as 4GiB; a model that needs more is streamed. Default: what is free.")
]
Scratch = Annotated[str | None, typer.Option(help="Folder for what waits on disk. Default: beside the run.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out samples that cannot be read, and list them.")]
Deidentify = Annotated[
    bool, typer.Option("--deidentify", help="Pseudonyms for files, samples and patients, in all that is written.")
]
Claims = Annotated[
    list[str] | None, typer.Option(help="To be tested, such as 'anisotropy/image falls'; may be given several times.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
