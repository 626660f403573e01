"""Draw docs/pictures/maps.png: what speaks for the phantom's answer, by three methods, with the true outline of the lesion."""

from io import BytesIO
from pathlib import Path

from PIL import Image

import medlens
from medlens.overlay import Style, svg
from medlens.svg import as_png

OUT = Path(__file__).parent.parent / "docs" / "pictures" / "maps.png"
SAMPLE = 9  # of phantom.samples(..., seed 1): "what type of lesion", with one lesion

if __name__ == "__main__":
    found = medlens.explain("phantom", medlens.phantom.samples(SAMPLE + 1, 1)[SAMPLE], tokens=False)
    drawn = [Image.open(BytesIO(as_png(svg(heatmap, found.image, Style(), found.regions)))) for heatmap in found.maps]
    row = Image.new("RGB", (sum(picture.width for picture in drawn), drawn[0].height), "white")
    for k, picture in enumerate(drawn):
        row.paste(picture, (k * picture.width, 0))
    row.resize((row.width // 2, row.height // 2), Image.Resampling.LANCZOS).save(OUT, optimize=True)
