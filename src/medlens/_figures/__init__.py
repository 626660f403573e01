"""A run's charts as figures for papers and slides, each with the rows it draws, from the store. (The function is `figures`.)"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from medlens import store
from medlens._export import as_csv
from medlens._figures.captions import captions
from medlens._figures.figure import Figure
from medlens._figures.measures import of_study
from medlens._figures.smaller import of_pruned, of_thin
from medlens._figures.style import STYLES, Drawn, Style, drawn, redrawn
from medlens._figures.tables import of_benchmark, of_maps, of_neurons, of_probes, of_reliance
from medlens.errors import BadInput, BadRun
from medlens.report.charts import Chart
from medlens.unfinished import writing

FORMATS = ("pdf", "svg", "png")
LIST = "figures.json"  # of the files of ours in a folder
KINDS = {
    "neurons": of_neurons, "probe": of_probes, "benchmark": of_benchmark, "reliance": of_reliance, "gate": of_maps,
    "prune": of_pruned, "thin": of_thin,
}  # fmt: skip


class FigureFiles(NamedTuple):
    """folder: where they are. captions: the file of what each shows. names: of the figures; the files are `NAME.pdf` and so on."""

    folder: Path
    captions: Path
    names: tuple[str, ...]


def figures(
    run: store.Run | str | Path,
    *,
    style: str = "nature",
    formats: Sequence[str] = FORMATS,
    only: Sequence[str] = (),
    out: str | Path = "figures",
) -> FigureFiles:
    """Write every chart of a run as a figure: `NAME.pdf`, `.svg`, `.png`; beside it `NAME.csv`, exactly the rows that it draws,
    with intervals and n; and `captions.md`.

    style: "nature" (89 mm wide, 183 mm where that is too little; sans-serif letters of 5 to 7 points; PNG of 600 dots an
    inch), or "slides" (each panel a figure of its own, 280 mm wide at most, letters of 14 points and more). Whole or not at all;
    figures that an earlier call has written to `out` are replaced. only: the names of some ("anisotropy"); default: all.

    Raises BadInput for a style, format or name that is none; BadRun for what is no finished run, one without any chart, and a
    folder that holds something else than figures; CannotWrite.
    """
    if style not in STYLES:
        raise BadInput(f"style is {' or '.join(STYLES)}; got {style!r}")
    if wrong := [kind for kind in formats or [""] if kind not in FORMATS]:
        raise BadInput(f"formats are some of {', '.join(FORMATS)}; got {wrong[0]!r}")
    run = run if isinstance(run, store.Run) else store.open_run(run)
    out = Path(out)
    store.check_place(out)
    _check_ours(out)
    there = _by_name(figure for figure in _of(run) if figure.rows.height)
    if not there:
        raise BadRun(f"{run.path.name} has no charts: nothing was measured that one could draw")
    if unknown := [name for name in only if name not in there]:
        raise BadInput(f"{run.path.name} has no figure {unknown[0]!r}; it has {', '.join(there)}")
    found = [one for name in only or there for one in _apart(there[name], STYLES[style])]
    with writing(out) as folder:
        sizes = [_write(folder, figure, STYLES[style], formats) for figure in found]
        store.write(folder / "captions.md", captions(run, found, sizes))
        store.write(folder / LIST, json.dumps(sorted([*(p.name for p in folder.iterdir()), LIST]), indent=1))
        if out.is_dir():
            shutil.rmtree(out)
    return FigureFiles(out, out / "captions.md", tuple(figure.name for figure in found))


def _of(run: store.Run) -> Iterator[Figure]:
    for key, make in KINDS.items():
        if key in run.manifest:
            return make(run)
    return of_study(run)


def _by_name(found: Iterable[Figure]) -> dict[str, Figure]:
    """Names are of files: of two that no file system need tell apart ("by-Organ", "by-organ"), the second has a number."""
    named: dict[str, Figure] = {}
    for figure in found:
        taken, name, number = {name.casefold() for name in named}, figure.name, 1
        while name.casefold() in taken:
            number += 1
            name = f"{figure.name}-{number}"
        named[name] = replace(figure, name=name)
    return named


def _apart(figure: Figure, style: Style) -> list[Figure]:
    """On a slide each panel is a figure."""
    if not style.apart or len(figure.panels) < 2:
        return [figure]
    return [figure.only(panel) for panel in figure.panels]


def _write(folder: Path, figure: Figure, style: Style, formats: Sequence[str]) -> Drawn:
    picture = redrawn(figure.svg, style) if figure.svg else drawn(_together(figure), style)
    for kind in dict.fromkeys(formats):
        store.write(folder / f"{figure.name}.{kind}", picture.bytes_of(kind, style.dots))
    store.write(folder / f"{figure.name}.csv", as_csv(figure.rows))
    return picture


def _together(figure: Figure) -> Chart:
    """Panels side by side, two a row, with a letter each."""
    if len(figure.panels) == 1:
        ((name, chart),) = figure.panels.items()
        return {**chart, **({"title": name} if name else {})}
    named = zip("abcdefghijklmnopqrstuvwxyz", figure.panels.items(), strict=False)
    panels = [{**chart, "title": f"{letter}\u2002{name}"} for letter, (name, chart) in named]
    return {"concat": panels, "columns": 2, "spacing": 30, "resolve": {"scale": {"color": "independent"}}}


def _check_ours(out: Path) -> None:
    """Raise BadRun where a folder holds a file that is not of an earlier call."""
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    try:
        listed = json.loads((out / LIST).read_text(encoding="utf-8")) if LIST in there else []
    except ValueError:
        listed = []
    if others := sorted(there - set(listed)):
        raise BadRun(f"{out} is there already and holds something else than figures ({others[0]}); choose another --out")
