"""Write the evaluated tables and the contact sheet of docs/phantom.md: every phantom on the same fresh slices.

python scripts/phantom_page.py [--n 6000]
"""

import argparse
import re
from pathlib import Path

import polars as pl

import medlens
from medlens.models.phantom import NAMES
from medlens.phantom.card import markdown
from medlens.phantom.contact import save_sheet

DOCS = Path(__file__).parent.parent / "docs"
SEED = 40_000
COLUMNS = ("accuracy", "guess", "swapped", "predicted", "follows", "unchanged", "blank")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--n", type=int, default=6_000)
n = parser.parse_args().n

parts = []
shares = []
for name in NAMES:
    found = medlens.phantom.evaluate(medlens.load(name), n, SEED)
    table = found.questions()
    interval = pl.format("{} ({}–{})", *(pl.col(c).round(3) for c in ("accuracy", "low", "high")))
    shown = table.select("question", "n", interval.alias("accuracy (95 %)"), *COLUMNS[1:])
    parts.append(f"**`{name}`**\n\n{markdown(shown)}")
    shares.append(found.marks().insert_column(0, pl.lit(name).alias("model")))
    print(f"{name} evaluated", flush=True)
images = len({s.image_id for s in medlens.phantom.samples(n, SEED)})
parts.insert(0, f"{n:,} questions on {images:,} fresh slices (seed {SEED}), written by `python scripts/phantom_page.py`.")
parts.append("*Is there a lesion?*, where mark and lesion go together and where only one is there:")
parts.append(markdown(pl.concat(shares)))

page, tables = DOCS / "phantom.md", "\n\n".join(parts)
old = page.read_text()
page.write_text(re.sub("(<!-- evaluated -->).*(<!-- end -->)", lambda m: f"{m[1]}\n{tables}\n{m[2]}", old, flags=re.S))
print(f"wrote {page.name} and {save_sheet(DOCS / 'pictures' / 'phantom.png').name}")
