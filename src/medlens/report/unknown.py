"""What this run did not measure, and which command would: from its plan and tables, so that nobody takes silence for a result."""

from __future__ import annotations

import shlex
from itertools import pairwise
from typing import Any, NamedTuple

from medlens.errors import BadRun
from medlens.report.first import there
from medlens.store import Run

INSTRUMENTS = {"geometry": "How states are arranged", "contextualization": "How contextual tokens are", "lens": "What states say"}
LOADED = ("--seed", "--vision-tower", "--adapter", "--device", "--dtype")  # flags that other commands know, too
ASKED = ("--limit", "--question", "--window")  # and these, where they take data


class Gap(NamedTuple):
    """What is not known; the command that finds out (None: no command can, the data lack it)."""

    what: str
    command: str | None


def unknown(run: Run) -> list[Gap]:
    """In the order in which a careful reader would ask."""
    plan, command = run.manifest["plan"], run.manifest["command"]
    again = command.removesuffix(" --out RUN")
    words = command.split()  # "medlens study MODEL DATA ...": the two that other commands want too
    if len(words) < 4:
        raise BadRun(f"{run.path}/manifest.json is damaged: {command[:40]!r} is no command that made a study")
    model, subject = words[2], " ".join([*words[2:4], *_kept(command, LOADED + ASKED)])
    board = " ".join([*words[2:4], *_kept(command, (*LOADED, "--limit"))])
    found = []
    if plan["answers"] == "given":
        found.append(
            Gap("What the model itself would answer: the answers were given", f"{_without(again, '--answers')} --out RUN-own")
        )
    elif not run.samples["answer"].is_not_null().any():
        found.append(Gap("Whether answers are right: the data hold no true ones", None))
    gated, mapped = (len(set(getattr(run, name)["sample"])) if there(run, name) else 0 for name in ("gates", "trust"))
    asked = run.samples.height
    if gated < asked:
        found.append(Gap(f"Whether {_rest(gated, asked)} on the image", f"medlens reliance {subject} --out RUN-reliance"))
    if not mapped:
        sample = " ".join(["medlens explain", model, "--data", words[3], "--sample 0", *_kept(command, LOADED), "--out RUN-maps"])
        found.append(Gap("Where on the image an answer comes from, and whether such a map can be trusted", sample))
    if not there(run, "leaderboard") and run.samples["answer"].is_not_null().any():
        found.append(
            Gap(
                "Which method's maps lie on what is there, if the data mark it",
                f"medlens explain {board} --benchmark --out RUN-benchmark",
            )
        )
    if not there(run, "neurons"):
        found.append(Gap("Which neurons make it say so", f"medlens neurons {subject} --concept WORD --out RUN-neurons"))
    for name, what in INSTRUMENTS.items():
        if name not in plan["instruments"]:
            found.append(Gap(what, f"medlens study {subject} --instrument {name} --out RUN-{name}"))
    return found + _of_the_study(run, plan, again, subject)


def _rest(known: int, of: int) -> str:
    if not known:
        return "the answers rest"
    return "the other answer rests" if of - known == 1 else f"the other {of - known:,} answers rest"


def _of_the_study(run: Run, plan: dict[str, Any], again: str, subject: str) -> list[Gap]:
    """What the same command would add with another flag."""
    found = []
    if plan["protocol"] == "sound":
        for null, what in (("weights", "untrained weights"), ("noise", "noise in place of the images")):
            if null not in plan["nulls"]:
                found.append(Gap(f"What the measures give for {what}", f"{again} --null {null} --out RUN-nulls"))
        if not plan["by"] and (field := _field(run)):
            found.append(Gap("Whether subgroups differ", f"{again} --by {shlex.quote(field)} --out RUN-by"))
    if not there(run, "occurrence"):
        what = "Which words units write, and what the published study's own arithmetic would give"
        found.append(Gap(what, f"medlens study {subject} --protocol published --out RUN-published"))
    return found


def _field(run: Run) -> str | None:
    """One that the samples could be divided by."""
    return "question_type" if run.samples["question_type"].drop_nulls().n_unique() > 1 else None


def _kept(command: str, flags: tuple[str, ...]) -> list[str]:
    """Those of these flags that a command has, with their values."""
    words = shlex.split(command)
    return [f"{flag} {shlex.quote(value)}" for flag, value in pairwise(words) if flag in flags]


def _without(command: str, flag: str) -> str:
    words = shlex.split(command)
    kept = [word for k, word in enumerate(words) if word != flag and (k == 0 or words[k - 1] != flag)]
    return shlex.join(kept).replace("'$MODEL'", "$MODEL").replace("'$DATA'", "$DATA")
