"""What a study shows of single samples: token by token where each looks and what fires, and maps with their report cards.

Each sample is a folder of its own until all are done, so that a study that is killed makes none of them twice, and so that shares
of a study can each make theirs. `progress.json` beside these folders holds the digest of every file in them: one in which
something is not what it was is made again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from medlens import store
from medlens._explain import explain, methods_for, ticks
from medlens._explain.page import Explanation, rows_of_map
from medlens._prepare import Watcher
from medlens._tokens import places, shown
from medlens.errors import BadInput, BadModel, BadRun, MedlensError
from medlens.instruments.lens import worded
from medlens.models import Model
from medlens.overlay import Style, svg
from medlens.plan import MAPPED, WIDE, Plan
from medlens.svg import as_png
from medlens.unfinished import Unfinished
from medlens.walk.cases import Prompt
from medlens.walk.room import Files

OF_TOKENS, OF_MAPS = ("looks", "fires", "unit_writes", "places"), ("maps", "trust", "checks", "gates")
TABLES = OF_TOKENS + OF_MAPS
WALKS = 130  # of a sample, for each map: its card, the map itself, and its share of the gate
PIXELS = 480  # of a picture's longer side


class Chosen(NamedTuple):
    """The samples that are shown: token by token, and by maps. number: of a sample among all chosen, the same in every share."""

    tokens: list[Prompt]
    maps: list[Prompt]
    number: dict[str, int]


def chosen(model: Model, plan: Plan, prompts: Sequence[Prompt]) -> Chosen:
    """Those whose words the lens keeps, and the first of them. prompts: all of the study."""
    if plan.protocol != "sound":
        return Chosen([], [], {})
    mapped = plan.map_images if plan.map_images is not None else (0 if model.width > WIDE else MAPPED)
    mine = lambda count: [p for p in prompts if p.sample.id in worded(replace(plan, lens_images=count), prompts)] if count else []
    shown_ = [p for p in mine(plan.lens_images) if p.sample.images]
    tokens = shown_ if "tokens" in plan.instruments else []
    maps = [p for p in mine(mapped) if p.sample.images] if "maps" in plan.instruments else []
    names = dict.fromkeys(p.sample.id for p in (*tokens, *maps))
    return Chosen(tokens, maps, {name: k for k, name in enumerate(names)})


def walks(model: Model, plan: Plan, prompts: Sequence[Prompt]) -> int:
    """How many walks of one sample all of it costs, about."""
    found = chosen(model, plan, prompts)
    return len(found.tokens) + WALKS * len(methods_for(model)) * len(found.maps)


def make(model: Model, plan: Plan, found: Chosen, told: Sequence[Prompt], work: Unfinished, watcher: Watcher) -> None:
    """Look at the chosen samples, and leave in `work` what is found, where it is not there already, and whole. told: the study's
    prompts with their answers behind them, or a share's: the others are left to other shares."""
    _tidy(work)
    answered = {prompt.sample.id: prompt for prompt in told}
    tokens = [answered[p.sample.id] for p in found.tokens if p.sample.id in answered]
    maps = [p for p in found.maps if p.sample.id in answered]
    if tokens and not (work.folder / "tokens").exists():
        watcher.begin("looking at tokens", len(tokens) * model.depth)
        lengths = [len(prompt.tokens) for prompt in tokens]
        with tempfile.TemporaryDirectory(dir=work.scratch) as waiting:
            room = Files(Path(waiting), lengths, model.width, model.dtype, model.device)
            _keep(work, "tokens", shown(model, tokens, room, watcher.tick) | {"places": places(model, tokens)}, {})
    if maps:
        steps = ticks(len(methods_for(model)))
        watcher.begin("making maps", steps * len(maps))
        for prompt in maps:
            _map(model, plan, prompt, found.number[prompt.sample.id], work, _AtMost(watcher, steps))


class _AtMost:
    """Ticks no more often than was said before; `rest` makes up for what was not done."""

    def __init__(self, watcher: Watcher, steps: int) -> None:
        self.watcher, self.left = watcher, steps

    def __call__(self) -> None:
        if self.left:
            self.left -= 1
            self.watcher.tick()

    def rest(self) -> None:
        while self.left:
            self()


def _map(model: Model, plan: Plan, prompt: Prompt, number: int, work: Unfinished, tick: _AtMost) -> None:
    name = f"maps-{number:03d}"
    if not (work.folder / name).exists():
        try:
            found = explain(model, prompt.sample, tokens=False, seed=plan.seed, scratch=work.scratch, tick=tick)
            _keep(work, name, *_records(found, number))
        except (BadInput, BadModel) as e:  # this sample, or this family, has no maps: that is a finding, and the study goes on
            _keep(work, name, {"trust": [_none(prompt.sample.id, "", e)]}, {})
    tick.rest()


def _none(sample: str, method: str, why: MedlensError | str) -> dict[str, Any]:
    """A line of `trust` for a map that is not there."""
    return {"sample": sample, "method": method, "verdict": "no map", "why": str(why)}


def _records(found: Explanation, number: int) -> tuple[dict[str, list[dict[str, Any]]], dict[str, bytes]]:
    """Of the tables of maps; and the pictures by name."""
    drawn = {f"{number:03d}-{m.method}": svg(m, found.image, Style(), found.regions, PIXELS) for m in found.maps}
    trust = []
    for k, (heatmap, card, picture) in enumerate(zip(found.maps, found.cards, drawn, strict=True)):
        about = {"sample": found.sample, "map": k, "method": heatmap.method, "target": heatmap.target, "layer": heatmap.layer}
        said = {"verdict": card.verdict, "why": "; ".join(card.why), "note": "; ".join(filter(None, (heatmap.note, card.said)))}
        trust.append({**about, **said, "picture": f"maps/{picture}.png"})
    trust += [_none(found.sample, failed.method, failed.reason) for failed in found.failed]
    return {
        "maps": [row for k, heatmap in enumerate(found.maps) for row in rows_of_map(found.sample, k, heatmap)],
        "trust": trust,
        "checks": [{"sample": found.sample, **check._asdict()} for card in found.cards for check in card.checks],
        "gates": [] if found.gate is None else [asdict(found.gate)],
    }, {f"{name}.svg": p.encode() for name, p in drawn.items()} | {f"{name}.png": as_png(p) for name, p in drawn.items()}


def _keep(work: Unfinished, name: str, records: dict[str, list[dict[str, Any]]], pictures: dict[str, bytes]) -> None:
    """Whole, or not at all."""
    place, making = work.folder / name, work.folder / f"{name}.making"
    making.mkdir()
    for table, rows in records.items():
        store.write_table(making, table, rows)
    for picture, data in pictures.items():
        store.write(making / picture, data)
    making.replace(place)
    work.note({"kept": _noted(work) | {name: work.sealed(place.iterdir())}})


def _noted(work: Unfinished) -> dict[str, Any]:
    """The digests of the files in each sample's folder."""
    noted = work.progress.get("kept")
    return noted if isinstance(noted, dict) else {}


def _kept(work: Unfinished) -> list[Path]:
    return [path for path in work.folder.iterdir() if path.is_dir()] if work.folder.is_dir() else []


def _is_whole(work: Unfinished, place: Path) -> bool:
    """Whether in this folder is what was written there, and nothing else."""
    sealed = _noted(work).get(place.name)
    there = {path.relative_to(work.folder).as_posix() for path in place.iterdir()}
    return isinstance(sealed, dict) and there == set(sealed) and work.holds(sealed)


def _tidy(work: Unfinished) -> None:
    """Take away what is not whole. Noted also where nothing is there: else nobody could tell that from what was lost."""
    sound = [place for place in _kept(work) if _is_whole(work, place)]
    for place in set(_kept(work)) - set(sound):
        shutil.rmtree(place)
    work.note({"kept": {place.name: _noted(work)[place.name] for place in sound}})


def whole(work: Unfinished) -> bool:
    """Whether all that `make` has left there is there, and is what it was."""
    kept = _kept(work)
    return "kept" in work.progress and {p.name for p in kept} == set(_noted(work)) and all(_is_whole(work, p) for p in kept)


def gather(works: Iterable[Unfinished], run: Path) -> None:
    """Write the tables and pictures of a run (whose table `samples` is there), from what `make` has left in these folders. Raises
    BadRun for one that is not whole."""
    works = list(works)
    if lost := [work.folder for work in works if not whole(work)]:
        raise BadRun(f"{lost[0].parent.name}/{lost[0].name} is missing or damaged; the same command makes it again")
    order = {name: k for k, name in enumerate(pl.read_parquet(run / "samples.parquet")["sample"])}
    kept = sorted((place for work in works for place in _kept(work)), key=lambda p: p.name)
    for name in TABLES:
        frames = [pl.read_parquet(p / f"{name}.parquet") for p in kept if (p / f"{name}.parquet").exists()]
        table = pl.concat([pl.DataFrame(schema=store.TABLES[name]), *frames])
        if name == "unit_writes":
            table = table.unique(["layer", "unit"]).sort("layer", "unit")
        else:
            table = table.sort(pl.col("sample").replace_strict(order, return_dtype=pl.Int64), maintain_order=True)
        store.write_frame(run, name, [table])
    for picture in (picture for p in kept for picture in sorted(p.iterdir()) if picture.suffix in (".png", ".svg")):
        store.write(run / "maps" / picture.name, picture.read_bytes())
