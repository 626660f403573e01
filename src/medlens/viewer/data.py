"""What the viewer shows of a run: an index of its samples, each sample, and each of its blocks. Reads the store alone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import polars as pl

from medlens import store
from medlens.errors import BadRun, OldRun
from medlens.store import Run
from medlens.viewer import packing
from medlens.viewer.pictures import data_url
from medlens.viewer.pieces import packed

FROM = {  # what writes a table
    "lens": "medlens study MODEL DATA --instrument lens",
    "decisions": "medlens study MODEL DATA --instrument lens",
    "looks": "medlens study MODEL DATA --instrument tokens",
    "fires": "medlens study MODEL DATA --instrument tokens",
    "maps": "medlens study MODEL DATA --instrument maps --map-images 2",
    "gates": "medlens reliance MODEL DATA",
    "cards": "medlens neurons MODEL DATA --by finding",
}
MORE = dict.fromkeys(FROM, "medlens study MODEL DATA --lens-images N") | {
    "maps": "medlens study MODEL DATA --map-images N",
    "gates": "medlens reliance MODEL DATA",
}
OF_BLOCKS = ("looks", "fires")
OF_SAMPLES = ("lens", "decisions", "looks", "fires", "maps", "gates")
ABOUT = ("question", "question_type", "answer", "said", "correct", "file", "image")
SAMPLE = ("sample", "image", "question", "question_type", "answer", "file", "picture")
LONGEST = 2**20  # tokens of a prompt
KEPT = 256  # pieces that are kept in memory
PATH = re.compile(r"([01])/sample/([0-9]{1,7})(?:/block/([0-9]{1,4}))?")


def open_shown(path: str | Path) -> Shown:
    """A run as the viewer sees it. Raises BadRun where there is none, or it is unfinished or damaged."""
    return Shown(store.open_run(path))


def piece(runs: Sequence[Shown], path: str) -> bytes | None:
    """What the component asks for, wherever it is: "index", "0/sample/3" (of the first run) or "0/sample/3/block/12". None where
    nothing is there."""
    if path == "index":
        return packed([shown.index for shown in runs])
    if not (found := PATH.fullmatch(path)):
        return None
    run, place, block = int(found[1]), int(found[2]), int(found[3]) if found[3] else None
    if run >= len(runs) or place >= len(runs[run].samples) or (block is not None and block >= runs[run].depth):
        return None
    return runs[run].payload(place, block)


class Shown:
    """A run as it is sent (see `pieces`)."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.lock = Lock()  # many readers ask at once: a table is cut once, and not by each of them
        self.kept = lru_cache(KEPT)(lambda place, at: packed(self.sample(place) if at is None else self.block(place, at)))
        self.parts: dict[str, dict[tuple[Any, ...], pl.DataFrame]] = {}  # of tables, the rows of each sample
        _ = self.samples

    # ---- the whole run

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """What was asked, in order. Of a run without `samples`, such as of `medlens explain`, the one in its manifest."""
        if (table := self._table("samples")) is not None:
            said = self._table("answers")
            table = table.select(*SAMPLE)
            if said is not None:
                said = said.select("sample", said="answer", correct="correct")
                table = table.join(said, on="sample", how="left", maintain_order="left")
            return table.to_dicts()
        about = self.run.manifest
        if "sample" not in about:
            raise BadRun(f"{self.run.path.name} holds no samples to look at; give a run of study, neurons, reliance or explain")
        said = {"question": about.get("question"), "said": about.get("answer"), "answer": about.get("truth")}
        return [dict.fromkeys(SAMPLE) | {"sample": about["sample"]} | said]

    @cached_property
    def index(self) -> dict[str, Any]:
        model = self.run.manifest.get("model", {})
        named = model if isinstance(model, dict) else {"name": model}
        return {
            "run": self.run.path.name,
            "model": str(named.get("name")),
            "fingerprint": named.get("fingerprint"),
            "depth": self.depth,
            "made": self.run.manifest.get("created"),
            "notes": self._notes,
            "samples": [
                {
                    "id": record["sample"],
                    "question": record["question"],
                    "said": record.get("said"),
                    "seen": [table for table in OF_SAMPLES if record["sample"] in self._with[table]],
                }
                for record in self.samples
            ],
            "cards": self._cards,
        }

    @cached_property
    def _notes(self) -> list[str]:
        """What is to be known before the rest is looked at."""
        old = [name for name in store.TABLES if self._file(name).exists() and not self._fits(name)]
        found = [f"written by another version, and not shown: {', '.join(old)}; repeat the study to see them"] if old else []
        if not any(self._file(name).exists() for name in ("looks", "fires")):
            found.append("This run shows no single tokens: it is of an older medlens, or of another command than study.")
        return found

    @cached_property
    def depth(self) -> int:
        """Blocks: as the manifest says, or as far as the tables go."""
        model = self.run.manifest.get("model")
        if isinstance(model, dict) and isinstance(model.get("blocks"), int):
            return model["blocks"]
        table = self._table("maps")
        return 0 if table is None else 1 + max(table["layer"].drop_nulls().to_list(), default=-1)

    @cached_property
    def _cards(self) -> dict[str, list[dict[str, Any]]]:
        """Cards of units by their name, "12.431"; a unit may have one for each word."""
        found: dict[str, list[dict[str, Any]]] = {}
        for card in packing.records(table) if (table := self._table("cards")) is not None else []:
            pictures = [data_url(self.run.path, name) for name in card.pop("pictures") or []]
            shown = {name: card[name] for name in ("concept", "verdict", "raises", "lowers", "iou_ratio", "text_p", "note")}
            found.setdefault(f"{card['layer']}.{card['unit']}", []).append(shown | {"pictures": [p for p in pictures if p]})
        return found

    # ---- one sample

    def payload(self, place: int, at: int | None = None) -> bytes:
        """`sample`, or its `block` `at`, as it is sent; from any thread."""
        with self.lock:
            return self.kept(place, at)

    def sample(self, place: int) -> dict[str, Any]:
        """What is shown of the sample at this place of the index, but for what is known block by block. Raises IndexError."""
        record = self.samples[place]
        tables = {table: self._of(table, record["sample"]) for table in OF_SAMPLES}
        there = {table: rows for table, rows in tables.items() if rows is not None}
        tokens, gate, swaps = self._tokens(tables), self._gate(tables["gates"]), self._of("reliance", record["sample"])
        return {
            "id": record["sample"],
            "about": {name: record.get(name) for name in ABOUT},
            "picture": data_url(self.run.path, record["picture"]),
            "tokens": tokens,
            "patches": self._patches(record["sample"], tokens, tables),
            "lens": packing.lens(there["lens"]) if "lens" in there else None,
            "decisions": packing.records(there["decisions"].sort("layer"), "sample") if "decisions" in there else None,
            "blocks": self.blocks(place),
            "maps": self._maps(record["sample"], tables["maps"]),
            "gate": gate,
            "swaps": None if swaps is None else packing.records(swaps, "sample", "donor"),
            "missing": {name: self._missing(name) for name in OF_SAMPLES if name not in there and not (name == "gates" and gate)},
        }

    def blocks(self, place: int) -> list[int]:
        """Those of which something is known."""
        tables = [self._of(table, self.samples[place]["sample"]) for table in OF_BLOCKS]
        return sorted({block for table in tables if table is not None for block in table["layer"].to_list()})

    def block(self, place: int, at: int) -> dict[str, Any]:
        """Of a sample what is known of one block: where tokens look, which units fire, what these write. Raises IndexError."""
        tables = {table: self._of(table, self.samples[place]["sample"]) for table in OF_BLOCKS}
        here = {name: table.filter(pl.col("layer") == at) for name, table in tables.items() if table is not None}
        there = {name: rows for name, rows in here.items() if rows.height}
        return {
            "looks": packing.looks(there["looks"]) if "looks" in there else None,
            "fires": packing.fires(there["fires"]) if "fires" in there else None,
            "units": self._writes(there["fires"]) if "fires" in there else None,
        }

    def _tokens(self, tables: dict[str, pl.DataFrame | None]) -> list[dict[str, Any]]:
        """Text and group of each place in the prompt, from whatever table knows it."""
        known: dict[int, tuple[str, str]] = {}
        for name in ("lens", "fires", "looks"):
            if (table := tables[name]) is not None:
                first = table.unique("position", keep="first", maintain_order=True)
                for position, text, group in first.select("position", "token", "tokens").iter_rows():
                    known.setdefault(position, (text, group))
        if (last := max(known, default=-1)) >= LONGEST:
            raise BadRun(f"{self.run.path.name} is damaged: no prompt has {last} tokens")
        every = (known.get(k, ("", "template")) for k in range(1 + last))
        return [{"text": text, "group": group} for text, group in every]

    def _patches(self, sample: str, tokens: list[dict[str, Any]], tables: dict[str, pl.DataFrame | None]) -> dict[str, Any]:
        """Where the image's tokens are in the prompt, and where on the image: boxes are shares of its width and height."""
        positions = [k for k, token in enumerate(tokens) if token["group"] == "image"]
        maps = tables["maps"]
        count = len(positions) if maps is None or positions else maps["token"].n_unique()
        boxes, note = self._boxes(sample, maps, count)
        return {"positions": positions, "boxes": boxes, "note": note}

    def _boxes(self, sample: str, maps: pl.DataFrame | None, count: int) -> tuple[Sequence[Sequence[float | None] | None], str]:
        placed, size = self._of("places", sample), self.run.manifest.get("size")
        if placed is None and maps is not None and size is not None:  # of `medlens explain`: in pixels
            placed = maps.filter(pl.col("map") == maps["map"][0]).with_columns(
                pl.col("left", "right") / size[1], pl.col("top", "bottom") / size[0]
            )
        if placed is not None:
            rows = placed.sort("token").select("left", "top", "right", "bottom").iter_rows()
            boxes = [[packing.number(edge, 6) for edge in box] for box in rows]
            return [None if None in box else box for box in boxes], ""
        side = math.isqrt(count)
        if side * side != count or not count:
            return [], "This run does not say where the image's tokens lie." if count else ""
        cells = [[(k % side) / side, (k // side) / side, (k % side + 1) / side, (k // side + 1) / side] for k in range(count)]
        return cells, "This run does not say where the image's tokens lie: drawn as an even grid over all of it."

    def _writes(self, fires: pl.DataFrame) -> dict[str, Any] | None:
        """Of the units that fire here, in one block, the words that they raise and lower."""
        if (table := self._table("unit_writes")) is None:
            return None
        here = fires.select("layer", unit="units").explode("unit").unique()
        return packing.units(table.filter(pl.col("layer") == fires["layer"][0]).join(here, on=["layer", "unit"], how="semi"))

    def _maps(self, sample: str, maps: pl.DataFrame | None) -> list[dict[str, Any]] | None:
        """Each with its values by token, the verdict of its report card, and what that stands on."""
        cards, checks, found = self._verdicts(sample), self._of("checks", sample), []
        groups = [] if maps is None else maps.group_by("map", "method", "target", "layer", maintain_order=True)
        for (number, method, target, layer), rows in groups:
            about = {"map": number, "method": method, "target": target, "layer": layer}
            card = cards.pop(method, {"verdict": "not judged", "why": "", "note": ""})
            stood = None if checks is None or card["verdict"] == "not judged" else checks.filter(pl.col("method") == method)
            values = [packing.number(value) for value in rows.sort("token")["value"].to_list()]
            found.append(about | card | {"values": values, "checks": [] if stood is None else packing.records(stood, "sample")})
        found += [{"map": None, "layer": None, "values": None, "checks": []} | card for card in cards.values()]
        return found or None

    def _verdicts(self, sample: str) -> dict[str, dict[str, Any]]:
        """Of each method, what its report card came to."""
        if (table := self._of("trust", sample)) is not None:
            return {card["method"]: card for card in packing.records(table, "sample", "map", "layer", "target", "picture")}
        said = self.run.manifest.get("cards", []) if "sample" in self.run.manifest else []
        return {c["method"]: {"verdict": c["verdict"], "why": "; ".join(c["why"]), "note": c["said"] or ""} for c in said if c}

    def _gate(self, gates: pl.DataFrame | None) -> dict[str, Any] | None:
        """Whether the answer rests on the image. Of `medlens explain` it stands in the manifest."""
        if gates is not None:
            return packing.records(gates, "sample")[0]
        return self.run.manifest.get("gate") if "sample" in self.run.manifest else None

    # ---- tables

    def _file(self, name: str) -> Path:
        return self.run.path / f"{name}.parquet"

    def _fits(self, name: str) -> bool:
        """Whether a table has the columns by contract."""
        try:
            self.run.columns(name)
        except OldRun:
            return False
        return True

    def _table(self, name: str) -> pl.DataFrame | None:
        """None where the run lacks it, or has it with other columns."""
        return getattr(self.run, name) if self._file(name).exists() and self._fits(name) else None

    def _of(self, name: str, sample: str) -> pl.DataFrame | None:
        """The rows of a sample; None where there are none."""
        if name not in self.parts:
            table = self._table(name)
            self.parts[name] = {} if table is None else table.partition_by("sample", as_dict=True, maintain_order=True)
        return self.parts[name].get((sample,))

    @cached_property
    def _with(self) -> dict[str, set[str]]:
        """The samples that a table knows of. Their names alone are read: a table of large samples takes a second."""
        there = {name for name in OF_SAMPLES if self._file(name).exists() and self._fits(name)}
        return {name: set(self.run.columns(name, "sample")["sample"] if name in there else []) for name in OF_SAMPLES}

    def _missing(self, name: str) -> dict[str, str]:
        """Why a panel is empty, and the command that would fill it."""
        if not (few := len(self._with[name])):
            return {"why": "Not in this run. What writes it:", "command": FROM[name]}
        return {
            "why": f"Not of this sample: the run holds it of {few} among {len(self.samples)}. More of them:",
            "command": MORE[name],
        }
