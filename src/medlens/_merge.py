"""Shares that know nothing of each other (`--shard 3/16`, a job array), and what merges them: `medlens merge`.

Each leaves a folder `NAME.shards/3-of-16` with its answers, its parts (see `_share`) and, when it is done, its manifest.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medlens import _record, _views, _words, claims, store
from medlens._forecast import Forecast, foresee
from medlens._instruments import instruments_for
from medlens._nulls import refuse_walked_nulls
from medlens._prepare import Nobody, Prepared, Watcher, prepare
from medlens._share import Share, part_of, read_part, write_share
from medlens.budget import Meter
from medlens.errors import BadInput, BadRun
from medlens.models import Model
from medlens.plan import Plan
from medlens.report import write_report
from medlens.types import Sample
from medlens.unfinished import Unfinished, check_identity, explained, locked, writing
from medlens.walk.cases import cases
from medlens.walk.layout import Layout
from medlens.walk.subgroups import refuse_subgroups

VIEWS = "views"  # of a share: what was found at single samples
RANKS = (("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"), ("RANK", "WORLD_SIZE", ""))


def study_shard(
    model: Model | str | Path,
    samples: Sequence[Sample] | str | Path,
    plan: Plan,
    out: str | Path,
    shard: str,
    *,
    watcher: Watcher | None = None,
) -> Path:
    """Do one share of a study: "3/16", or "env" for what a job array says of itself. Returns its folder; after all, `merge`.

    The same share again goes on where it was. Raises what `study` raises.
    """
    number, of = shard_of(shard)
    refuse_walked_nulls(plan)
    refuse_subgroups(plan.by)
    out, watcher = Path(out), watcher or Nobody()
    store.check_place(out)
    folder = out.absolute().with_name(f"{out.name}.shards") / f"{number}-of-{of}"
    with Meter() as meter, explained(out):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            prepared = prepare(model, samples, plan, watcher, folder)
            check_identity(folder, prepared.identity)
            if not _done(folder, prepared.model.depth):
                laid = cases(prepared.model, prepared.prompts)
                besides = _views.walks(prepared.model, plan, prepared.prompts)
                forecast = foresee(prepared.model, prepared.intake, prepared.prompts, laid, plan, besides)
                watcher.planned(forecast)
                _do(prepared, number, of, folder, watcher)
                said = prepared.manifest(prepared.identity, {}, meter.peak)
                store.write_manifest(folder, said | _told(prepared, number, of, forecast))
    return folder


def _done(folder: Path, depth: int) -> bool:
    """Whether a share is, and nothing of it was lost or deleted since."""
    parts = all(part_of(folder, block).exists() for block in range(depth + 1))
    return (folder / "manifest.json").exists() and parts and _views.whole(_views_of(folder))


def _views_of(folder: Path) -> Unfinished:
    return Unfinished(folder / VIEWS, folder / VIEWS)


def shard_of(shard: str) -> tuple[int, int]:
    """Number (from 1) and count of "3/16"; of "env", by the environment of a SLURM array or of a launcher that sets RANK."""
    if shard == "env":
        for rank, size, first in RANKS:
            with suppress(KeyError, ValueError):
                return int(os.environ[rank]) - int(os.environ.get(first, "0")) + 1, int(os.environ[size])
        raise BadInput("--shard env: neither SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT nor RANK and WORLD_SIZE are set")
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise BadInput(f"--shard is NUMBER/COUNT, such as 3/16, or env; got {shard!r}")
    return int(found[1]), int(found[2])


def _do(prepared: Prepared, number: int, of: int, folder: Path, watcher: Watcher) -> None:
    share = Share(prepared, number - 1, of, folder)
    begun = next(b for b in range(prepared.model.depth + 2) if not part_of(folder, b).exists())
    watcher.begin("this share", len(share.prompts) * (1 + prepared.model.depth))
    if begun <= prepared.model.depth:
        write_share(share, begun, watcher.tick)
    answers, told = share.answers(lambda: None)
    model, plan = prepared.model, prepared.plan
    (folder / VIEWS).mkdir(exist_ok=True)
    _views.make(model, plan, _views.chosen(model, plan, prepared.prompts), told, _views_of(folder), watcher)
    said = dict(zip((prompt.sample.id for prompt in share.prompts), answers, strict=True))
    _record.write_tables(folder, prepared.intake, [said.get(sample.id) for sample in prepared.intake.samples])


def _told(prepared: Prepared, number: int, of: int, forecast: Forecast) -> dict[str, Any]:
    """What the manifest of a share says beside what all say."""
    command = _record.command_line(prepared.model.name, prepared.data_name, prepared.plan)
    return {"share": [number, of], "command": command, "forecast": forecast.as_dict()}


def merge(out: str | Path, *, watcher: Watcher | None = None) -> store.Run:
    """Merge the shares of a study, all of them done, into the run `out`. Neither model nor data are needed. The shares stay.

    Raises BadRun for one that is missing, unfinished, or of another study.
    """
    out, watcher = Path(out), watcher or Nobody()
    folders, manifest = _shares(out.absolute().with_name(f"{out.name}.shards"))
    if (done := store.finished(out, manifest["identity"])) is not None:
        return done
    plan, depth = Plan.from_dict(manifest["plan"]), manifest["model"]["blocks"]
    reading = instruments_for(plan, Layout(plan.folds))
    watcher.begin("merging", (depth + 1) * len(folders))
    for block in range(depth + 1):
        for folder in folders:
            reading.take(read_part(folder, block))
            watcher.tick()
        (reading.leave if block < depth else reading.conclude)(block)
    with writing(out) as place:
        shutil.copytree(folders[0] / "pictures", place / "pictures")
        shutil.copy(folders[0] / "samples.parquet", place)
        _record.write_findings(place, reading.findings)
        store.write_table(place, "answers", _answers(folders))
        _views.gather(map(_views_of, folders), place)
        store.write_manifest(place, {k: v for k, v in manifest.items() if k != "share"} | {"shares": len(folders), "seconds": {}})
        _words.write(place)
        claims.write(place)
        write_report(place)
    return store.open_run(out)


def _shares(parent: Path) -> tuple[list[Path], dict[str, Any]]:
    """The folders of all shares in order, and the manifest of the first."""
    found = sorted(parent.glob("*-of-*"), key=lambda folder: int(folder.name.partition("-")[0]))
    if not found:
        raise BadRun(f"{parent.name} holds no shares; make them with medlens study --shard 1/4, 2/4, ... and the same --out")
    of = int(found[0].name.rpartition("-")[2])
    for number in range(1, of + 1):
        if not (parent / f"{number}-of-{of}" / "manifest.json").exists():
            raise BadRun(f"share {number} of {of} is not done: medlens study ... --shard {number}/{of}")
    manifests = [store.open_run(folder).manifest for folder in found]
    for folder, manifest in zip(found, manifests, strict=True):
        _check_same(folder, manifest, manifests[0], of)
    return found, manifests[0]


def _check_same(folder: Path, manifest: Mapping[str, Any], first: Mapping[str, Any], of: int) -> None:
    other = [what for what, value in first["identity"].items() if manifest["identity"].get(what) != value]
    if other or manifest["share"][1] != of:
        why = f"{' and '.join(other)} differ" if other else "it is one of another number of shares"
        raise BadRun(f"{folder.name} is a share of another study ({why}); delete it, or make it again")


def _answers(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Of all shares, in the order of the samples."""
    runs = [store.open_run(folder) for folder in folders]
    said = {a["sample"]: a for run in runs for a in run.answers.to_dicts()}
    asked = runs[0].samples["sample"].to_list()
    return [said[sample] for sample in asked if sample in said]
