"""The published study's own figures, as data: what a run with protocol "published" on the same model is drawn over.

Read off the study's plots and tables (each file's `about` says how, and how exactly), with layers counted as everywhere here: pair
measures by block b (state b -> b + 1), state measures by state.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from medlens.store import Run

PROTOCOL = "published figures"
HIDDEN = 1  # the study's plots of geometry begin at state 1: their x = 0 is state 1, or the transition from it
BLOCKS, WIDTH, LAYOUT = 32, 4096, "llava_mistral"  # of the model that was studied
BASELINES = {"self_similarity": "baseline_cosine", "intra_similarity": "baseline_cosine", "mev": "baseline_mev"}
SCHEMA: dict[str, Any] = {
    "protocol": pl.String, "measure": pl.String, "tokens": pl.String, "variant": pl.String, "layer": pl.Int32, "value": pl.Float64,
}  # fmt: skip


def curves() -> pl.DataFrame:
    """Every published curve, a row a point: protocol ("published figures"), measure, tokens, variant ("normed" at state 32, behind
    the final norm), layer, value. What could not be read is left out; adjusted values are the value minus its baseline."""
    found = [
        (PROTOCOL, measure, tokens, "raw", place + HIDDEN, value)
        for name, values in _read("geometry")["curves"].items()
        for measure, tokens in [name.split("/")]
        for place, value in enumerate(values)
    ]
    printed = _read("contextualization")["curves"]
    printed |= {f"adjusted_{name}": _minus(printed[name], printed[base]) for name, base in BASELINES.items()}
    for measure, values in printed.items():
        for state, value in enumerate(values):
            found.append((PROTOCOL, measure, "text", "normed" if state == BLOCKS else "raw", state, value))
    return pl.DataFrame([row for row in found if row[-1] is not None], schema=SCHEMA, orient="row")


def words() -> pl.DataFrame:
    """Which words the study's units decode to most often: image ("image 1", "image 2"), layer (as printed), word, count."""
    found = [
        (image, int(layer), word, count)
        for image, layers in _read("token_occurrence")["counts"].items()
        for layer, counted in layers.items()
        for word, count in counted
    ]
    return pl.DataFrame(found, schema={"image": pl.String, "layer": pl.Int32, "word": pl.String, "count": pl.Int64}, orient="row")


def for_run(run: Run) -> pl.DataFrame | None:
    """`curves` where the run's model is of the shape and layout that was studied (LLaVA-Med v1.5); else None: two models' layers
    have nothing to do with each other."""
    model = run.manifest["model"]
    studied = model["origin"].get("layout") == LAYOUT and (model["blocks"], model["width"]) == (BLOCKS, WIDTH)
    return curves() if studied else None


def _minus(values: list[float], baseline: list[float]) -> list[float]:
    return [value - base for value, base in zip(values, baseline, strict=True)]


def _read(name: str) -> dict[str, Any]:
    return json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8"))
