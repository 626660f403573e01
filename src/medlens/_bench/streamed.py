"""A model whose decoder stays on the disk: ours reads every block once for all batches, accelerate's map once for every batch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import medlens
from medlens._bench.checkpoint import Decoder, write_checkpoint
from medlens._bench.turns import Job, Table, Turns, faster
from medlens.models.hf import quiet
from medlens.types import Sample
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare, steps
from medlens.walk.room import Files

SHAPE = Decoder(depth=8, width=2048, mlp=7168, heads=16, kv_heads=4, vocabulary=2000)
TOWERS = {"tiny": 16, "small": 576}  # image tokens: where reading the weights costs most, and where computing does
BATCHES = 8  # one question on one image each
MEMORY = "512MiB"
INPUTS = "inputs.safetensors"


def section(turns: Turns) -> str:
    table = Table(turns, "times faster", "job", "ours, streamed", "accelerate, decoder on disk")
    for tower, tokens in TOWERS.items():
        with tempfile.TemporaryDirectory() as folder:
            original, copy = Path(folder) / "original", Path(folder) / "copy"
            write_checkpoint(original, SHAPE, tower)
            _copy(original, copy)
            for cache in ("warm", "cold"):
                ours, theirs = turns(
                    Job("streamed", "walked", (str(original), cache)), Job("streamed", "accelerate_disk", (str(copy), cache))
                )
                what = f"{BATCHES} batches of {tokens} image tokens, {SHAPE.depth} blocks, {SHAPE.width} wide, {cache} cache"
                table.add(faster(ours, theirs), what, ours, theirs)
    return f"## A decoder that stays on the disk\n\n{ABOUT}\n\n{table}"


ABOUT = f"""A checkpoint in bfloat16, computed in float32; {BATCHES} questions, each on an image of its own, so that nothing is
saved by packing. With few tokens reading the weights costs most, with many computing does. Ours: a walk of a model that may take
{MEMORY} for its weights, its states in files as in a study. The clock starts when the model is loaded (ours is tested then). With a
warm cache its files lie in memory all the time: what a model of this size gets. With a cold one the system forgets them before
every pass over the weights, one of ours and {BATCHES} of theirs: what a model gets that is larger than the machine's memory."""


def questions() -> list[Sample]:
    return medlens.phantom.samples(BATCHES, questions="presence")


def _copy(original: Path, copy: Path) -> None:
    """The same model in transformers' own layout, and its inputs: what the peer can read."""
    model = medlens.load(original, dtype="bfloat16")
    with quiet():
        words = len(model.tokenizer)  # transformers looks the image token up as well, before it is replaced
        model.module.resize_token_embeddings(words, mean_resizing=False)
        model.module.save_pretrained(copy, save_original_format=False)
    for k, sample in enumerate(questions()):
        given = arguments(model, cases(model, [prepare(model, sample)])[0])
        save_file({name: value.contiguous() for name, value in given.items()}, copy / f"{k}.{INPUTS}")


def walked(folder: str, cache: str) -> Callable[[], object]:
    model = medlens.load(folder, memory=MEMORY)
    laid = cases(model, [prepare(model, sample) for sample in questions()])
    (remember if cache == "warm" else forget)(Path(folder))
    lengths = [len(case.pack.ids) for case in laid]

    def run() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            room = Files(Path(scratch), lengths, model.width, model.dtype, model.device)
            for _ in steps(model, laid, [], lambda: None, room):
                pass

    return run


def accelerate_disk(folder: str, cache: str) -> Callable[[], object]:
    from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

    place = Path(folder)
    batches = [load_file(path) for path in sorted(place.glob(f"*.{INPUTS}"))]
    where = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "model.language_model": "disk", "lm_head": "disk"}
    model = LlavaForConditionalGeneration.from_pretrained(
        place, dtype=torch.float32, device_map=where, offload_folder=place / "offload", local_files_only=True
    )
    if cache == "warm":
        remember(place)

    def run() -> None:
        with torch.no_grad():
            for batch in batches:
                if cache == "cold":
                    forget(place)
                given = {name: v.float() if v.is_floating_point() else v for name, v in batch.items()}
                model(**given, use_cache=False, logits_to_keep=1, output_hidden_states=False)

    return run


def remember(folder: Path) -> None:
    """Have the system read the weights into its cache."""
    for path in folder.rglob("model*.safetensors"):
        with path.open("rb") as file:
            while file.read(2**24):
                pass


def forget(folder: Path) -> None:
    """Have the system give up what it has cached of the weights, ours or the peer's."""
    for path in (p for p in folder.rglob("*") if p.suffix in (".safetensors", ".dat")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not on the disk yet cannot be given up
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
