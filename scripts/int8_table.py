"""Print the table of docs/int8.md: two runs compared, where they differ most. `python scripts/int8_table.py RUN RUN`, which are

medlens study phantom phantom --instrument geometry --instrument contextualization --instrument lens --out RUN [--dtype int8]
"""

from __future__ import annotations

import sys

import polars as pl

import medlens
from medlens.comparison.answers import words

SHOWN = (
    ("linearity", "image"), ("linearity_of_update", "image"), ("cka", "image"), ("anisotropy", "image"),
    ("participation_ratio", "image"), ("intrinsic_dimension", "image"), ("intra_similarity", "image"), ("mev", "image"),
    ("medical_words", "image"), ("lens_entropy", "image"), ("lens_kl", "answer"), ("answer_log_odds", "answer"),
)  # fmt: skip


def main(first: str, other: str) -> None:
    found = medlens.compare([first, other])
    assert isinstance(found, medlens.Comparison)  # studies, not runs of reliance
    rows = found.summary.filter(protocol="sound")
    for measure, tokens in SHOWN:
        row = rows.filter(pl.col("measure") == measure, pl.col("tokens") == tokens).row(0, named=True)
        interval = f"{row['low']:+.2g} to {row['high']:+.2g}" if row["low"] is not None else "–"
        cells = (measure, tokens, row["layer"], f"{row['value']:.4g}", f"{row['difference']:+.2g}", interval, row["differing"])
        print(f"| {' | '.join(map(str, cells))} |")
    for line in found.answers.to_dicts():
        print(words(line))


if __name__ == "__main__":
    main(*sys.argv[1:])
