"""A finished run whose tables are filled by invention: everything that a report can show, and what it must not stumble over."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import polars as pl
from PIL import Image

from medlens.report.readings import READINGS
from medlens.tables import TABLES

HOSTILE = "<script>alert('x')</script>"
PAIR_BEHIND = ("linearity_floor", "linearity_of_update_floor")
OF_ROWS = ("intrinsic_dimension_of_half", "intrinsic_dimension_of_quarter", "intrinsic_dimension_of_eighth")
BASELINES = ("baseline_cosine", "baseline_mev")
STATES = [name for name, reading in READINGS.items() if not reading.of_pairs] + [*OF_ROWS, *BASELINES]
PAIRS = [name for name, reading in READINGS.items() if reading.of_pairs] + [*PAIR_BEHIND]


def invented(run, folder: Path) -> Path:
    """A copy of a run with every measure, protocol, variant and subgroup; no intervals at layers 2 and 3; layer 5 of the
    the text is undefined."""
    shutil.copytree(run.path, folder)
    rows = [row for measure in STATES for row in _rows(measure, 9)] + [row for measure in PAIRS for row in _rows(measure, 8)]
    frame = pl.DataFrame(rows, schema=run.rows.schema, orient="row")
    frame.write_parquet(folder / "rows.parquet")
    first = frame.filter(pl.col("protocol") == "sound", pl.col("low").is_not_null())
    folds = pl.DataFrame({"fold": range(5)}, schema={"fold": pl.Int32})
    first.select(*list(run.left_out.schema)[:6], "value").join(folds, how="cross").select(list(run.left_out.schema)).write_parquet(
        folder / "left_out.parquet"
    )
    found = [(layer, f"s{k}", 1, HOSTILE if k else "<s>", "template", 7, 800.0 + k) for layer in (3, 4) for k in range(3)]
    pl.DataFrame(found, schema=run.massive.schema, orient="row").write_parquet(folder / "massive.parquet")
    claims(folder)
    maps(folder)
    manifest(folder)
    words(folder)
    return folder


def maps(folder: Path) -> None:
    """Two samples with maps: one trusted, one not, one that is not there; and methods by how well they lie on what is there."""
    names = pl.read_parquet(folder / "samples.parquet")["sample"].to_list()
    first, second = names[0], names[-1]
    (folder / "maps").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30), (200, 40, 40)).save(folder / "maps" / "000.png")
    Image.new("RGB", (9, 9)).save(folder.parent / "secret.png")
    rows = [
        (first, 0, "relevance", HOSTILE, None, "trust", "", HOSTILE, "maps/000.png"),
        (first, 1, "occlusion", "yes", None, "do not trust", HOSTILE, "", "../secret.png"),
        (second, 0, "relevance", "yes", 4, "trust", "", "", "maps/000.png"),
        (second, None, HOSTILE, None, None, "no map", HOSTILE, None, None),
    ]
    pl.DataFrame(rows, schema=TABLES["trust"], orient="row").write_parquet(folder / "trust.parquet")
    checks = [(first, "occlusion", "deletion", HOSTILE, 0.1, 0.2, False)]
    pl.DataFrame(checks, schema=TABLES["checks"], orient="row").write_parquet(folder / "checks.parquet")
    board = [("all", "all", HOSTILE, None, True, "pointing", 0.7, 0.6, 0.8, 20, 10)]
    pl.DataFrame(board, schema=TABLES["leaderboard"], orient="row").write_parquet(folder / "leaderboard.parquet")
    gates = [(first, True, 3.0, 0.5, 8, HOSTILE), (second, False, 0.1, 0.5, 8, "")]
    pl.DataFrame(gates, schema=TABLES["gates"], orient="row").write_parquet(folder / "gates.parquet")


def words(folder: Path) -> None:
    """Tokens of a hostile tokenizer."""
    for name, column in (("lens", pl.lit([HOSTILE] * 5).alias("words")), ("lens_words", pl.lit(HOSTILE).alias("word"))):
        if (path := folder / f"{name}.parquet").exists():  # a run by hand has none
            pl.read_parquet(path).with_columns(column).write_parquet(path)


def manifest(folder: Path) -> None:
    """A model and data of hostile names."""
    path = folder / "manifest.json"
    told = json.loads(path.read_text())
    told["model"]["name"] = told["data"]["name"] = told.setdefault("machine", {})["system"] = HOSTILE
    told["data"]["skipped"] = [HOSTILE]
    told["command"] = f"medlens study $MODEL $DATA --claim '{HOSTILE}' --out RUN"
    path.write_text(json.dumps(told))


def claims(folder: Path) -> None:
    said = [
        ("anisotropy/image falls", "anisotropy of image tokens falls steadily", "supported", -0.01, -0.02, -0.005, 8, "slope"),
        ("anisotropy/text below 0.2", f"low {HOSTILE}", "not supported", 0.4, 0.3, 0.5, 8, HOSTILE),
        ("", "Grad-CAM lies on the pathology", "cannot be said", None, None, None, 0, "not measured in this run"),
        ("mev/image falls", "", "cannot be said", math.nan, None, None, 8, "a NaN of a stranger"),
    ]
    names = ("claim", "sentence", "verdict", "value", "low", "high", "layers", "note")
    pl.DataFrame([dict(zip(names, row, strict=True)) for row in said]).write_parquet(folder / "claims.parquet")


def _rows(measure: str, count: int):
    scale = 12.0 if "dimension" in measure or measure in ("participation_ratio", "effective_rank") else 0.6
    if measure in OF_ROWS:
        scale *= 0.85 ** (1 + OF_ROWS.index(measure))
    for layer in range(count):
        for tokens in ("image", "text", "all"):
            tilt = 1 + 0.3 * math.sin(layer / 2 + (tokens == "text"))
            for protocol, variant, factor in _kinds(layer, count):
                value = scale * tilt * factor
                if tokens == "text" and layer == 5:
                    yield (protocol, measure, layer, tokens, "all", variant, math.nan, None, None, 40, "40 rows & too few")
                    continue
                wide = 0.08 * scale if variant == "raw" and layer not in (2, 3) else None
                ends = (None, None) if wide is None else (value - wide, value + wide)
                yield (
                    protocol,
                    measure,
                    layer,
                    tokens,
                    "all",
                    variant,
                    value,
                    *ends,
                    900,
                    "" if wide else "no interval: rows in 1 fold",
                )
            for k, group in enumerate(("modality=CT", "modality=MR", f"modality={HOSTILE}")):
                value = scale * tilt * (0.9 + 0.08 * k)
                yield ("sound", measure, layer, tokens, group, "raw", value, value * 0.9, value * 1.1, 300 - k, "")


def _kinds(layer: int, count: int):
    yield from (("sound", "raw", 1.0), ("sound", "without massive", 0.8), ("sound", "standardised", 1.12))
    yield from (("null: pairs", "raw", 0.2), ("null: weights", "raw", 0.5), ("null: noise", "raw", 30.0), ("published", "raw", 1.3))
    if layer == count - 1:
        yield ("sound", "normed", 1.05)
