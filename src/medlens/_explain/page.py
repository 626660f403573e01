"""What is found out of one sample, and its page: an HTML file without scripts, pictures, and the numbers beside it."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from safetensors.numpy import save

from medlens import display, store
from medlens._explain.card import Card
from medlens._gate import Gate
from medlens.errors import BadRun
from medlens.overlay import Style, limits, svg
from medlens.pages import environment
from medlens.svg import as_png
from medlens.types import Heatmap
from medlens.unfinished import writing

OURS = re.compile(r"report\.html|manifest\.json|maps\.(parquet|safetensors)|checks\.parquet|(map|token)-\d+(-[a-z_]+)?\.(png|svg)")

SMALL = 256  # pixels of the image in the maps of single tokens
MIDDLE = 512  # and in a notebook
FOREIGN = "the model is the phantom: it was trained on drawn slices alone, so its answer to this image means nothing"


class Failed(NamedTuple):
    """A method that gave no map, and why."""

    method: str
    reason: str


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps of one sample. answer: the model's own. maps: one of each method, of the one target. tokens: one of each token of
    question and answer, by the first method. failed: methods that gave no map, and why. regions: pixels (height, width) of the
    sample's regions, where it has any. gate: whether the answer rests on the image. cards: of each map what speaks for and against
    it. truth: the true answer, where the data know it. foreign: the model is the phantom, and the image is none that it was made
    for."""

    model: str
    sample: str
    question: str
    answer: str
    image: Image.Image
    maps: tuple[Heatmap, ...]
    tokens: tuple[Heatmap, ...]
    failed: tuple[Failed, ...]
    regions: np.ndarray | None
    gate: Gate | None = None
    cards: tuple[Card, ...] = ()
    truth: str | None = None
    foreign: bool = False

    def write(self, out: str | Path) -> Path:
        """Write `report.html`, each map as PNG and SVG, the table `maps.parquet`, `maps.safetensors` and `manifest.json`; whole, or
        not at all. Raises CannotWrite, and BadRun where something else is there."""
        return _write(Path(out), self)

    def _repr_html_(self) -> str:
        """For a notebook: question, answer, whether it rests on the image, and each map with its verdict."""
        verdicts = {card.method: card.verdict for card in self.cards}
        told = {
            "beware": FOREIGN if self.foreign else None,
            "answer": self.answer, "true": self.truth, "rests on the image": self.gate and self.gate.words,
            "no map": "; ".join(f"{of.method}: {of.reason}" for of in self.failed),
        }  # fmt: skip
        shown = [(svg(m, self.image, Style(), self.regions, MIDDLE), verdicts.get(m.method, "no report card")) for m in self.maps]
        return display.card(self.question, told, shown)


def _write(out: Path, page: Explanation) -> Path:
    """Write all of it to `out`, whole or not at all. Raises CannotWrite, and BadRun where something else is there."""
    store.check_place(out)
    old = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if others := [name for name in old if not OURS.fullmatch(name)]:
        raise BadRun(f"{out} is there already and holds something else than maps ({others[0]}); choose another --out")
    drawn = [svg(heatmap, page.image, Style(), page.regions) for heatmap in page.maps]
    small = [svg(heatmap, page.image, Style(), page.regions, SMALL) for heatmap in page.tokens]
    with writing(out) as folder:
        for k, (heatmap, picture) in enumerate(zip(page.maps, drawn, strict=True)):
            store.write(folder / f"map-{k}-{heatmap.method}.svg", picture)
            store.write(folder / f"map-{k}-{heatmap.method}.png", as_png(picture))
        for k, picture in enumerate(small):
            store.write(folder / f"token-{k}.png", as_png(picture))
        every = (*page.maps, *page.tokens)
        store.write_table(folder, "maps", [row for k, heatmap in enumerate(every) for row in rows_of_map(page.sample, k, heatmap)])
        checks = [{"sample": page.sample, **check._asdict()} for card in page.cards for check in card.checks]
        store.write_table(folder, "checks", checks)
        store.write(folder / "maps.safetensors", save({f"map-{k}": of.values for k, of in enumerate(every)} | _places(every)))
        store.write_manifest(folder, _manifest(page))
        store.write(folder / "report.html", _render(page, drawn, small))
        if out.is_dir():
            shutil.rmtree(out)
    return out / "report.html"


def rows_of_map(sample: str, number: int, heatmap: Heatmap) -> list[dict[str, Any]]:
    """As the table `maps` says."""
    said = {"sample": sample, "map": number, "method": heatmap.method, "target": heatmap.target, "layer": heatmap.layer}
    rows = zip(heatmap.values.tolist(), heatmap.boxes.tolist(), strict=True)
    return [
        said | {"token": k, "value": value} | dict(zip(("left", "top", "right", "bottom"), box, strict=True))
        for k, (value, box) in enumerate(rows)
    ]


def _places(every: tuple[Heatmap, ...]) -> dict[str, np.ndarray]:
    return {"boxes": every[0].boxes} if every else {}


def _manifest(page: Explanation) -> dict[str, Any]:
    return {
        "version": version("medlens"),
        "model": page.model,
        "sample": page.sample,
        "question": page.question,
        "answer": page.answer,
        "truth": page.truth,
        "foreign": page.foreign,
        "size": [page.image.height, page.image.width],
        "maps": [{"method": m.method, "target": m.target, "layer": m.layer, "note": m.note} for m in (*page.maps, *page.tokens)],
        "gate": None if page.gate is None else asdict(page.gate),
        "cards": [{"method": c.method, "verdict": c.verdict, "why": c.why, "said": c.said} for c in page.cards],
        "failed": [failed._asdict() for failed in page.failed],
    }


def _render(page: Explanation, drawn: list[str], small: list[str]) -> str:
    """Everything that comes from data or model is escaped (in the pictures, where they are drawn)."""
    templates = environment(Path(__file__).parent)
    cards = {card.method: card for card in page.cards}
    return templates.get_template("maps.html.j2").render(
        page=page,
        beware=FOREIGN if page.foreign else "",
        maps=[(m, picture, limits(m), cards.get(m.method)) for m, picture in zip(page.maps, drawn, strict=True)],
        tokens=list(zip(page.tokens, small, strict=True)),
    )
