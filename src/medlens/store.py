"""The run: a folder with a manifest, parquet tables and pictures. (How it comes to be: `unfinished`.)"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from medlens import display
from medlens.errors import BadRun, CannotWrite, OldRun
from medlens.manifest import Told, read_manifest
from medlens.picture import opened, within
from medlens.tables import TABLES as TABLES

STATES = "states.safetensors"  # a few rows of every state
STRIP, THUMBNAIL = 8, 72  # pictures that a run shows of itself, and their pixels
FORMAT = 1  # of the folder's layout; a reader refuses another


def _table(name: str, words: str) -> cached_property[pl.DataFrame]:
    """A table of a run, read when it is first asked for."""

    def read(run: Run) -> pl.DataFrame:
        return _read(run, name)

    read.__doc__ = words
    return cached_property(read)


def _read(run: Run, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    path = run.path / f"{name}.parquet"
    try:
        schema, frame = pl.read_parquet_schema(path), pl.read_parquet(path, columns=columns if columns is None else list(columns))
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as e:
        raise BadRun(f"{path} is missing or damaged") from e
    for column, kind in TABLES[name].items():
        if column not in schema:
            raise OldRun(f"{path} has no column {column}: an older medlens wrote it; repeat the run with this one")
        if schema[column] != kind:
            raise OldRun(f"{path}: column {column} is of another type than a run's; repeat the run")
    for column in frame.select(pl.col(pl.Int32, pl.Int64)).iter_columns():  # counts and places, all of them
        if (least := column.min()) is not None and least < 0:  # pyright: ignore[reportOperatorIssue]
            raise BadRun(f"{path} is damaged: {column.name} is {least}")
    return frame


class Run:
    """A finished study. Tables are polars frames (`.to_pandas()` if you prefer): `rows`, `samples`, `answers`; see `TABLES`."""

    rows = _table("rows", "One measured value a row.")
    left_out = _table("left_out", "Rows once more without each fold of whole images: what their intervals stand on.")
    massive = _table("massive", "Massive activations, one a row.")
    lens = _table("lens", "The words of every token of a few samples, at every state.")
    lens_words = _table(
        "lens_words", "The words that stand first most often at the image's tokens of each state, with intervals and nulls."
    )
    decisions = _table("decisions", "How likely the answer's first word is at every state, for each sample.")
    occurrence = _table("occurrence", "Words that the strongest units of an image's tokens write, one a row.")
    unit_words = _table("unit_words", "The most frequent of these over all images, with intervals and nulls.")
    neurons = _table("neurons", "Units ranked for words, one a row.")
    effects = _table("effects", "What changing units does, one change a row.")
    cards = _table("cards", "Single units, looked at.")
    checks = _table("checks", "The report cards of maps.")
    leaderboard = _table("leaderboard", "Methods of attribution by how well they lie on what is there.")
    layers = _table("layers", "The same of methods that are read at a block, at every block.")
    maps = _table("maps", "What each image token says for what was explained, and where it lies.")
    trust = _table("trust", "The maps, one a row, with the verdict of their report cards.")
    looks = _table("looks", "Where each token of a few samples looks, block by block.")
    fires = _table("fires", "Which units write most at each token of a few samples.")
    places = _table("places", "Where the image tokens of a few samples lie on their images.")
    unit_writes = _table("unit_writes", "The words that these units raise and lower.")
    flow = _table("flow", "What blocked attention costs, one path and window a row.")
    reliance = _table("reliance", "What swapping its image did to each answer, one swap a row.")
    gates = _table("gates", "Whether each answer rests on its image.")
    reliance_by = _table("reliance_by", "Both, by question type, organ, modality.")
    changes = _table("changes", "What became of each answer when image or words were changed.")
    consistency = _table("consistency", "Share of answers that contradict themselves, by kind of change and question type.")
    calibration = _table("calibration", "How sure the model is, held against how often it is right.")
    confidence = _table("confidence", "What abstaining buys: accuracy at each coverage.")
    importance = _table("importance", "How much each block does, by several rules.")
    pruned = _table("pruned", "What a model keeps without some of its blocks, one choice a row.")
    shortcuts = _table("shortcuts", "Whether answers follow what is written on the image, by type of question.")
    heads = _table("heads", "Attention heads, patched, one a row.")
    thinned = _table("thinned", "Answers kept when image tokens or units go.")
    claims = _table("claims", "Verdicts on claims, one a line.")
    samples = _table("samples", "What was asked.")
    answers = _table("answers", "What was answered.")

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        """One line, of any command's run: the model, its samples, and the first table that is its own."""
        heights = {name: height for name, height in self._heights().items() if height}
        own = next((name for name in heights if name not in ("samples", "answers")), None)
        told = [f"{heights[name]} {name.replace('_', ' ')}" for name in ("samples", own) if name in heights]
        return f"Run({str(self.path)!r}: {', '.join([self._model, *told])})"

    @property
    def _model(self) -> str:
        """Its name: all that a run of `medlens explain` says of it."""
        model = self.manifest.get("model")
        return str(model["name"] if isinstance(model, dict) else model)

    def _heights(self) -> dict[str, int]:
        """Of each table that is there its rows, without reading them. Raises BadRun."""
        found = {}
        for path in (self.path / f"{name}.parquet" for name in TABLES):
            try:
                if path.is_file():
                    found[path.stem] = pl.scan_parquet(path).select(pl.len()).collect().item()
            except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as e:
                raise BadRun(f"{path} is damaged") from e
        return found

    def columns(self, table: str, *names: str) -> pl.DataFrame:
        """Some columns of a table, without reading the others."""
        return _read(self, table, names)

    @cached_property
    def manifest(self) -> Told:
        """Plan, model, data, versions, machine, timings. What it does not say is BadRun to ask for."""
        try:
            told = read_manifest((self.path / "manifest.json").read_text(encoding="utf-8"))
        except OSError as e:
            raise BadRun(f"{self.path} is not a run: it holds no manifest.json that can be read") from e
        except ValueError as e:
            raise BadRun(f"{self.path}/manifest.json is damaged: {e}") from e
        if (got := told.get("format")) != FORMAT:
            raise BadRun(f"{self.path} is a run of format {got}; this medlens reads format {FORMAT}: repeat the study")
        return told

    def _repr_html_(self) -> str:
        """For a notebook: what was studied, tables with their heights, where the report is, the first pictures."""
        heights, data = self._heights(), self.manifest.get("data")
        if data is None:  # of `medlens explain`: maps of one sample
            title = f"{self._model}, sample {self.manifest.get('sample') or 'of your own'}"
            told = {name: self.manifest.get(name) for name in ("question", "answer")}
        else:
            title = f"{self._model} on {data['name']}"
            blocks = self.manifest["model"].get("blocks")
            told = {"questions": data.get("samples"), "images": data.get("images"), "blocks": blocks}
        told["tables"] = ", ".join(f"{name} ({height:,})" for name, height in heights.items() if height)
        told["report"] = self._beside() if self.report.is_file() else None
        return display.card(title, told, self._pictures(heights))

    def _beside(self) -> str:
        """The report's place as seen from here; of a run elsewhere its folder's name alone."""
        place, here = self.report.resolve(), Path.cwd().resolve()
        return str(place.relative_to(here) if place.is_relative_to(here) else Path(self.path.name) / self.report.name)

    def _pictures(self, heights: Mapping[str, int]) -> list[tuple[Image.Image | None, str]]:
        """The first few, small."""
        if not heights.get("samples"):
            return []
        found = []
        for name in self.samples["picture"].drop_nulls().unique(maintain_order=True).head(STRIP):
            if (path := within(self.path, name)) is not None:
                with opened(path, f"the run's picture {name}") as image:
                    image.thumbnail((THUMBNAIL, THUMBNAIL))
                    found.append((image.convert("RGB"), ""))
        return found

    @property
    def report(self) -> Path:
        """The report: one HTML file that needs nothing else."""
        return self.path / "report.html"


def open_run(path: str | Path) -> Run:
    """Open a run folder. Raises BadRun where it is none, is not finished, is damaged, or is of another format."""
    run = Run(Path(path))
    name = run.path.absolute().name.removesuffix(".part")
    if run.path.absolute().with_name(f"{name}.part").is_dir() and not (run.path / "manifest.json").is_file():
        raise BadRun(f"{name} is unfinished: repeat the command that began it, and it goes on from there")
    _ = run.manifest
    return run


def check_place(out: Path, what: str = "--out") -> None:
    """Raise CannotWrite if nothing can be written at `out`: said before the work, not after it."""
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not there.is_dir():
        raise CannotWrite(f"{out} cannot be a folder: {there.name} is a file; choose another {what}")
    if not os.access(there, os.W_OK):
        raise CannotWrite(f"{out} cannot be written: no permission, or a read-only file system; choose another {what}")


def finished(out: Path, identity: Mapping[str, str]) -> Run | None:
    """The run at `out` if this very study is there already; None if the place is free. Raises BadRun for anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "manifest.json").is_file():
        raise BadRun(f"{out} is there already and is not a run; choose another --out")
    run = open_run(out)
    found = run.manifest.get("identity", {})
    if other := [what for what in identity if found.get(what) != identity[what]]:
        raise BadRun(f"{out} holds another study ({' and '.join(other)} differ); choose another --out, or delete it")
    return run


def write(path: Path, content: str | bytes) -> None:
    """Write a file of a run whole, and make sure that it reached the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def write_table(folder: Path, name: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records as the table `name`, with its columns by contract."""
    write_frame(folder, name, [pl.DataFrame(list(records), schema=TABLES[name])])


def write_frame(folder: Path, name: str, frames: Sequence[pl.DataFrame]) -> None:
    """Write frames, one below the other, as the table `name`."""
    buffer = BytesIO()  # through memory, so that a full disk is an OSError of ours and not a panic of the writer's
    pl.concat([pl.DataFrame(schema=TABLES[name]), *frames]).write_parquet(buffer)
    write(folder / f"{name}.parquet", buffer.getvalue())


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest; `format` is added."""
    write(folder / "manifest.json", json.dumps({"format": FORMAT, **manifest}, indent=2, ensure_ascii=False) + "\n")
