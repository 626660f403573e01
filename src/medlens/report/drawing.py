"""Lines as SVG for the report's page. Colours are classes, so that light, dark and print each give them their own. All layers stand
on one axis, state b at b and block b, which makes state b + 1 of it, half a step behind. Each layer carries its numbers, which show
when it is pointed at, or marked in all charts at once. (Files of charts are drawn by `charts`.)"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import escape

from medlens.report.lines import BLACK, COLOURS, GREY, PALE, PALETTE, Line, domain

WIDTH, HEIGHT = 330, 180
LEFT, FOOT, LEADING, LETTER = 44, 38, 13, 5.6
MARGIN = 13  # letters at the right end that there is always room for, so that the layers of all charts stand below each other
KINDS = {  # of colours: the page's style knows them by these names
    **{colour: name for name, colour in COLOURS.items()}, BLACK: "ink", GREY: "null", PALE: "single",
    **{colour: f"group-{k}" for k, colour in enumerate(PALETTE)},
}  # fmt: skip

STYLE = "".join(
    f".s-{kind}{{stroke:var(--{own})}}.f-{kind}{{fill:var(--{own})}}"
    for kind in KINDS.values() for own in ["ink" if kind == "all" else kind]
)  # fmt: skip


class Axis(NamedTuple):
    """Of layers. depth: how many blocks the model has; of_pairs: whether values belong to blocks, not to states."""

    depth: int
    of_pairs: bool

    @property
    def word(self) -> str:
        return "block" if self.of_pairs else "state"

    def x(self, layer: float) -> float:
        return WIDTH * (layer + 0.5 * self.of_pairs) / max(1, self.depth)


def drawn(sides: Mapping[str, Sequence[Line]], axis: Axis, name: str, title: str) -> dict[str, str]:
    """An SVG of each side's lines, by its name, with one y axis and one size for all. name: of the figure, for its ids; title: what
    is measured, for those who do not see it."""
    low, high = domain([line for lines in sides.values() for line in lines])
    ends = {side: _ends(lines, low, high) for side, lines in sides.items()}
    margin = 20 + LETTER * max([MARGIN, *(len(word) for found in ends.values() for word, _, _ in found)])
    top = 8 + LEADING * max((sum(bool(line.key) for line in lines) for lines in sides.values()), default=0)
    place = _Place(axis, low, high, margin, top)
    return {
        side: _svg(lines, ends[side], place, f"{name}-{side}", f"{title}, {side} tokens") for side, lines in sides.items() if lines
    }


def _main(lines: Sequence[Line]) -> Line:
    """The one whose numbers are shown: with points, or else the thickest."""
    return max(lines, key=lambda line: (line.marks == "points", line.marks == "line", line.width))


class _Place(NamedTuple):
    axis: Axis
    low: float
    high: float
    margin: float
    top: float

    def y(self, value: float) -> float:
        return HEIGHT * (self.high - value) / (self.high - self.low)

    def inside(self, value: float) -> float:
        """Its height, at the edge where it lies outside."""
        return min(max(self.y(value), 0.0), float(HEIGHT))


def _svg(lines: Sequence[Line], ends: list[tuple[str, float, str]], place: _Place, name: str, title: str) -> str:
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
    body = [*_grid(place), *_bands(lines, place), *_strokes(lines, place, name), *_labels(ends), *_keys(lines)]
    body += _layers(_main(lines), place)
    wide, high = LEFT + WIDTH + place.margin, place.top + HEIGHT + FOOT
    return (
        f'<svg viewBox="{-LEFT} {-place.top:g} {wide:.0f} {high:g}" role="img" aria-labelledby="t-{name}" '
        f'aria-describedby="d-{name}"><title id="t-{name}">{escape(title)}</title><desc id="d-{name}">'
        f'{escape(_said(lines, place.axis))}</desc><clipPath id="c-{name}"><rect width="{WIDTH}" height="{HEIGHT}"/></clipPath>'
        + "".join(body) + "</svg>"
    )  # fmt: skip


# ---- ground


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between low and high: steps of 1, 2 or 5 times a power of ten, none finer than what a number can tell apart."""
    raw = max(high - low, 1e-12 * max(abs(low), abs(high), 1e-9)) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _grid(place: _Place) -> Iterator[str]:
    marks = ticks(place.low, place.high)
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9)) if len(marks) > 1 else 3
    for value in marks:
        y, word = place.y(value), f"{value:,.{digits}f}".replace("-", "−")
        yield f'<path class="grid" d="M0 {y:.1f}H{WIDTH}"/>'
        yield f'<text class="tick" x="-6" y="{y + 4:.1f}" text-anchor="end">{word}</text>'
    last = place.axis.depth - place.axis.of_pairs
    for layer in ticks(0, max(1, last), 8):
        if layer == round(layer):
            x = place.axis.x(layer)
            yield f'<path class="grid" d="M{x:.1f} {HEIGHT}v4"/><text class="tick" x="{x:.1f}" y="{HEIGHT + 16}" '
            yield f'text-anchor="middle">{layer:.0f}</text>'
    yield f'<text class="tick" x="0" y="{HEIGHT + 34}">{place.axis.word}</text>'


# ---- lines


def _pieces(line: Line) -> list[list[dict[str, Any]]]:
    """Its rows, cut where a layer is undefined."""
    pieces: list[list[dict[str, Any]]] = []
    for row in line.frame.iter_rows(named=True):
        if pieces and pieces[-1][-1]["layer"] == row["layer"] - 1:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces


def _bands(lines: Sequence[Line], place: _Place) -> Iterator[str]:
    """Between low and high, where there are any: a ribbon, and a bar where a layer stands alone."""
    for line in lines:
        if not line.ribbon and line.marks != "diamonds":
            continue
        with_ends = Line(line.frame.drop_nulls(), line.colour)
        for piece in _pieces(with_ends):
            at = [(place.axis.x(row["layer"]), place.inside(row["low"]), place.inside(row["high"])) for row in piece]
            if len(at) == 1:
                [(x, low, high)] = at
                yield f'<path class="alone s-{KINDS[line.colour]}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
            elif line.ribbon:
                there = "L".join(f"{x:.1f} {high:.1f}" for x, _, high in at)
                back = "L".join(f"{x:.1f} {low:.1f}" for x, low, _ in reversed(at))
                yield f'<path class="band f-{KINDS[line.colour]}" opacity="{line.ribbon}" d="M{there}L{back}Z"/>'


def _strokes(lines: Sequence[Line], place: _Place, name: str) -> Iterator[str]:
    yield f'<g clip-path="url(#c-{name})">'
    for line in lines:
        kind = KINDS[line.colour]
        if line.marks == "diamonds":
            continue
        dash = f' stroke-dasharray="{" ".join(f"{d:g}" for d in line.dash)}"' if line.dash else ""
        for piece in _pieces(line):
            at = "L".join(f"{place.axis.x(row['layer']):.1f} {place.y(row['value']):.1f}" for row in piece)
            alone = "" if len(piece) > 1 else "m-4 0h8"
            yield f'<path class="line s-{kind}" stroke-width="{line.width:g}"{dash} d="M{at}{alone}"/>'
    yield "</g>"
    for line in lines:
        for row in line.frame.iter_rows(named=True) if line.marks != "line" else ():
            x, y = place.axis.x(row["layer"]), place.y(row["value"])
            if line.marks == "diamonds":
                yield f'<path class="line s-{KINDS[line.colour]}" stroke-width="1.5" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5Z"/>'
            else:
                yield f'<circle class="f-{KINDS[line.colour]}" cx="{x:.1f}" cy="{y:.1f}" r="2.8"/>'


# ---- words


def _ends(lines: Sequence[Line], low: float, high: float) -> list[tuple[str, float, str]]:
    """What is said at the right ends of lines: the words, the height, the colour. Pushed apart where they would touch; a line that
    ends outside the chart is named at its edge, with its number."""
    found = []
    for line in lines:
        if line.label:
            value = float(line.frame["value"][-1])
            word = line.label if len(line.label) <= 22 else line.label[:21] + "…"
            if not low <= value <= high:
                word += f" {value:.3g} {'↑' if value > high else '↓'}"
            found.append([word, min(max(HEIGHT * (high - value) / (high - low), 0), HEIGHT), line.colour])
    found.sort(key=lambda end: end[1])
    for k in range(1, len(found)):
        found[k][1] = max(found[k][1], found[k - 1][1] + LEADING)
    for k in range(len(found) - 1, -1, -1):  # those that were pushed out at the foot, back up
        found[k][1] = min(found[k][1], HEIGHT - LEADING * (len(found) - 1 - k))
    return [(word, height, colour) for word, height, colour in found]


def _labels(ends: list[tuple[str, float, str]]) -> Iterator[str]:
    for word, height, colour in ends:
        yield f'<path class="line s-{KINDS[colour]}" stroke-width="2" d="M{WIDTH + 5} {height:.1f}h8"/>'
        yield f'<text class="end" x="{WIDTH + 17}" y="{height + 4:.1f}">{escape(word)}</text>'


def _keys(lines: Sequence[Line]) -> Iterator[str]:
    """Above the chart, one line of small print for each: its dashes, and what they stand for."""
    keyed = [line for line in lines if line.key]
    for k, line in enumerate(reversed(keyed)):
        y = -10 - LEADING * k
        dash = f' stroke-dasharray="{" ".join(f"{d:g}" for d in line.dash)}"' if line.dash else ""
        yield f'<path class="line s-{KINDS[line.colour]}" stroke-width="{line.width + 0.3:g}"{dash} d="M0 {y}h26"/>'
        yield f'<text class="key" x="32" y="{y + 4}">{escape(line.key)}</text>'


# ---- numbers


def number(value: float) -> str:
    return (f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}").replace("-", "−")


def _numbers(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return number(row["value"])
    return f"{number(row['value'])} ({number(row['low'])} to {number(row['high'])})"


def _layers(line: Line, place: _Place) -> Iterator[str]:
    """Of each layer of the main line a strip that can be pointed at: with its line, its mark and its numbers."""
    step = WIDTH / max(1, place.axis.depth)
    for row in line.frame.iter_rows(named=True):
        layer, x, y = row["layer"], place.axis.x(row["layer"]), place.inside(row["value"])
        whose = "" if line.marks == "points" or not line.label else f"{line.label}, "
        said, kind = escape(f"{whose}{place.axis.word} {layer}: {_numbers(row)}"), KINDS[line.colour]
        yield (
            f'<g class="at" data-layer="{layer}"><rect x="{x - step / 2:.1f}" width="{step:.1f}" height="{HEIGHT}"/>'
            f'<path class="cursor" d="M{x:.1f} 0V{HEIGHT}"/><circle class="spot s-{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
            f'<text class="numbers" x="{WIDTH}" y="{HEIGHT + 34}" text-anchor="end">{said}</text></g>'
        )


def _said(lines: Sequence[Line], axis: Axis) -> str:
    """The numbers of the main line in words; of the others their names."""
    main = _main(lines)
    values = "; ".join(f"{row['layer']}: {_numbers(row)}" for row in main.frame.iter_rows(named=True))
    others = ", ".join(word for line in lines if line is not main and (word := line.label or line.key))
    return f"{main.label + ', by' if main.label else 'By'} {axis.word}: {values}." + (f" Also drawn: {others}." if others else "")
