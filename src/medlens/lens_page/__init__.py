"""The lens's page of one sample: an HTML file that needs nothing else and no scripts, its pictures, and the numbers beside it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from medlens import store
from medlens.errors import BadRun
from medlens.lens_page import pictures
from medlens.pages import environment
from medlens.report.charts import as_files, as_svg
from medlens.svg import as_png, colour, data_of, ink, plain, short
from medlens.unfinished import writing

if TYPE_CHECKING:
    from medlens.lens_reading import LensReading

OURS = re.compile(r"index\.html|lens\.json|answer\.(png|svg)|tokens\.png|patches-\d+\.png|patch-\d+(-\d+)?\.png")


def write(out: Path, reading: LensReading, number: int | None, numbers: str) -> Path:
    """Write the page and what belongs to it to `out`, whole or not at all. number: the image token that is shown state by state.
    numbers: `lens.json`. Raises CannotWrite, and BadRun where something else is there."""
    store.check_place(out)
    old = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if others := [name for name in old if not OURS.fullmatch(name)]:
        raise BadRun(f"{out} is there already and holds something else than a lens's page ({others[0]}); choose another --out")
    files = _files(reading, number)
    with writing(out) as folder:
        for name, content in {**files, "index.html": render(reading, number), "lens.json": numbers}.items():
            store.write(folder / name, content)
        if out.is_dir():
            shutil.rmtree(out)
    return out / "index.html"


def _files(reading: LensReading, number: int | None) -> Mapping[str, str | bytes]:
    files: dict[str, str | bytes] = {f"answer.{kind}": made for kind, made in as_files(pictures.decision(reading)).items()}
    files["tokens.png"] = as_png(pictures.tokens(reading))
    if reading.grid is not None:
        files |= {f"patches-{b:02d}.png": as_png(pictures.patches(reading, b)) for b in reading.states}
    if number is not None:
        at = f"{number}" if reading.grid is None else "{}-{}".format(*divmod(number, reading.grid.columns))
        files[f"patch-{at}.png"] = as_png(pictures.one_patch(reading, number))
    return files


def render(reading: LensReading, number: int | None) -> str:
    """The page. Everything that comes from data or model is escaped."""
    templates = environment(Path(__file__).parent)
    return templates.get_template("lens.html.j2").render(
        reading=reading,
        target=plain(reading.target),
        picture=None if reading.picture is None else data_of(reading.picture),
        stages=[_stage(reading, b) for b in reading.states],
        patch=None if number is None else pictures.one_patch(reading, number),
        unit=pictures.unit(reading),
        place=None if number is None else pictures.place(reading, number),
        answer=as_svg(pictures.decision(reading)),
        tokens=pictures.tokens(reading),
        ramp=", ".join(colour(k / 10) for k in range(11)),
    )


def _stage(reading: LensReading, layer: int) -> dict[str, object]:
    """What is shown of a state: each patch's word with its colours, and all that it might say."""
    lines = reading.patches.filter(pl.col("layer") == layer)
    room = 700 / reading.grid.columns if reading.grid else 200
    patches = [
        {
            "word": short(plain(of.word), room, 12),
            "hint": f"{pictures.at(reading, k)}: {of.hint}",
            "ground": colour(of.level),
            "ink": ink(of.level),
        }
        for k, of in enumerate(pictures.cells_of(lines))
    ]
    return {"layer": layer, "name": pictures.named(reading, layer), "patches": patches}
