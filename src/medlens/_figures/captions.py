"""What each figure shows, in words that can stand below it: n, intervals, source, and the file of its rows."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import polars as pl

from medlens import store
from medlens._figures.figure import Figure
from medlens._figures.style import Drawn

MARKS = {  # what a line is that has no words of its own in the picture, or one word alone: column and value of its rows
    ("variant", "normed"): "Hollow diamond: the last state after the final norm.",
    ("protocol", "null: pairs"): "Grey, pairs: the same where whole images are permuted, so that there is nothing to be found.",
    ("protocol", "null: weights"): "Grey, weights: the same of a model of random weights.",
    ("protocol", "null: noise"): "Grey, noise: the same of noise in the place of the images.",
}
COUNTS = {"n": "n", "images": "images"}  # columns that say how many, and what of


def captions(run: store.Run, figures: Sequence[Figure], sizes: Sequence[Drawn]) -> str:
    """One paragraph a figure, in the order of the files. What comes from data or model is escaped."""
    parts = [f"# Figures of {_plain(_subject(run.manifest))}\n"]
    for number, (figure, size) in enumerate(zip(figures, sizes, strict=True), 1):
        told = [f"**Figure {number}. {_plain(figure.title)}.**", _plain(figure.meaning), _panels(figure)]
        told += [*_marks(figure.rows), _counted(figure.rows)]
        told += [_plain(f"{figure.interval}.") if figure.interval else "No intervals."]
        told += [f"Source of the method: {_plain(figure.source)}."] if figure.source else []
        made = f"{size.width:.0f} mm wide, {size.height:.0f} mm high, letters of {size.letters:.1f} points"
        parts.append(f"{' '.join(filter(None, told))}\n\nFiles: `{figure.name}.*` ({made}); its rows: `{figure.name}.csv`.\n")
    return "\n".join(parts)


def _subject(manifest: dict[str, Any]) -> str:
    """Model and data, or model and sample."""
    if isinstance(manifest["model"], str):
        return f"{manifest['model']}, sample {manifest['sample'] or 'of your own'}"
    return f"{manifest['model']['name']} on {manifest['data']['name']}"


def _panels(figure: Figure) -> str:
    if len(figure.panels) < 2:
        return _plain(f"Of {name}.") if (name := "".join(figure.panels)) else ""
    letters = zip("abcdefghijklmnopqrstuvwxyz", figure.panels, strict=False)
    return _plain("; ".join(f"{letter}, {name}" for letter, name in letters) + ".")


def _marks(rows: pl.DataFrame) -> list[str]:
    """What those lines are that the picture does not name in full; and of one that is not to be seen, why."""
    if not {"panel", "variant", "protocol"} <= set(rows.columns):
        return []
    return [words for (column, value), words in MARKS.items() if rows.filter(pl.col(column) == value).height] + _hidden(rows)


def _hidden(rows: pl.DataFrame) -> list[str]:
    """Where no activation is massive, a line without them lies below the one with them."""
    at = ["panel", "protocol", "measure", "tokens", "group", "layer"]
    both = rows.filter(variant="without massive").join(rows.filter(variant="raw").unique(at), on=at)
    return ["No activation was massive: the dashed line lies below the thick one."] * (
        both.height > 0 and both["value"].eq_missing(both["value_right"]).all()
    )


def _counted(rows: pl.DataFrame) -> str:
    """How many rows, samples or images the drawn values stand on: "n = 40 to 900, 12 images"."""
    found = []
    for column, word in COUNTS.items():
        known = rows[column].drop_nulls() if column in rows.columns else pl.Series([], dtype=pl.Int64)
        if known.len():
            low, high = known.min(), known.max()
            span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            found.append(f"n = {span}" if word == "n" else f"{span} {word}")
    return f"{', '.join(found)}." if found else ""


def _plain(words: str) -> str:
    """As text of a markdown page: neither tags nor marks of its own."""
    escaped = html.escape(" ".join(words.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]#|!" else letter for letter in escaped)
