"""Draw the picture of docs/lens.md: what the patches of a slice with a lesion hand on. Run from the project's folder."""

from pathlib import Path

import medlens
from medlens.lens_page.pictures import patches
from medlens.svg import as_png

BLOCK = 3  # chosen on other slices: see the page
PICTURE = Path("docs/pictures/lens.png")

sample = medlens.phantom.samples(40, seed=1, questions="type")[30]
reading = medlens.lens("phantom", sample, of="values", layers=[BLOCK])
PICTURE.write_bytes(as_png(patches(reading, BLOCK)))
print(f"{PICTURE}: {sample.id}, {sample.answer}")
