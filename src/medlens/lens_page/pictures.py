"""The lens's pictures of one sample: patches at a state, one patch and all text tokens through the states, the answer's way."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import polars as pl

from medlens.report.charts import Chart
from medlens.report.lines import COLOURS
from medlens.svg import SOFT, Cell, cell, picture, plain, scale, sheet, table, visible

if TYPE_CHECKING:
    from medlens.lens_reading import LensReading

SIDE = 900  # of the image with its patches
BESIDE = 300  # of the plain image beside it
TOP, FOOT = 84, 60
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8a8a8a")  # Okabe-Ito, and grey


def line(reading: LensReading) -> str:
    """Model, sample, lens, question and answer, in one line."""
    question, answer = (visible(w if len(w) <= 60 else w[:59] + "…") for w in (reading.question, reading.answer))
    return visible(f"{reading.model}, sample {reading.sample or 'of your own'}, {reading.lens} lens: “{question}” – “{answer}”")


def named(reading: LensReading, layer: int) -> str:
    """Of a state or block, for a reader."""
    if reading.lens == "value":
        return f"block {layer} of 0 to {reading.depth - 1}"
    said = " (what the model says)" if layer == reading.depth else " (enters the first block)" if not layer else ""
    return f"state {layer} of {reading.depth}{said}"


def verb(reading: LensReading) -> str:
    """What tokens do under this lens."""
    return "hands on" if reading.lens == "value" else "says"


def unit(reading: LensReading) -> str:
    """What layers are under this lens."""
    return "block" if reading.lens == "value" else "state"


def hint(words: list[str], p: list[float]) -> str:
    """The words with their probabilities."""
    return ", ".join(f"{plain(word)} {share:.3f}" for word, share in zip(words, p, strict=True))


def cells_of(lines: pl.DataFrame) -> list[Cell]:
    """Each line's likeliest word, by its probability."""
    return [Cell(words[0], p[0], hint(words, p)) for words, p in lines.select("words", "p").iter_rows()]


def patches(reading: LensReading, layer: int) -> str:
    """The image with the word of each patch at a state: below in each patch, on the colour of its probability."""
    assert reading.grid is not None
    assert reading.picture is not None
    rows, columns = reading.grid
    across = SIDE / max(rows, columns)
    wide, high = across * columns, across * rows
    size = min(across * 0.24, 24)
    bar = size * 1.5
    body = [picture(20, TOP, wide, high, reading.picture)]
    for k, of in enumerate(cells_of(reading.patches.filter(pl.col("layer") == layer))):
        x, y = 20 + k % columns * across, TOP + k // columns * across
        box = f'x="{x:.1f}" y="{y:.1f}" width="{across:.1f}" height="{across:.1f}"'
        body.append(f'<rect {box} fill="none" stroke="#ffffff" stroke-opacity="0.5"/>')
        body.append(cell(x + 1, y + across - bar - 1, across - 2, bar, of, size))
    scaled = BESIDE / max(wide, high)
    body.append(picture(wide + 50, TOP, wide * scaled, high * scaled, reading.picture))
    body.append(scale(20, TOP + high + 16, ("0", "1"), "probability of the word that is likeliest at each patch"))
    title = f"What the patches {'hand on in' if reading.lens == 'value' else 'say at'} {named(reading, layer)}"
    return sheet(wide + BESIDE + 70, TOP + high + FOOT, "".join(body), title, line(reading))


def one_patch(reading: LensReading, number: int) -> str:
    """The words of one image token, likeliest first, at every state; the last one on top."""
    position = reading.tokens.where("image")[number]
    lines = reading.patches.filter(pl.col("position") == position).sort("layer", descending=True)
    cells = [[Cell(w, p) for w, p in zip(words, shares, strict=True)] for words, shares in lines.select("words", "p").iter_rows()]
    rows = [(f"{b}", SOFT) for b in lines["layer"]]
    wide, high, left, count = 130, 36, 60, max(map(len, cells))
    body = table(20, TOP, rows, [f"word {k + 1}" for k in range(count)], cells, wide, high, left)
    foot = TOP + (len(rows) + 1) * high + 14
    body += scale(20 + left, foot, ("0", "1"), f"probability, by {unit(reading)} (last on top)")
    where = place(reading, number)
    return sheet(
        max(40 + left + wide * count, 900),
        foot + FOOT - 10,
        body,
        f"What {where} {verb(reading)}, {unit(reading)} by {unit(reading)}",
        line(reading),
    )


def place(reading: LensReading, number: int) -> str:
    """Of an image token, for a reader."""
    return f"image token {number}" if reading.grid is None else f"the patch at {at(reading, number)}"


def at(reading: LensReading, number: int) -> str:
    """Where an image token lies."""
    return f"{number}" if reading.grid is None else "row {}, column {}".format(*divmod(number, reading.grid.columns))


def tokens(reading: LensReading) -> str:
    """The likeliest word of every token that is not of the image, at every state, by the entropy."""
    others = reading.words.filter(pl.col("tokens") != "image").sort("position", "layer")
    most = max(log(max(vocabulary_seen(others), 2)), float(others["entropy"].max() or 0))  # pyright: ignore[reportArgumentType]
    rows, cells = [], []
    for (position,), lines in others.group_by("position", maintain_order=True):
        mark = " ←" if position == reading.predicting else ""
        rows.append((f"{plain(lines['token'][0])}{mark}", COLOURS[lines["tokens"][0]]))
        shown = lines.select("words", "p", "entropy").iter_rows()
        cells.append([Cell(words[0], 1 - entropy / most, hint(words, p)) for words, p, entropy in shown])
    wide, high, left = 92, 30, 150
    states = [f"{b}" for b in others["layer"].unique().sort()]
    body = table(20, TOP, rows, states, cells, wide, high, left, 14)
    foot = TOP + (len(rows) + 1) * high + 14
    body += scale(20 + left, foot, ("0", f"{most:.1f} nats"), "entropy: 0, it is sure   (←: predicts the answer)", turned=True)
    width = max(40 + left + wide * len(states), 900)
    return sheet(
        width,
        foot + FOOT - 10,
        body,
        f"What each token {verb(reading)}, {unit(reading)} by {unit(reading)}",
        line(reading),
    )


def vocabulary_seen(lines: pl.DataFrame) -> int:
    """How many different words are there: no lower bound of the vocabulary is better known here."""
    return lines["words"].explode().n_unique()


def decision(reading: LensReading) -> Chart:
    """The way of the answer's word through the states: its probability with that of its rivals, its rank, and what is lost by
    stopping there."""
    own = reading.decisions.select("layer", "word", "p")
    every = pl.concat([own, reading.rivals]).with_columns(pl.col("word").map_elements(plain, pl.String))
    words = every["word"].unique(maintain_order=True).to_list()
    colours = {"domain": words, "range": [HUES[k % len(HUES)] for k in range(len(words))]}
    worst = max(reading.decisions["rank"].to_list())
    upto = max(worst, 2)
    ticks = [1, *(t for k in range(7) for t in (2 * 10**k, 5 * 10**k, 10 ** (k + 1)) if t <= upto)]
    ranks = {
        "scale": {"type": "log", "domain": [1, upto], "reverse": True, "nice": False},
        "axis": {"values": ticks, "format": "d"},
    }
    return {
        "title": {
            "text": f"How “{plain(reading.target)}” comes about",
            "subtitle": line(reading),
            "offset": 14,
        },
        "spacing": 16,
        "vconcat": [
            _curve(reading, every, "p", "probability, with that of its rivals", 210, {"scale": {"domain": [0, 1]}}, colours),
            _curve(reading, reading.decisions, "rank", "its rank (1: the likeliest)", 110, ranks),
            _curve(reading, reading.decisions, "kl", "what stopping here loses: KL to the model's own words, nats", 110, {}),
        ],
    }  # fmt: skip


def _curve(
    reading: LensReading, lines: pl.DataFrame, column: str, title: str, height: int, axis: Chart, colours: Chart | None = None
) -> Chart:
    scale: Chart = {"domain": [0, reading.depth], "nice": False}
    hue: Chart = {"field": "word", "type": "nominal", "title": None, "scale": colours} if colours else {"value": HUES[0]}
    return {
        "data": {"values": lines.select("layer", "word", column).to_dicts()},
        "width": 560,
        "height": height,
        "title": {"text": title, "fontSize": 13, "color": SOFT},
        "mark": {"type": "line", "point": {"size": 36}, "strokeWidth": 2},
        "encoding": {
            "x": {
                "field": "layer",
                "type": "quantitative",
                "title": "state",
                "scale": scale,
                "axis": {"tickMinStep": 1, "format": "d"},
            },
            "y": {"field": column, "type": "quantitative", "title": None, **axis},
            "color": hue,
        },
    }
