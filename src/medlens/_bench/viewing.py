"""What the viewer sends of one sample of LLaVA-Med's size: its first screen, and a block of it that is asked for later."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from PIL import Image

from medlens import store
from medlens._bench.turns import Job, Table, Turns
from medlens.viewer.data import open_shown, piece

SIDE = 336  # pixels of the picture
LIKELIEST, STRONGEST, WRITTEN = 10, 5, 8  # words of a token, units at a token, words of a unit: as many as a study keeps
SMALLEST = 1e-6  # logits span some ten units


class Size(NamedTuple):
    """Of a model and its prompts: patches are grid x grid."""

    blocks: int = 32
    grid: int = 24
    text: int = 60
    units: int = 14336
    vocabulary: int = 32000

    @property
    def positions(self) -> int:
        return self.grid**2 + self.text


PATCHES = Size().grid ** 2


def section(turns: Turns) -> str:
    first, block = turns(Job("viewing", "first_screen"), Job("viewing", "one_block"))
    table = Table(turns, "ms", "what", "kB")
    for result, what in ((first, "first screen"), (block, "each block, when it is looked at")):
        size = "–" if result.why else format(result.more["bytes"] / 1000, ".0f")
        table.add(result.why or format(1000 * result.seconds, ".0f"), what, size)
    return f"## A sample in the viewer\n\n{ABOUT}\n\n{table}"


ABOUT = f"""What the viewer makes of a sample as large as LLaVA-Med's ({PATCHES} patches, {Size().text} other tokens,
{Size().blocks} blocks) from the run's tables, which have been read before, and how much it sends. Numbers, words and units
are drawn at random: nothing repeats, and nothing is harder to pack."""


def first_screen() -> Callable[[], dict[str, int]]:
    return _sent("index", "0/sample/0", f"0/sample/0/block/{Size().blocks - 1}")


def one_block() -> Callable[[], dict[str, int]]:
    return _sent(f"0/sample/0/block/{Size().blocks // 2}")


def _sent(*paths: str) -> Callable[[], dict[str, int]]:
    folder = tempfile.TemporaryDirectory()
    shown = open_shown(write_run(Path(folder.name) / "run", 2))
    for block in (None, 0):
        shown.payload(1, block)  # tables are read once, whichever sample is asked for

    def run(_kept: object = folder) -> dict[str, int]:
        return {"bytes": sum(len(piece([shown], path) or b"") for path in paths)}

    return run


def write_run(folder: Path, samples: int, size: Size | None = None) -> Path:
    """A run with the tables that the viewer shows token by token, of invented numbers. Returns the folder."""
    size, random = size or Size(), np.random.default_rng(0)
    names = [f"s{k:02d}" for k in range(samples)]
    store.write_manifest(folder, {"model": {"name": "invented", "blocks": size.blocks}, "created": "never"})
    (folder / "pictures").mkdir()
    grey = Image.fromarray(random.integers(0, 255, (SIDE, SIDE), dtype=np.uint8))
    grey.save(folder / "pictures" / "0.png")
    about = {"image": "0", "question": "is there a lesion ?", "answer": "yes", "picture": "pictures/0.png"}
    store.write_table(folder, "samples", [{"sample": name, **about} for name in names])
    store.write_table(folder, "answers", [{"sample": name, "answer": "yes", "correct": True} for name in names])
    store.write_table(folder, "decisions", [_decided(name, state, random) for name in names for state in range(size.blocks + 1)])
    placed = [{"sample": name, "token": k, **_box(k, size.grid)} for name in names for k in range(size.grid**2)]
    store.write_table(folder, "places", placed)
    words = pl.Series([f"▁w{k}" for k in range(size.vocabulary)])
    for table, made in (("lens", _lens), ("looks", _looks), ("fires", _fires)):
        store.write_frame(folder, table, [_fitted(table, frame) for name in names for frame in made(name, size, words, random)])
    fired = pl.read_parquet(folder / "fires.parquet").select("layer", unit="units").explode("unit").unique().sort("layer", "unit")
    writes = {way: _lists(words, (fired.height, WRITTEN), random) for way in ("raises", "lowers")}
    store.write_frame(folder, "unit_writes", [_fitted("unit_writes", fired.with_columns(**writes))])
    return folder


def _decided(sample: str, state: int, random: np.random.Generator) -> dict[str, object]:
    odds = float(random.normal())
    return {"sample": sample, "layer": state, "word": "▁yes", "p": 1 / (1 + np.exp(-odds)), "log_odds": odds, "rank": 1 + state % 3}


def _box(k: int, grid: int) -> dict[str, float]:
    row, column = divmod(k, grid)
    return {"left": column / grid, "top": row / grid, "right": (column + 1) / grid, "bottom": (row + 1) / grid}


def _fitted(table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """With the columns by contract; null where there are none."""
    known = {name: pl.col(name) if name in frame.columns else pl.lit(None) for name in store.TABLES[table]}
    return frame.select(column.cast(store.TABLES[table][name]).alias(name) for name, column in known.items())


def _lists(words: pl.Series, shape: tuple[int, int], random: np.random.Generator) -> pl.Series:
    """Words at random, `shape[1]` in a row."""
    drawn = words.gather(random.integers(0, len(words), shape[0] * shape[1]))
    return drawn.reshape((shape[0], shape[1])).arr.to_list()


def _places(sample: str, layer: int, size: Size, first: int = 0) -> pl.DataFrame:
    """Every position from the `first` on: the image behind four tokens, the answer in the end."""
    positions = range(first, size.positions)
    image = range(4, 4 + size.grid**2)
    groups = ["image" if k in image else "answer" if k == size.positions - 1 else "text" for k in positions]
    texts = ["" if k in image else f"▁t{k}" for k in positions]
    patches = [k - 4 if k in image else None for k in positions]
    about = {"position": list(positions), "token": texts, "tokens": groups, "patch": patches}
    return pl.DataFrame(about).with_columns(sample=pl.lit(sample), layer=pl.lit(layer))


def _lens(sample: str, size: Size, words: pl.Series, random: np.random.Generator) -> Iterator[pl.DataFrame]:
    for state in range(size.blocks + 1):
        p = np.sort(random.uniform(SMALLEST, 1, (size.positions, LIKELIEST)) / LIKELIEST)[:, ::-1]
        yield _places(sample, state, size).with_columns(
            words=_lists(words, (size.positions, LIKELIEST), random), p=pl.Series(p.tolist()), entropy=pl.lit(1.0)
        )


def _looks(sample: str, size: Size, _words: pl.Series, random: np.random.Generator) -> Iterator[pl.DataFrame]:
    behind = 4 + size.grid**2
    for block in range(size.blocks):
        shares = random.exponential(size=(size.positions - behind, size.grid**2)) ** 2
        weights = 0.3 * shares / shares.sum(1, keepdims=True)
        yield _places(sample, block, size, behind).with_columns(weights=pl.Series(weights.tolist()), sinks=pl.lit([7, 100]))


def _fires(sample: str, size: Size, _words: pl.Series, random: np.random.Generator) -> Iterator[pl.DataFrame]:
    for block in range(size.blocks):
        units = random.integers(0, size.units, (size.positions, STRONGEST))
        activations = random.normal(size=units.shape)
        yield _places(sample, block, size).with_columns(
            units=pl.Series(units.tolist()), activations=pl.Series(activations.tolist())
        )
