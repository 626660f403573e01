"""Draw docs/pictures/flow.png: what blocking attention costs the phantom's answers. Run it in the repository's folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl

import medlens
from medlens import store
from medlens._flow import flow
from medlens.report.charts import as_files
from medlens.report.flow import flow_chart, reads_image, said_of
from medlens.walk.forward import prepare

IMAGES, SEED = 60, 4


def main() -> None:
    model, first = medlens.load("phantom"), {}
    for sample in medlens.phantom.samples(8 * IMAGES, SEED):
        first.setdefault(sample.image_id, sample)
    prompts = [prepare(model, sample, sample.answer) for sample in list(first.values())[:IMAGES]]
    with tempfile.TemporaryDirectory() as folder:
        rows = flow(model, prompts, Path(folder))
    (picture,) = (v for k, v in as_files(flow_chart(pl.DataFrame(rows, schema=store.TABLES["flow"]))).items() if k == "png")
    assert isinstance(picture, bytes)
    Path("docs/pictures/flow.png").write_bytes(picture)
    print(f"{len(prompts)} images. {said_of(reads_image(rows))}")


if __name__ == "__main__":
    main()
