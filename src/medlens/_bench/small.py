"""What is felt every day: how soon the command line speaks, and what packing saves on the phantom."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import medlens
from medlens._bench.turns import Job, Table, Turns, faster
from medlens._prune.cost import seconds
from medlens.saliency.asked import Asked
from medlens.saliency.blank import entered
from medlens.saliency.occlusion import occlusion
from medlens.walk.batch import onward, valued
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, walk
from medlens.walk.target import next_word

QUESTIONS, OCCLUSIONS, FORWARDS = 100, 5, 50
FIVE = ("presence", "type", "place", "side", "modality")  # asked of every slice with at most one lesion


def section(turns: Turns) -> str:
    names = ("say_help", "walk_packed", "walk_one_by_one", "occlude_shared", "occlude_one_by_one", "forward_cut", "forward_whole")
    said, packed, single, shared, alone, cut, whole = turns(*(Job("small", name) for name in names))
    table = Table(turns, "times faster", "job", "this way", "the other")
    table.add(faster(packed, single), f"walk of {QUESTIONS} questions on some 20 images, phantom", packed, single)
    table.add(faster(shared, alone), "occlusion of each of 64 image tokens, five times, phantom", shared, alone)
    table.add(faster(cut, whole), f"{FORWARDS} forwards of one question, phantom: without 4 of 8 blocks, and with all", cut, whole)
    return f"## Small jobs\n\n`medlens --help` takes {said.why or format(said.seconds, '.2f') + ' s'}.\n\n{table}"


def say_help() -> Callable[[], object]:
    command = [sys.executable, "-c", "from medlens.cli import main; main()", "--help"]
    return lambda: subprocess.run(command, check=True, capture_output=True)


def walk_packed() -> Callable[[], object]:
    return _walk(one_by_one=False)


def walk_one_by_one() -> Callable[[], object]:
    return _walk(one_by_one=True)


def occlude_shared() -> Callable[[], object]:
    model, asked = _asked()
    return lambda: [occlusion(model, asked) for _ in range(OCCLUSIONS)]


def occlude_one_by_one() -> Callable[[], object]:
    model, asked = _asked()
    target = asked.target

    def run() -> None:
        for _ in range(OCCLUSIONS):
            way = entered(model, asked)
            for place in asked.image:
                state = way.own.clone()
                state[place] = way.blank[place]
                valued(model, onward(model, way.steps, state[None])[-1], target.behind, target.of)

    return run


def forward_cut() -> Callable[[], object]:
    return _forward((2, 3, 5, 7))


def forward_whole() -> Callable[[], object]:
    return _forward(())


def _forward(gone: tuple[int, ...]) -> Callable[[], object]:
    """Of the whole model: image, tower and what is left of the decoder."""
    model = medlens.load("phantom")
    prompt = prepare(model, medlens.phantom.samples(1, questions="type")[0])
    return lambda: seconds(model, prompt, [(gone, None)], repeats=FORWARDS)


def _asked() -> tuple[medlens.Model, Asked]:
    model = medlens.load("phantom")
    prompt = prepare(model, medlens.phantom.samples(1, questions="type")[0])
    case = cases(model, [prompt])[0]
    return model, Asked(case, next_word(case, 10))


def _walk(one_by_one: bool) -> Callable[[], object]:
    """Prompts of questions, mostly five an image, through the phantom."""
    model = medlens.load("phantom")
    prompts = [prepare(model, s, s.answer) for s in medlens.phantom.samples(QUESTIONS, questions=FIVE)]
    laid = [c for p in prompts for c in cases(model, [p])] if one_by_one else cases(model, prompts)
    return lambda: walk(model, laid, [])
