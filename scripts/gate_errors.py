"""Write the table of docs/reliance.md that the bound of the gate stands on: how often each phantom's answers are gated, on fresh
slices, and between which bounds both errors are at most 5 %.

python scripts/gate_errors.py [--n 1000]
"""

import argparse
import re
from pathlib import Path

import polars as pl

import medlens
from medlens._gate import BOUND, gates
from medlens.phantom.card import markdown
from medlens.stats.intervals import clustered
from medlens.walk.forward import prepare

PAGE = Path(__file__).parent.parent / "docs" / "reliance.md"
NAMES = ("phantom", "phantom:shortcut", "phantom:textonly")  # of an untrained one every answer is another babble
SEED = 50_000
ERROR = 0.05

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--n", type=int, default=1_000)
n = parser.parse_args().n

samples = medlens.phantom.samples(n, SEED)
images = [sample.image_id for sample in samples]
rows, shifts = [], {}
for name in NAMES:
    model = medlens.load(name)
    found = gates(model, [prepare(model, sample) for sample in samples])
    shifts[name] = pl.Series([gate.shift for gate in found])
    share, low, high = clustered([float(not gate.rests) for gate in found], images)
    quantiles = {f"shift, {q}": f"{shifts[name].quantile(at):.3g}" for q, at in (("5 %", 0.05), ("median", 0.5), ("95 %", 0.95))}
    rows.append({"model": f"`{name}`", "answers": n, "gated (95 %)": f"{share:.3f} ({low:.3f}–{high:.3f})", **quantiles})
    print(rows[-1], flush=True)
lowest, highest = shifts["phantom:textonly"].quantile(1 - ERROR), shifts["phantom"].quantile(ERROR)
assert lowest is not None
assert highest is not None
assert lowest < BOUND < highest, (lowest, BOUND, highest)
said = (
    f"{n:,} questions on {len(set(images)):,} fresh slices (seed {SEED:,}), written by `python scripts/gate_errors.py`. "
    f"Any bound from {lowest:.1g} to {highest:.3g} would gate at most 5 % of `phantom` and at least 95 % of `phantom:textonly`; "
    f"it is {BOUND:g}."
)
old = PAGE.read_text()
table = "\n\n".join([said, markdown(pl.DataFrame(rows))])
PAGE.write_text(re.sub("(<!-- gate -->).*(<!-- end -->)", lambda m: f"{m[1]}\n{table}\n{m[2]}", old, flags=re.S))
print(f"wrote {PAGE.name}")
