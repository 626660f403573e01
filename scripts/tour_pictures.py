"""Make the pictures of docs/tour.md: what the commands of that page themselves write. Run from the project's folder."""

import shutil
import tempfile
from pathlib import Path

import medlens
from medlens.lens_page.pictures import patches
from medlens.plan import Plan
from medlens.svg import as_png

PICTURES = Path("docs/pictures")
BLOCK = 3

samples = medlens.phantom.samples(24, seed=1)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    medlens.explain("phantom", samples[9], methods=("relevance",), tokens=False, card=False, out=folder / "maps")
    shutil.copy(folder / "maps" / "map-0-relevance.png", PICTURES / "tour_map.png")
    plan = Plan(limit=12, folds=3, instruments=("geometry",), answers="given")
    run = medlens.study("phantom", samples, plan, out=folder / "tour")
    shutil.copy(folder / "tour" / "charts" / "anisotropy.png", PICTURES / "tour_chart.png")
reading = medlens.lens("phantom", samples[9], of="values", layers=[BLOCK])
(PICTURES / "tour_words.png").write_bytes(as_png(patches(reading, BLOCK)))
print(*sorted(PICTURES.glob("tour_*.png")))
