"""What a lens has read of one sample: words of every token at every state, and how the answer comes about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from PIL import Image

from medlens import lens_page
from medlens.errors import BadInput
from medlens.types import Tokens

WORDS = {
    **dict.fromkeys(("sample", "image"), pl.String),
    "layer": pl.Int32,  # the state
    "variant": pl.String,  # "raw"; of the last one "normed"; "values": of what block `layer` hands on
    "position": pl.Int32,  # in the prompt
    "token": pl.String,  # its text; "" for places of an image
    "tokens": pl.String,  # its group
    "patch": pl.Int32,  # index in the image's grid, row by row; null for others, and where there is no one grid
    "words": pl.List(pl.String),  # likeliest first, as the tokenizer writes them
    "p": pl.List(pl.Float64),
    "entropy": pl.Float64,  # nats
}
DECISIONS = {
    "sample": pl.String,
    "layer": pl.Int32,
    "variant": pl.String,
    "word": pl.String,
    "p": pl.Float64,
    "rank": pl.Int64,  # 1: the likeliest
    "log_odds": pl.Float64,
    "kl": pl.Float64,  # to the model's own words, nats
}
RIVALS = {"layer": pl.Int32, "word": pl.String, "p": pl.Float64}


class Grid(NamedTuple):
    """The image's tokens lie in rows and columns, row by row."""

    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class LensReading:
    """What a lens read of one sample.

    lens: "logit", "tuned" or "value". answer: the model's, or (given) the one that was asked for. target: the word whose way is
    followed, at the position that predicts the answer. states: those whose words were read (of a value lens: blocks). depth: L.
    grid: of the image's tokens, or None and `why_no_grid`. picture: what the model sees where there is a grid, else the first image
    as it is, or none.

    words: one line for each token and state read (see `WORDS`). decisions: one line for each of the states 0 .. L, at the position
    that predicts the answer (see `DECISIONS`). rivals: the probability of the other words that are likeliest in the end (`RIVALS`).
    """

    model: str
    lens: str
    sample: str
    question: str
    answer: str
    given: bool
    target: str
    predicting: int
    depth: int
    states: tuple[int, ...]
    tokens: Tokens
    grid: Grid | None
    why_no_grid: str
    picture: Image.Image | None
    words: pl.DataFrame
    decisions: pl.DataFrame
    rivals: pl.DataFrame

    def __repr__(self) -> str:
        return f"LensReading({self.model}, sample {self.sample}: {self.answer!r}, states {self.states[0]} to {self.states[-1]})"

    @cached_property
    def patches(self) -> pl.DataFrame:
        """The lines of `words` that are of the image, in the order of state and position."""
        return self.words.filter(pl.col("tokens") == "image").sort("layer", "position")

    @property
    def changing_patch(self) -> int:
        """The image token whose likeliest word's probability differs most between two of the states, counted from 0."""
        surest = self.patches.select("position", pl.col("p").list.first())
        spread = surest.group_by("position", maintain_order=True).agg(pl.col("p").max() - pl.col("p").min())
        return int(spread["p"].arg_max() or 0)

    def patch_at(self, row: int, column: int) -> int:
        """The number of the image token there. Raises BadInput outside the grid, and where there is none."""
        if self.grid is None:
            raise BadInput(f"patches of {self.sample or 'this sample'} have no row and column: {self.why_no_grid}")
        rows, columns = self.grid
        if not (0 <= row < rows and 0 <= column < columns):
            raise BadInput(f"the image's tokens are {rows} rows of {columns}, counted from 0; got patch {row},{column}")
        return row * columns + column

    def to_dict(self) -> dict[str, Any]:
        """All of it but the picture, as plain values."""
        said = {name: getattr(self, name) for name in ("model", "lens", "sample", "question", "answer", "given", "target")}
        where = {"predicting": self.predicting, "depth": self.depth, "states": list(self.states), "why_no_grid": self.why_no_grid}
        tables = {name: getattr(self, name).to_dicts() for name in ("words", "decisions", "rivals")}
        return said | where | {"grid": self.grid and list(self.grid)} | tables

    def write(self, out: str | Path, patch: tuple[int, int] | None = None) -> Path:
        """Write the page (`index.html`), its pictures and `lens.json` to a folder, which is new or holds such a page. Returns the
        page's path. patch: (row, column) of the one that is shown through the states; default: `changing_patch`. Raises BadInput
        for a patch that is none, CannotWrite, and BadRun where something else is there."""
        number = self.patch_at(*patch) if patch else self.changing_patch if self.patches.height else None
        return lens_page.write(Path(out), self, number, json.dumps(self.to_dict(), ensure_ascii=False))
