"""The benchmark of methods: whose maps lie on what is there? Methods and blocks are chosen on one half of the images, and judged on
the other."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from medlens import _record, saliency, store
from medlens._prepare import Nobody, Prepared, Watcher, prepare
from medlens.budget import Meter
from medlens.data.images import open_image
from medlens.errors import BadData, BadInput
from medlens.findings import Findings
from medlens.measures.localization import covered_shares, energy, iou_ratio, pointing
from medlens.models import Model
from medlens.models.registration import boxes, check_mask
from medlens.models.words import first_id
from medlens.phantom import questions
from medlens.plan import Plan
from medlens.report.benchmark import write_benchmark
from medlens.saliency import BASELINES
from medlens.saliency.asked import Asked
from medlens.stats.intervals import clustered
from medlens.types import Sample
from medlens.unfinished import explained, unfinished
from medlens.walk.cases import Prompt, cases
from medlens.walk.target import LogOdds, Word

HALVES = ("discovery", "test")
METHODS = ("gradcam_attention", "raw_attention", "relevance", "integrated_gradients", "occlusion")
DISCOVERY = 0.3  # of the images
FEWEST = 10  # images in each half
SHARES = (0.05, 0.1, 0.2)  # of the cells, whose IoU is taken
MEASURES = ("pointing", *(f"iou_{round(100 * share)}" for share in SHARES), "energy")
MARK = "mark"  # a region of this name is no finding
PHANTOM_KINDS = ("type", "presence", "place")
PHANTOM_SAMPLES = 400
NODES = 16  # of integrated gradients: where they point to is settled long before they are complete


class Judged(NamedTuple):
    """One map of one sample, by every measure."""

    method: str
    layer: int | None
    half: str
    image: str
    kind: str
    finding: str
    scores: tuple[float, ...]  # MEASURES


@dataclass(frozen=True, eq=False)
class _Case:
    """A sample with a region to be found, and where its tokens lie."""

    prompt: Prompt
    asked: Asked
    finding: str
    mask: np.ndarray
    boxes: np.ndarray
    shares: np.ndarray


def benchmark_maps(
    model: Model | str | Path = "phantom",
    samples: Sequence[Sample] | str | Path = "phantom",
    methods: Sequence[str] | None = None,
    out: str | Path = "runs/maps",
    plan: Plan = Plan(),  # noqa: B008 (frozen)
    *,
    tolerance: float | None = None,
    nodes: int = NODES,
    watcher: Watcher | None = None,
) -> store.Run:
    """Which method of attribution lies on what the data say is there? Writes a run with the tables `leaderboard` and `layers`, and
    a page, report.html.

    samples: with an answer and with regions (masks or boxes); others are left out, and regions named "mark" are no findings. The
    target is the log-odds of the first token of the true answer. methods: see `medlens.saliency.METHODS` (default: METHODS, all
    but the slowest); the baselines are always there. tolerance: of the pointing game, in pixels of the image (default: half a
    token's side). Whole images (patients) are divided: of methods that are read at a block it is chosen on the smaller, discovery,
    part, and so is the best method of each type of question; everything is judged on the rest.
    Raises a MedlensError: see `study`; BadData for samples without regions, BadInput for too few images.
    """
    watcher, out, chosen = watcher or Nobody(), Path(out), tuple(methods or METHODS)
    if unknown := [name for name in chosen if name not in saliency.METHODS]:
        raise BadInput(f"methods are {', '.join(saliency.METHODS)}; got {unknown[0]}")
    store.check_place(out)
    with Meter() as meter, explained(out):
        prepared = prepare(model, _samples(samples, plan), plan, watcher)
        asked = json.dumps([chosen, tolerance, nodes])
        identity = prepared.identity | {"benchmark": hashlib.sha256(asked.encode()).hexdigest()[:16]}
        if (done := store.finished(out, identity)) is not None:
            return done
        began, laid = time.monotonic(), _laid(prepared)
        with unfinished(out, identity) as work:
            judged = _judge(prepared.model, laid, chosen, tolerance, nodes, prepared.plan.seed, work.scratch, watcher)
            layers = _layers(judged)
            board = _leaderboard(judged, layers)
            with work.becoming(out) as folder:
                _write(folder, prepared, laid, {"leaderboard": board, "layers": layers})
                told = {"samples": len(laid), "tolerance": tolerance or _half(laid), "nodes": nodes, "measures": list(MEASURES)}
                seconds = {"walking": round(time.monotonic() - began, 2)}
                store.write_manifest(folder, prepared.manifest(identity, seconds, meter.peak) | {"benchmark": told})
                write_benchmark(folder)
    return store.open_run(out)


def _samples(samples: Sequence[Sample] | str | Path, plan: Plan) -> Sequence[Sample] | str | Path:
    """Of the phantom the questions that are about one lesion."""
    if str(samples) != "phantom":
        return samples
    drawn = questions.samples(4 * (plan.limit or PHANTOM_SAMPLES), plan.seed, PHANTOM_KINDS)
    return [s for s in drawn if len(_findings(s)) == 1][: plan.limit or PHANTOM_SAMPLES]


def _findings(sample: Sample) -> list[Any]:
    return [region for region in sample.regions if region.name != MARK]


def _laid(prepared: Prepared) -> list[_Case]:
    """The samples that can be judged. Raises BadData where none can."""
    found = []
    for prompt in prepared.prompts:
        sample, regions = prompt.sample, _findings(prompt.sample)
        if sample.answer is None or not regions or len(sample.images) != 1:
            continue
        image = open_image(sample.image, sample.id, grey=True)
        masks = [region.array() for region in regions]
        for region, mask in zip(regions, masks, strict=True):
            check_mask(mask, (image.height, image.width), f"sample {sample.id}: the mask of {region.name}")
        mask, placed = np.any(masks, axis=0), boxes(prepared.model, image, prompt.look)
        if (shares := covered_shares(placed, mask)).any():
            word = Word(len(prompt.tokens) - 1, first_id(prepared.model, sample.answer))
            one = Asked(cases(prepared.model, [prompt])[0], LogOdds(word))
            found.append(_Case(prompt, one, " and ".join(sorted({r.name for r in regions})), mask, placed, shares))
    if not found:
        raise BadData(f"none of {len(prepared.prompts)} samples has an answer and a region (mask or box) on one image")
    return found


def _judge(
    model: Model, laid: Sequence[_Case], methods: Sequence[str], tolerance: float | None, nodes: int, seed: int, scratch: Path,
    watcher: Watcher,
) -> list[Judged]:  # fmt: skip
    half_of = _halves(laid, seed)
    tolerance = tolerance or _half(laid)
    slow = [name for name in methods if name in ("integrated_gradients", "occlusion", "pixel_occlusion")]
    watcher.begin("making maps", len({id(c.asked.case) for c in laid}) * 2 * model.depth + len(slow) * len(laid))
    every = saliency.maps(
        model, [c.asked for c in laid], [*methods, *(b for b in BASELINES if b not in methods)], boxes=[c.boxes for c in laid],
        nodes=nodes, seed=seed, scratch=scratch, tick=watcher.tick,
    )  # fmt: skip
    judged = []
    for method, made in every.items():
        for case, values in zip(laid, made, strict=True):
            by_block = saliency.METHODS[method].by_block
            for layer, row in enumerate(values) if by_block else [(None, values)]:
                sample, unit = case.prompt.sample, case.prompt.unit
                judged.append(Judged(
                    method, layer, half_of[unit], unit, sample.question_type or "all", case.finding, _scores(row, case, tolerance),
                ))  # fmt: skip
    return judged


def _scores(values: np.ndarray, case: _Case, tolerance: float) -> tuple[float, ...]:
    overlaps = (iou_ratio(values, case.shares, share) for share in SHARES)
    return pointing(values, case.boxes, case.mask, tolerance), *overlaps, energy(values, case.shares)


def _half(laid: Sequence[_Case]) -> float:
    """Half a token's side, in pixels."""
    sides = np.concatenate([c.boxes[:, 2:] - c.boxes[:, :2] for c in laid])
    return float(np.nanmedian(sides) / 2)


def _halves(laid: Sequence[_Case], seed: int) -> dict[str, str]:
    units = sorted({case.prompt.unit for case in laid})
    Random(seed).shuffle(units)
    first = round(DISCOVERY * len(units))
    if first < FEWEST:
        need = round(FEWEST / DISCOVERY)
        raise BadInput(f"{len(units)} images have something to be found; {need} are needed to choose on some and judge on others")
    return {unit: HALVES[k >= first] for k, unit in enumerate(units)}


def _layers(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The curve over blocks, on both parts, of each type of question and of all."""
    rows = []
    for kind in _kinds(judged):
        for method in dict.fromkeys(j.method for j in judged if j.layer is not None):
            for half in HALVES:
                own = [j for j in judged if j.method == method and j.half == half and kind in ("all", j.kind)]
                for layer in sorted({j.layer for j in own if j.layer is not None}):
                    at = [j for j in own if j.layer == layer]
                    rows.append({"question_type": kind, "method": method, "half": half, "layer": layer} | _measured(at, "pointing"))
    return rows


def _leaderboard(judged: Sequence[Judged], layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each type of question (and finding) every method, at the block that was best on discovery images, on test images."""
    rows = []
    for kind in _kinds(judged):
        best = {method: _best_layer(layers, kind, method) for method in dict.fromkeys(j.method for j in judged)}
        of_kind = [j for j in judged if kind in ("all", j.kind) and j.layer == best[j.method]]
        discovery = [j for j in of_kind if j.half == "discovery"]
        on_discovery = {m: _points(j for j in discovery if j.method == m) for m in best if m not in BASELINES}
        winner = max(on_discovery, key=lambda m: on_discovery[m])
        for finding in ("all", *sorted({j.finding for j in of_kind})):
            tested = [j for j in of_kind if j.half == "test" and finding in ("all", j.finding)]
            for method, layer in best.items():
                if own := [j for j in tested if j.method == method]:
                    about = {"question_type": kind, "finding": finding, "method": method, "layer": layer, "best": method == winner}
                    rows += [about | {"measure": measure} | _measured(own, measure) for measure in MEASURES]
    return rows


def _kinds(judged: Sequence[Judged]) -> list[str]:
    return ["all", *(kind for kind in sorted({j.kind for j in judged}) if kind != "all")]


def _best_layer(layers: Sequence[Mapping[str, Any]], kind: str, method: str) -> int | None:
    own = [r for r in layers if (r["question_type"], r["method"], r["half"]) == (kind, method, "discovery")]
    return max(own, key=lambda r: r["value"])["layer"] if own else None


def _points(judged: Iterable[Judged]) -> tuple[float, float]:
    """The pointing game; among equals the energy decides."""
    scores = np.array([(j.scores[0], j.scores[-1]) for j in judged])
    return float(scores[:, 0].mean()), float(np.nanmean(scores[:, 1]))


def _measured(judged: Sequence[Judged], measure: str) -> dict[str, Any]:
    at = MEASURES.index(measure)
    pairs = [(j.scores[at], j.image) for j in judged if not np.isnan(j.scores[at])]
    if not pairs:
        return {"value": None, "low": None, "high": None, "n": 0, "images": 0}
    value, low, high = clustered([value for value, _ in pairs], [image for _, image in pairs])
    return {"value": value, "low": low, "high": high, "n": len(pairs), "images": len({image for _, image in pairs})}


def _write(folder: Path, prepared: Prepared, laid: Sequence[_Case], tables: Mapping[str, list[dict[str, Any]]]) -> None:
    shown = {case.prompt.sample.id for case in laid}
    left = {sample.id: "" for sample in prepared.intake.samples if sample.id not in shown}
    intake = prepared.intake.without(left)
    _record.write_tables(folder, replace(intake, pictures={}), [None] * len(intake.samples), Findings())
    store.write_table(folder, "claims", [])
    for name, rows in tables.items():
        store.write_table(folder, name, rows)
