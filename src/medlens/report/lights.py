"""Verdicts on reliance: a traffic light for each type of question, and a sentence. From a run's tables, by written rules."""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl

from medlens import store

RESTS, MOST = 0.5, 0.95  # shares of answers that rest on the image: below the first, red; from the second on, green
FEWEST = 10  # images (patients): of fewer nothing is called green
NOT, SHORTCUT, KNOWS_NOT, RESTING = (
    "does not rest on the image",
    "rests on the image, but on a shortcut",
    "moves with the image, but is not surely right more often than by guessing",
    "rests on the image",
)


class Light(NamedTuple):
    """Of one type of question: `colour` green, amber or red; `sign`, a shape for those who see none; `words`, and the reasons."""

    group: str
    colour: str
    sign: str
    words: str
    reasons: tuple[str, ...]
    numbers: dict[str, dict[str, Any]]


SIGNS = {"green": "●", "amber": "▲", "red": "■"}
WORDS = {"green": "rests on the image", "amber": "rests on the image, with reservations", "red": "does not rest on the image"}


def lights(run: store.Run) -> list[Light]:
    """One of each type of question (of all together, where no types are known). The rule:

    red: fewer than half of the answers rest on the image (the gate). green: at least 0.95 do, of at least ten images, and nothing
    speaks against it. amber: all else, with its reasons: some answers do not; answers are not surely right more often than the
    commonest answer would be (the interval's lower end; where the true ones are known); a shortcut is followed; few images.
    """
    frame = run.reliance_by
    by = "question_type" if frame.filter(by="question_type").height else "all"
    caught = shortcuts(run)
    return [_light(group, _numbers(frame, by, group), group in caught) for group in _in_order(frame.filter(by=by)["group"])]


def verdict(run: store.Run) -> str:
    """One sentence of the whole model: red where fewer than half of all answers rest on the image; then a shortcut, where one is
    followed in any type of question; then whether it is right more often than by guessing in any type."""
    frame = run.reliance_by
    if _numbers(frame, "all", "all")["rests"]["value"] < RESTS:
        return NOT
    if shortcuts(run):
        return SHORTCUT
    known = [light for light in lights(run) if "right" in light.numbers]
    return KNOWS_NOT if known and not any(_knows(light.numbers) for light in known) else RESTING


def reservations(run: store.Run) -> str:
    """What is to be said behind the verdict that answers rest on the image; empty where every light is green, and behind others."""
    found = lights(run)
    amber = sum(light.colour != "green" for light in found)
    if verdict(run) != RESTING or not amber:
        return ""
    return "with reservations" + f" for {amber} of {len(found)} types of question" * (amber < len(found))


def shortcuts(run: store.Run) -> set[str]:
    """Types of question whose answers follow what is written on the image."""
    return set(run.shortcuts.filter(pl.col("followed"))["group"])


def summary(run: store.Run) -> pl.DataFrame:
    """The traffic lights as a table."""
    rows = []
    for light in lights(run):
        of = {name: light.numbers.get(name, {}) for name in ("rests", "other", "right", "guess")}
        rows.append(
            {
                "questions": light.group,
                "light": f"{light.sign} {light.colour}",
                "rests": of["rests"].get("value"),
                "low": of["rests"].get("low"),
                "high": of["rests"].get("high"),
                "changed": of["other"].get("value"),
                "right": of["right"].get("value"),
                "guess": of["guess"].get("value"),
                "n": of["rests"].get("n"),
                "images": of["rests"].get("images"),
                "why": "; ".join(light.reasons),
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _light(group: str, numbers: dict[str, dict[str, Any]], shortcut: bool) -> Light:
    rests = numbers["rests"]
    reasons = []
    if rests["value"] < 1:
        reasons.append(f"{100 * (1 - rests['value']):.0f} % of the answers do not depend on the image")
    if shortcut:
        reasons.append("the answers follow what is written on the image")
    if "right" in numbers and not _knows(numbers):
        reasons.append("not surely right more often than by guessing")
    if rests["images"] < FEWEST:
        reasons.append(f"only {rests['images']} image{'s' * (rests['images'] != 1)}")
    grave = rests["value"] < MOST or shortcut or rests["images"] < FEWEST or ("right" in numbers and not _knows(numbers))
    colour = "red" if rests["value"] < RESTS else "amber" if grave else "green"
    return Light(group, colour, SIGNS[colour], WORDS[colour], tuple(reasons), numbers)


def _knows(numbers: dict[str, dict[str, Any]]) -> bool:
    low = numbers["right"]["low"]
    return low is not None and low > numbers["guess"]["value"]


def _numbers(frame: pl.DataFrame, by: str, group: str) -> dict[str, dict[str, Any]]:
    """By name: rests, right, guess; and of each kind of swap, under its name, the share of answers that it changed."""
    own = frame.filter(by=by, group=group).to_dicts()
    changed = {row["swap"]: row for row in own if row["measure"] == "changed"}
    return changed | {row["measure"]: row for row in own if row["swap"] == "all"}


def _in_order(groups: pl.Series) -> list[str]:
    return list(dict.fromkeys(groups.to_list()))
