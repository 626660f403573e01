"""The whole study on a random model of LLaVA-Med's shape, narrow: ours, and the way the published one was done."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from medlens import phantom
from medlens._bench.checkpoint import Decoder, write_checkpoint
from medlens._bench.peers import microscope
from medlens._bench.turns import Job, Table, Turns, faster
from medlens._study import study
from medlens.models import load
from medlens.plan import Plan
from medlens.types import Sample
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare

SHAPE, TOWER = Decoder(depth=4, width=256, mlp=896, heads=8, kv_heads=2, vocabulary=2000), "small"
IMAGES = 8
ASKED = ("presence", "modality", "count")  # these fit every slice
DIMENSION_ROWS = 4096
# At this size their loop over rows breaks the memory of glibc's allocator into pieces until there is none left; so it is told
# to give back everything at once.
HELP = {"MALLOC_MMAP_THRESHOLD_": "1000000"}


def section(turns: Turns) -> str:
    table = Table(turns, "times faster", "job", "ours", "transformers and llm-microscope")
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "model")
        write_checkpoint(Path(place), SHAPE, TOWER)
        ours, theirs = turns(Job("whole", "study_ours", (place,)), Job("whole", "study_theirs", (place,), HELP))
    shape = f"{IMAGES * len(ASKED)} questions on {IMAGES} images, {SHAPE.depth} blocks, {SHAPE.width} wide"
    table.add(faster(ours, theirs), shape, ours, theirs)
    return f"## A whole study\n\n{ABOUT}\n\n{table}"


ABOUT = f"""A random model of LLaVA-Med's shape, narrower, with its 576 image tokens. Ours: `medlens study`, from the folder to the
report (answers given, all measures, all groups of tokens). Theirs: the model loaded in the same way, transformers' forward with
`output_hidden_states` for one sample after the other, the states collected, and their four functions for every layer: on the image
rows of every third sample (dimension: of the first {DIMENSION_ROWS}) and on all text rows. No report. Their process runs with
`MALLOC_MMAP_THRESHOLD_=1000000`; without it, it ran out of memory."""


def questions() -> list[Sample]:
    return phantom.samples(IMAGES * len(ASKED), questions=ASKED)


def study_ours(folder: str) -> Callable[[], object]:
    samples = questions()

    def run() -> None:
        with tempfile.TemporaryDirectory() as out:
            study(folder, samples, Plan(answers="given"), Path(out) / "run")

    return run


def study_theirs(folder: str) -> Callable[[], object]:
    f, samples = microscope(), questions()

    def run() -> list[tuple[float, ...]]:
        image, text = _collect(folder, samples)
        found = []
        for states in (image, text):
            for x, y in pairwise(states[:-1]):  # never to the last one, which is behind the norm
                f.procrustes_similarity(x, y)
                f.procrustes_similarity_centered(x, y)
            for x in states[:-1]:
                found.append((f.calculate_anisotropy_torch(x), f.intrinsic_dimension(x[:DIMENSION_ROWS], "cpu")))
        return found

    return run


def _collect(folder: str, samples: list[Sample]) -> tuple[list[Tensor], list[Tensor]]:
    """The states of every layer: image rows of every third sample, and text rows (all behind the line break) of all."""
    model = load(folder)
    image: list[list[Tensor]] = [[] for _ in range(model.depth + 1)]
    text: list[list[Tensor]] = [[] for _ in range(model.depth + 1)]
    for k, sample in enumerate(samples):
        (case,) = cases(model, [prepare(model, sample)])
        places = case.where("image")
        with torch.no_grad():
            states = model.module(**arguments(model, case), output_hidden_states=True).hidden_states
        for layer, state in enumerate(states):
            if k % 3 == 0:
                image[layer].append(state[0, places])
            text[layer].append(state[0, places[-1] + 2 :])
    return [torch.cat(rows) for rows in image], [torch.cat(rows) for rows in text]
