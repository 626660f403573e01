"""Run folders, finished and unfinished ones, in which somebody else has written."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
from tools.fuzz import mutate
from tools.fuzz.models import phantom, safetensors
from tools.fuzz.target import Read, Target

import medlens
from medlens import store
from medlens.comparison import compare
from medlens.plan import Plan
from medlens.report import charts, live, render
from medlens.unfinished import Unfinished, refuse_another
from medlens.viewer.data import Shown


class Blank:
    """In the place of what draws charts."""

    @staticmethod
    def vegalite_to_svg(_: Any) -> str:
        return "<svg></svg>"

    @staticmethod
    def svg_to_png(_: str, scale: float = 1) -> bytes:
        return b""


def _study(place: Path) -> Path:
    charts.vl_convert = Blank  # drawing takes a second, and what is drawn are numbers that were read before
    medlens.study(phantom(), "phantom", Plan(limit=4, folds=2, lens_images=1, map_images=0), place / "run")
    return place / "run"


def _run(seed: Path, folder: Path, rng: random.Random) -> Read:
    files = [f for f in sorted(seed.iterdir()) if f.suffix in (".parquet", ".json", ".safetensors")]
    files.append(rng.choice(sorted((seed / "pictures").iterdir())))
    hit = seed / "manifest.json" if rng.random() < 0.3 else rng.choice(files)
    for file in seed.iterdir():
        if file.is_dir():
            shutil.copytree(file, folder / file.name)
        elif file != hit:
            (folder / file.name).symlink_to(file)
    (folder / hit.relative_to(seed)).write_bytes(_changed(hit, rng))
    what = (_tables, render, lambda run: compare([run.path, seed]), _viewed)[rng.choice((0, 0, 0, 0, 1, 2, 3))]
    return lambda: what(medlens.open_run(folder))


def _tables(run: medlens.Run) -> None:
    repr(run)
    run._repr_html_()
    for name in store.TABLES:
        if (run.path / f"{name}.parquet").exists():
            getattr(run, name)


def _viewed(run: medlens.Run) -> None:
    shown = Shown(run)
    _ = shown.index
    for place in range(len(shown.samples)):
        shown.sample(place)
        for block in shown.blocks(place):
            shown.block(place, block)


def _changed(file: Path, rng: random.Random) -> bytes:
    data = file.read_bytes()
    if file.suffix == ".json" and rng.random() < 0.8:
        return mutate.as_text(mutate.some_json(json.loads(data), rng)).encode("utf-8", "surrogatepass")
    if file.suffix == ".parquet" and rng.random() < 0.5:
        return _frame(pl.read_parquet(file), rng)
    if file.suffix == ".safetensors" and rng.random() < 0.5:
        return safetensors(rng)
    return mutate.some_bytes(data, rng)


def _frame(frame: pl.DataFrame, rng: random.Random) -> bytes:
    """A table that is whole, but another: without a column, with one of another type, empty, or with names that lead outward."""
    column = rng.choice(frame.columns)
    text, number = rng.choice(mutate.TEXTS).encode("utf-8", "replace").decode(), rng.choice((-1, 2**62))
    changes: tuple[Callable[[], pl.DataFrame], ...] = (
        lambda: frame.drop(column), lambda: frame.clear(), lambda: frame.rename({column: "other"}),
        *(partial(frame.with_columns, pl.lit(value).alias(column)) for value in (text, number, None)),
    )  # fmt: skip
    buffer = BytesIO()
    rng.choice(changes)().write_parquet(buffer)
    return buffer.getvalue()


KILLED = Plan(limit=2, folds=2, instruments=("geometry",), nulls=(), max_new_tokens=2, thorough=False, map_images=0)


def _killed(place: Path) -> Path:
    """A study that was killed behind its second block."""
    charts.vl_convert = Blank

    note = Unfinished.note

    def killed(work: Unfinished, progress: Mapping[str, Any]) -> None:
        note(work, progress)
        if progress.get("state") == 2:
            raise KeyboardInterrupt

    Unfinished.note = killed  # pyright: ignore[reportAttributeAccessIssue]
    with suppress(KeyboardInterrupt):
        medlens.study(phantom(), "phantom", KILLED, place / "run")
    Unfinished.note = note
    return place / "run.part"


def _go_on(seed: Path, folder: Path, rng: random.Random) -> Read:
    """One of its files changed; it is shown as it is, or, which takes longer, gone on with."""
    part = folder / "run.part"
    shutil.copytree(seed, part)
    hit = rng.choice([file for file in sorted(part.rglob("*")) if file.is_file() and file.stat().st_size])
    hit.write_bytes(_changed(hit, rng))
    if rng.random() < 0.95:
        return lambda: live.write(part)
    return lambda: medlens.study(phantom(), "phantom", KILLED, folder / "run")


PROGRESS = {"sha256": "", "noted": {"state": 2, "found": {"rows": []}}}
ANSWER = {"text": "yes", "ids": [1, 2], "logprobs": [-0.1, -0.2], "ended": True}


def _nothing(_: Path) -> None:
    return None


def _unfinished(_: Any, folder: Path, rng: random.Random) -> Read:
    """What a killed study leaves, changed meanwhile."""
    for name, told in (("identity.json", {"plan": "a"}), ("progress.json", PROGRESS), ("answers.jsonl", ANSWER)):
        text = mutate.as_text(mutate.some_json(told, rng) if rng.random() < 0.6 else told).encode("utf-8", "surrogatepass")
        (folder / name).write_bytes(mutate.some_bytes(text, rng) if rng.random() < 0.3 else text + b"\n")
    work = Unfinished(folder, folder)
    return rng.choice((lambda: refuse_another(folder, {"plan": "a"}), lambda: work.progress, work.answers))


TARGETS = (
    Target("run", 2, _study, _run, aborts=True),
    Target("killed study", 1, _killed, _go_on, aborts=True),
    Target("unfinished run", 6, _nothing, _unfinished),
)
