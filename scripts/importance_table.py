"""Print the table of docs/importance.md: what the rules say of the phantom's blocks. Run it in the repository's folder."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import medlens
from medlens._flow import one_of_each
from medlens._importance import importance
from medlens.walk.forward import prepare

IMAGES, SEED = 60, 4
COLUMNS = {
    ("nonlinearity", "image"): 2, ("nonlinearity", "text"): 2, ("block_influence", "image"): 3, ("block_influence", "text"): 2,
    ("image_reading", "image"): 2,
}  # fmt: skip


def main() -> None:
    model = medlens.load("phantom")
    prompts = [prepare(model, s, s.answer) for s in medlens.phantom.samples(8 * IMAGES, SEED)]
    with tempfile.TemporaryDirectory() as folder:
        rows = importance(model, one_of_each(prompts, IMAGES), Path(folder))
    found = {(row["rule"], row["tokens"], row["layer"]): row for row in rows}
    for block in range(model.depth):
        cells = [_cell(found[*column, block], digits) for column, digits in COLUMNS.items()]
        print(f"| {block} | {' | '.join(cells)} |")


def _cell(row: dict[str, Any], digits: int) -> str:
    if math.isnan(row["value"]):
        return "–"
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(row["value"], row["low"], row["high"], d=digits)


if __name__ == "__main__":
    main()
