"""Multimodal neurons: found, proved to matter, read, and put on cards. (The function is `neurons`.)"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medlens import _record, store
from medlens._gate import gates, stamp
from medlens._neurons.cards import Reader, card
from medlens._neurons.concepts import HALVES, Concept, concepts_of, places_of
from medlens._neurons.effects import FEW, MAIN, Effects, dose
from medlens._neurons.find import Found, find
from medlens._neurons.heads import CHEAP, Heads
from medlens._neurons.heard import Texts
from medlens._neurons.pictures import masked
from medlens._neurons.prove import Bench
from medlens._prepare import Nobody, Prepared, Watcher, prepare
from medlens.budget import Meter
from medlens.errors import BadInput, BadModel
from medlens.findings import Findings
from medlens.models import Model
from medlens.plan import Plan
from medlens.report.neurons import write_neurons
from medlens.types import Sample
from medlens.unfinished import explained, unfinished
from medlens.walk.cases import Prompt, cases
from medlens.walk.heads import heads_of
from medlens.walk.units import Names, check_names

CARDS, DRAWS = 5, 100
OTHER = "other"  # domain of images of which none of the words is true
GATED = 12  # samples of a word (and as many of others) that are tried on other images
PHANTOM_SAMPLES = 2_400  # of all kinds of question: on some 400 slices


def neurons(
    model: Model | str | Path = "phantom",
    samples: Sequence[Sample] | str | Path = "phantom",
    concept: str | None = None,
    by: str | None = None,
    out: str | Path = "runs/neurons",
    plan: Plan = Plan(),  # noqa: B008 (frozen)
    *,
    cards: int = CARDS,
    draws: int = DRAWS,
    names: tuple[str, str] = Names(),
    heads: bool | None = None,
    watcher: Watcher | None = None,
) -> store.Run:
    """Find the units of the MLPs that make a model say a word of an image, prove that they matter, and read them; write a run.

    concept: a word, true of samples whose answer it is. by: a field or tag ("modality"; "finding" also finds what data call a
    lesion), each of whose values that is one word of the vocabulary is a concept; with both, `concept` is the one value. Images
    (patients, where the data name them) are divided into halves: units are ranked on discovery images, and everything else is
    measured on test images. cards: of each word so many units are looked at one by one. draws: of layer-matched random units that
    the top 1 % are compared with. names: of gate and down projection in a block. heads: whether attention heads are looked
    at too, one by one; by default where there are few (256). plan: limit, seed, and how the model is loaded.

    The run has the tables `neurons`, `effects`, `cards` and `heads`, and a page, report.html.
    Raises a MedlensError: see `study`, and BadInput for a word that no one token says and too few images of which it is true or
    false; BadModel for blocks without such parts.
    """
    watcher, out = watcher or Nobody(), Path(out)
    _check(plan, cards, draws)
    store.check_place(out)
    if str(samples) == "phantom":
        plan = replace(plan, limit=plan.limit or PHANTOM_SAMPLES)
    with Meter() as meter, explained(out):
        prepared = prepare(model, samples, plan, watcher)
        check_names(prepared.model, Names(*names))
        shown = [prompt for prompt in prepared.prompts if "image" in prompt.tokens.groups]
        if not shown:
            raise BadInput(f"units are looked for in what is seen; none of {len(prepared.prompts)} samples has an image")
        concepts, left = concepts_of(prepared.model, shown, concept, by)
        patching = _patching(prepared.model, heads)
        asked = json.dumps([concept, by, cards, draws, list(names), patching])
        identity = prepared.identity | {"neurons": hashlib.sha256(asked.encode()).hexdigest()[:16]}
        if (done := store.finished(out, identity)) is not None:
            return done
        began = time.monotonic()
        with unfinished(out, identity) as work:
            job = _Job(prepared, concepts, Names(*names), cards, draws, patching, work.scratch, watcher)
            job.run()
            with work.becoming(out) as folder:
                job.write(folder)
                told = {
                    "by": by,
                    "concepts": [_told(prepared.model, c) for c in concepts],
                    "left": left,
                    "cards": cards,
                    "draws": draws,
                    "heads": patching,
                } | job.told
                seconds = {"walking": round(time.monotonic() - began, 2)}
                store.write_manifest(folder, prepared.manifest(identity, seconds, meter.peak) | {"neurons": told})
                write_neurons(folder)
    return store.open_run(out)


class _Job:
    """Finds, proves and reads; then writes what came of it."""

    def __init__(
        self, prepared: Prepared, concepts: list[Concept], names: Names, cards: int, draws: int, patching: bool,
        scratch: Path, watcher: Watcher,
    ) -> None:  # fmt: skip
        self.prepared, self.concepts, self.names, self.cards, self.draws = prepared, concepts, names, cards, draws
        self.patching, self.scratch, self.watcher, self.seed = patching, scratch, watcher, prepared.plan.seed
        self.tables: dict[str, list[dict[str, Any]]] = {"neurons": [], "effects": [], "cards": [], "heads": []}
        self.pictures: dict[str, bytes] = {}
        self.prompts = [p for p in prepared.prompts if any(p.sample.id in c.true for c in concepts)]
        self.places = places_of(self.prompts, concepts, self.seed)
        tested = {s for of in self.places.values() for s, place in of.items() if place.half == "test"}
        self.told: dict[str, Any] = {"known": {}, "gate": {}, "test": [p.sample.id for p in self.prompts if p.sample.id in tested]}

    def run(self) -> None:
        model, concepts, watcher = self.prepared.model, self.concepts, self.watcher
        laid = cases(model, self.prompts)
        watcher.begin("attributing", 2 * len(laid) * model.depth)
        found = find(model, laid, concepts, self.places, self.names, self.scratch, watcher.tick)
        self.told |= {"units": found.total, "top": dose(found.total, MAIN)}
        bench = Bench(model, self.prompts, concepts, self.places, self.names, self.scratch, self.seed, watcher.tick)
        reader = self._reader(found)
        questions = [p.sample.question for p in self.prompts]
        texts = Texts(model, [c.word for c in concepts], questions, self.names, self.seed)
        for concept in concepts:
            self._one(concept, found, bench, reader, texts)
        if self.patching:
            self._heads(bench)

    def _one(self, concept: Concept, found: Found, bench: Bench, reader: Reader, texts: Texts) -> None:
        watcher = self.watcher
        units = found.seeing(concept.word, self.told["top"], self.cards)
        effects = Effects(bench, found, concept, self.draws, self.seed)
        watcher.begin(f"proving {concept.word}", self.draws + 7 * FEW + 7 + len(self.concepts) + 2 * len(units) * (FEW + 1))
        known = effects.known()
        effects.of_the_top()
        alone = {unit: effects.of_one(unit) for unit in units}
        watcher.begin(f"reading {concept.word}", sum(len(p) for p in reader.prompts.values()) * self.prepared.model.depth)
        columns, masks = reader.looked_at(concept, units, watcher.tick)
        heard = texts.heard(units, {(concept.word, unit): reader.sign(concept.word, unit) for unit in units})
        for unit in units:
            names = [f"cards/{concept.id}-{unit[0]}-{unit[1]}-{k}.png" for k in range(len(masks[unit]))]
            of_text = heard.get((concept.word, unit))
            made = card(reader, concept, unit, columns[unit], of_text, (known.low or 0) > 0, *alone[unit])
            self.tables["cards"].append(made | {"pictures": names})
            self.pictures |= {n: masked(self.prepared.model, *of) for n, of in zip(names, masks[unit], strict=True)}
        self.told["known"][concept.word] = [known.low, known.high]
        self.told["gate"][concept.word] = self._gate(concept)
        self.tables["neurons"] += found.rows[concept.word]
        self.tables["effects"] += effects.rows

    def _gate(self, concept: Concept) -> dict[str, Any]:
        """Whether the word rests on the image as an answer, of some test samples of which it is true (those of which it is false
        lend their images)."""
        places = self.places[concept.id]
        halves = {
            true: [p for p in self.prompts if concept.true.get(p.sample.id) == true and places[p.sample.id].half == "test"][:GATED]
            for true in (True, False)
        }
        chosen = [*halves[True], *halves[False]]
        found = gates(self.prepared.model, chosen, answers=[concept.word] * len(chosen), seed=self.seed)[: len(halves[True])]
        return {"answers": len(found), "gated": sum(not gate.rests for gate in found), "words": stamp(found)}

    def _heads(self, test: Bench) -> None:
        model, concepts, watcher = self.prepared.model, self.concepts, self.watcher
        watcher.begin("reading attention", len(test.prompts) * model.depth + 1)
        discovery = Bench(
            model, self.prompts, concepts, self.places, self.names, self.scratch, self.seed, watcher.tick, "discovery"
        )  # fmt: skip
        heads = Heads(model, discovery, test, self.draws, self.seed, watcher.tick)
        for concept in concepts:
            watcher.begin(f"patching heads for {concept.word}", heads.cost(concept))
            rows, effects = heads.of(concept)
            self.tables["heads"] += rows
            self.tables["effects"] += effects

    def _reader(self, found: Found) -> Reader:
        first: dict[str, dict[str, Prompt]] = {half: {} for half in HALVES}
        for prompt in self.prompts:
            place = next(p for p in (self.places[c.id].get(prompt.sample.id) for c in self.concepts) if p is not None)
            if "image" in prompt.tokens.groups:
                first[place.half].setdefault(prompt.image, prompt)
        prompts = {half: list(of.values()) for half, of in first.items()}
        return Reader(self.prepared.model, found, self.names, prompts, self._domains(), np.random.default_rng(self.seed))

    def _domains(self) -> dict[str, str]:
        """Of each image its modality, where the data name it; else which of the words is true of it."""
        named = {p.image: str(m) for p in self.prompts if (m := p.sample.tags.get("modality")) is not None}
        if len(set(named.values())) > 1:
            return named
        true = {p.image: c.word for p in self.prompts for c in self.concepts if c.true.get(p.sample.id)}
        return {p.image: true.get(p.image, OTHER) for p in self.prompts}

    def write(self, folder: Path) -> None:
        shown, intake = {prompt.sample.id for prompt in self.prompts}, self.prepared.intake
        unused = {sample.id: "" for sample in intake.samples if sample.id not in shown}
        _record.write_tables(folder, intake.without(unused), [None] * len(self.prompts), Findings())
        store.write_table(folder, "claims", [])
        for name, rows in self.tables.items():
            known = store.TABLES[name]
            store.write_table(folder, name, [{k: row.get(k) for k in known} for row in rows])
        for name, content in self.pictures.items():
            store.write(folder / name, content)


def _check(plan: Plan, cards: int, draws: int) -> None:
    if plan.workers > 1 or plan.cluster is not None:
        raise BadInput("units are found in one process: leave out workers and cluster")
    if cards < 1 or draws < FEW:
        raise BadInput(f"at least 1 card and {FEW} draws (fewer cannot tell anything at 5 %); got {cards} and {draws}")


def _patching(model: Model, heads: bool | None) -> bool:
    """Whether heads are looked at: one by one takes long where there are many. Raises BadModel where they were asked for and
    attention has no such parts."""
    if heads is not None:
        return heads and all(heads_of(model, b) for b in range(model.depth))
    try:
        return sum(heads_of(model, b) for b in range(model.depth)) <= CHEAP
    except BadModel:
        return False


def _told(model: Model, concept: Concept) -> dict[str, Any]:
    (token,) = model.tokenizer.convert_ids_to_tokens([concept.id])
    true, samples = sum(concept.true.values()), len(concept.true)
    return {"word": concept.word, "token": token, "true": true, "samples": samples, "asked": list(concept.asked)}
