"""What is felt every day: how soon the command line speaks, and what packing saves on the phantom."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import medlens
from medlens._bench.turns import Job, Table, Turns, faster
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, walk

QUESTIONS = 100
FIVE = ("presence", "type", "place", "side", "modality")  # asked of every slice with at most one lesion


def section(turns: Turns) -> str:
    said, packed, single = turns(*(Job("small", name) for name in ("say_help", "walk_packed", "walk_one_by_one")))
    table = Table(turns, "times faster", "job", "packed", "one by one")
    table.add(faster(packed, single), f"walk of {QUESTIONS} questions on some 20 images, phantom", packed, single)
    return f"## Small jobs\n\n`medlens --help` takes {said.why or format(said.seconds, '.2f') + ' s'}.\n\n{table}"


def say_help() -> Callable[[], object]:
    command = [sys.executable, "-c", "from medlens.cli import main; main()", "--help"]
    return lambda: subprocess.run(command, check=True, capture_output=True)


def walk_packed() -> Callable[[], object]:
    return _walk(one_by_one=False)


def walk_one_by_one() -> Callable[[], object]:
    return _walk(one_by_one=True)


def _walk(one_by_one: bool) -> Callable[[], object]:
    """Prompts of questions, mostly five an image, through the phantom."""
    model = medlens.load("phantom")
    prompts = [prepare(model, s, s.answer) for s in medlens.phantom.samples(QUESTIONS, questions=FIVE)]
    laid = [c for p in prompts for c in cases(model, [p])] if one_by_one else cases(model, prompts)
    return lambda: walk(model, laid, [])
