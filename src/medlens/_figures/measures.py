"""The figures of a study: of each measure both sides, of its scales, and of subgroups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from medlens import store
from medlens._figures.figure import Figure, with_axis
from medlens._figures.tables import drawn_map
from medlens.report import file_name
from medlens.report.charts import side_by_side
from medlens.report.figures import Figures
from medlens.report.first import there
from medlens.report.lines import BLACK, NULLS, PALETTE, SIDES, VARIANTS, Line, frame_of, main_protocol
from medlens.report.readings import READINGS, SCALES, Reading
from medlens.report.subgroups import MEASURES

Meant = tuple[str, str, str]  # protocol, measure, variant
KEYS = ("protocol", "measure", "tokens", "group", "variant")
COLUMNS = ("panel", "line", *KEYS, "layer", "value", "low", "high", "n", "note")


def of_study(run: store.Run) -> Iterator[Figure]:
    """In the order of the report."""
    figures = Figures(run)
    interval = _interval(run)
    for name in figures.names:
        if charts := figures.charts(name):
            reading = figures.reading(name)
            candidates = figures.rows.filter(pl.col("measure").is_in([name, *reading.behind] if name != "scales" else [*SCALES]))
            main = main_protocol(figures.rows.filter(pl.col("measure") == name))
            rows = []
            for side in charts:
                lines = [(line, _meant(line, name, reading, main)) for line in figures.lines(name)[side]]
                rows.append(_rows(f"{side} tokens", lines, candidates, reading.title))
            panels = {f"{side} tokens": with_axis(chart, reading.title) for side, chart in charts.items()}
            meaning = " ".join(filter(None, (reading.meaning, reading.beware)))
            yield Figure(file_name(name), reading.title, panels, pl.concat(rows), meaning, reading.source, interval)
    yield from _subgroups(run, interval)
    if there(run, "trust") and there(run, "maps"):
        yield from _maps(run)


def _maps(run: store.Run) -> Iterator[Figure]:
    """Of the samples that were looked at, one figure a map."""
    asked = run.trust.join(run.samples.select("sample", "question"), on="sample", how="left", maintain_order="left")
    for said in asked.join(run.answers.select("sample", "answer"), on="sample", how="left", maintain_order="left").to_dicts():
        if said["picture"] is not None:
            picture = Path(said["picture"]).with_suffix(".svg")
            rows = run.maps.filter(pl.col("sample") == said["sample"], pl.col("map") == said["map"])
            yield from drawn_map(run, str(picture), file_name(f"map-{picture.stem}"), rows, said)


def _interval(run: store.Run) -> str:
    if not run.rows["low"].is_finite().any():
        return ""
    unit = "patients" if run.samples["patient"].is_not_null().any() else "images"
    return (
        f"Bands and bars: 95 % jackknife intervals, leaving out {run.manifest['plan']['folds']} folds of whole {unit} one at a time"
    )


def _rows(panel: str, lines: list[tuple[Line, Meant]], candidates: pl.DataFrame, title: str) -> pl.DataFrame:
    """What a panel draws, as the run's own rows: each line is the curve of the table that has its very values; of several, the one
    that is meant, then one of the panel's own tokens."""
    curves = {
        key: curve.filter(pl.col("value").is_finite()).sort("layer")
        for key, curve in candidates.partition_by(list(KEYS), maintain_order=True, as_dict=True).items()
    }
    found, side = [], panel.split()[0]
    for line, told in lines:
        same = [key for key, curve in curves.items() if _same(curve, line)]
        same.sort(key=lambda key: ((key[0], key[1], key[4]) != told, key[2] != side))
        rows = curves[same[0]] if same else line.frame.with_columns(note=pl.lit("published"))
        found.append(_columns(rows.with_columns(panel=pl.lit(panel), line=pl.lit(_named(line, same, side) or title))))
    return pl.concat(found)


def _named(line: Line, keys: list[tuple[Any, ...]], side: str) -> str:
    """What the file calls a line: by its words in the picture; where it has none, by what it is. Empty: the measure itself."""
    _, _, tokens, _, variant = keys[0] if keys else ("", "", side, "", "")
    if tokens != side:  # a single token of the question
        return tokens
    return line.label or line.key or ("after the final norm" if variant == "normed" else "")


def _same(curve: pl.DataFrame, line: Line) -> bool:
    return curve["layer"].to_list() == line.frame["layer"].to_list() and curve["value"].to_list() == line.frame["value"].to_list()


def _meant(line: Line, measure: str, reading: Reading, main: str) -> Meant:
    """Protocol, measure and variant that a line stands for by its words: two curves may have the very same values (no activation
    was massive), and are told apart by these."""
    word = line.label or line.key
    nulls, behind = ({said: name for name, said in words.items()} for words in (NULLS, reading.behind))
    variants = {said: name for name, (_, said) in VARIANTS.items()}
    if word in nulls:
        return nulls[word], measure, "raw"
    if word.startswith("the published study"):
        return "published", measure, "raw"
    return main, behind.get(word, measure), "normed" if line.marks == "diamonds" else variants.get(word, "raw")


def _columns(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of the file; what a published curve does not have is null."""
    kinds = {**store.TABLES["rows"], "panel": pl.String, "line": pl.String}
    return rows.select((pl.col(name) if name in rows.columns else pl.lit(None).alias(name)).cast(kinds[name]) for name in COLUMNS)


def _subgroups(run: store.Run, interval: str) -> Iterator[Figure]:
    """Of each field and measure one line a value, as in the report."""
    raw = run.rows.filter(pl.col("protocol") == "sound", pl.col("variant") == "raw")
    some = raw.filter(pl.col("group") != "all").with_columns(field=pl.col("group").str.split("=").list.first())
    for field in some["field"].unique(maintain_order=True):
        for measure in MEASURES:
            mine = some.filter(pl.col("field") == field, pl.col("measure") == measure)
            whole = raw.filter(pl.col("group") == "all", pl.col("measure") == measure)
            if mine.is_empty():
                continue
            counted = mine.group_by("group", maintain_order=True).agg(pl.col("n").max())
            largest = counted.sort("n", descending=True, maintain_order=True)
            groups = largest["group"].to_list()[: len(PALETTE)]
            sides = {side: _lines(mine, whole, side, groups, field) for side in SIDES}
            reading = READINGS[measure]
            last = int(mine["layer"].max() or 0)  # pyright: ignore[reportArgumentType]
            charts = side_by_side(sides, "block" if reading.of_pairs else "state", last)
            candidates = pl.concat([whole, mine.drop("field")])
            told = ("sound", measure, "raw")
            rows = [_rows(f"{side} tokens", [(line, told) for line in sides[side]], candidates, "all") for side in charts]
            if charts:
                yield Figure(
                    file_name(f"{measure}-by-{field}"), f"{reading.title}, by {field}",
                    {f"{side} tokens": with_axis(chart, reading.title) for side, chart in charts.items()}, pl.concat(rows),
                    f"{reading.meaning} One line for each {field}, the most frequent {len(groups)} of {largest.height}.",
                    reading.source, _not_drawn(interval),
                )  # fmt: skip


def _lines(mine: pl.DataFrame, whole: pl.DataFrame, side: str, groups: list[str], field: str) -> list[Line]:
    of_side = pl.col("tokens") == side
    found = [Line(frame_of(whole.filter(of_side), "sound", "raw"), BLACK, "all", width=2.2)]
    for colour, group in zip(PALETTE, groups, strict=False):
        frame = frame_of(mine.filter(of_side, pl.col("group") == group), "sound", "raw")
        found.append(Line(frame, colour, group.removeprefix(f"{field}="), width=1.3, own=True))
    nothing = pl.lit(None, pl.Float64)  # no band is drawn, so the axis need not make room for one
    return [replace(line, frame=line.frame.with_columns(low=nothing, high=nothing)) for line in found if line.frame.height]


def _not_drawn(interval: str) -> str:
    said = interval.removeprefix("Bands and bars: ")
    return f"Intervals are not drawn, and stand in the file: {said}, corrected for the number of subgroups" if said else ""
