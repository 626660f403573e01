"""Print the table of docs/thinning.md from a run: `medlens thin phantom --limit 400 --seed 11 --out RUN`, then
`python scripts/thinning_table.py RUN`. (The picture is the run's thinned.png.)"""

from __future__ import annotations

import sys

import polars as pl

import medlens


def main(folder: str) -> None:
    table = medlens.open_run(folder).thinned
    for (what,), rows in table.group_by("what", maintain_order=True):
        for share in sorted(set(rows["share"])):
            (rule,), (random,) = (rows.filter(pl.col("share") == share, of).to_dicts() for of in (_ruled, ~_ruled))
            over = "–" if rule["over_low"] is None else f"{100 * rule['over_low']:+.1f} to {100 * rule['over_high']:+.1f}"
            kept = f"{100 * rule['kept']:.1f} ({100 * rule['low']:.1f} to {100 * rule['high']:.1f})"
            drawn = f"{100 * random['kept']:.1f} (draws: {100 * random['worst']:.1f} to {100 * random['best']:.1f})"
            print(f"| {what} | {100 * share:.0f} | {kept} | {drawn} | {over} | {100 * rule['correct']:.1f} |")


_ruled = pl.col("by") != "random"

if __name__ == "__main__":
    main(sys.argv[1])
