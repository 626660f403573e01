"""The first screen: what came out, in a few numbers, each with its interval and a link to what it stands on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from medlens.report.lens import settled
from medlens.report.parts import CLASSES
from medlens.spread import clustered
from medlens.store import Run

ORDER = ("right", "wrong", "open")
LEVEL = 0.05


class Share(NamedTuple):
    """A share of n, with its interval."""

    name: str
    hits: int
    n: int
    value: float
    low: float
    high: float


class Tile(NamedTuple):
    """A question, its answer in a few words, and whether that is good news: right, wrong, or open. shares: to be drawn as bars;
    lines: small print, each with a class; anchor: of the part of the page that says more."""

    asks: str
    answer: str
    verdict: str
    anchor: str
    shares: Sequence[Share] = ()
    lines: Sequence[tuple[str, str]] = ()


def tiles(run: Run, claims: Sequence[dict[str, Any]]) -> list[Tile]:
    """What can be said of this run; what cannot is in `unknown`."""
    found = (_claims(claims), _answers(run), _reliance(run), _maps(run), _lens(run))
    return [tile for tile in found if tile is not None]


def there(run: Run, name: str) -> bool:
    """Whether a run has this table, with something in it."""
    return (run.path / f"{name}.parquet").exists() and getattr(run, name).height > 0


def verdict_of(claim: dict[str, Any]) -> str:
    """Of a sentence, from what it was read as: wrong as soon as one part is, right only if all are."""
    parts = {CLASSES.get(part["verdict"], "open") for part in claim["parts"]}
    return "wrong" if "wrong" in parts else "right" if parts == {"right"} else "open"


def _claims(claims: Sequence[dict[str, Any]]) -> Tile | None:
    if not claims:
        return None
    said = sorted(((verdict_of(claim), claim["sentence"]) for claim in claims), key=lambda s: ORDER.index(s[0]))
    counts = [sum(v == kind for v, _ in said) for kind in ORDER]
    words = "{} supported, {} not, {} cannot be said".format(*counts)
    return Tile("Do the published claims hold here?", words, "", "claims", lines=said)


def right_by_type(run: Run) -> list[Share]:
    """How many generated answers equal the true one, by question type; intervals cluster by patient, or image."""
    known = run.samples.join(run.answers.drop("answer"), on="sample").filter(pl.col("correct").is_not_null())
    known = known.with_columns(pl.col("question_type").fill_null("all"), unit=pl.coalesce("patient", "image"))
    found = [_share(str(name), mine) for (name,), mine in known.group_by("question_type", maintain_order=True)]
    return ([_share("all questions", known)] if len(found) > 1 else []) + found


def _share(name: str, rows: pl.DataFrame) -> Share:
    correct = rows["correct"].to_list()
    return Share(name, sum(correct), len(correct), *clustered([float(c) for c in correct], rows["unit"].to_list()))


def _answers(run: Run) -> Tile | None:
    found = right_by_type(run)
    if not found:
        return None
    whole = found[0]
    words = f"{whole.hits:,} of {whole.n:,}: {percent(whole.value)} ({100 * whole.low:.0f} to {100 * whole.high:.0f})"
    return Tile("Are its answers right?", words, "", "answers", shares=found)


def _reliance(run: Run) -> Tile | None:
    if not there(run, "gates"):
        return None
    joined = run.gates.join(run.samples, on="sample").with_columns(unit=pl.coalesce("patient", "image"))
    share = _share("rest on it", joined.rename({"rests": "correct"}))
    words = f"{share.hits:,} of {share.n:,} answers do: {percent(share.value)} ({100 * share.low:.0f} to {100 * share.high:.0f})"
    verdict = "right" if share.low > 0.5 else "wrong" if share.high < 0.5 else "open"
    return Tile("Do answers rest on the image?", words, verdict, "answers", shares=[share])


def trusted_by_method(run: Run) -> list[Share]:
    """Of each method the maps that are trusted, the most trusted first; a map that could not be made is none."""
    joined = (
        run.trust.filter(pl.col("map").is_not_null())
        .join(run.samples, on="sample")
        .with_columns(correct=pl.col("verdict") == "trust", unit=pl.coalesce("patient", "image"))
    )
    found = [_share(str(name), mine) for (name,), mine in joined.group_by("method", maintain_order=True)]
    return sorted(found, key=lambda share: -share.value)


def _maps(run: Run) -> Tile | None:
    if not there(run, "trust") or not (found := trusted_by_method(run)):
        return None
    best, maps = found[0], sum(share.n for share in found)
    alike = [share.name for share in found if share.value == best.value]
    who = alike[0] if len(alike) == 1 else f"{len(alike)} methods alike"
    words = f"{who}: {best.hits} of {best.n} trusted" if best.hits else f"none of {maps} maps is trusted"
    return Tile("Which map can be trusted?", words, "right" if best.low > 0.5 else "open" if best.hits else "wrong", "maps", found)


def varying(run: Run) -> list[tuple[int, int, int]]:
    """State, how many of the words that stand first most often at its image tokens vary with the image (p times their number below
    0.05: Bonferroni within the state), and how many could. Empty where none could: of a single image."""
    words = run.lens_words.filter(pl.col("p").is_finite()).group_by("layer", maintain_order=True).agg(p=pl.col("p"), n=pl.len())
    return [(layer, sum(p * n < LEVEL for p in every), n) for layer, every, n in words.iter_rows()]


def _lens(run: Run) -> Tile | None:
    if not there(run, "lens_words"):
        return None
    asks = "Do the words of image tokens vary with the image?"
    if not (found := varying(run)):
        return Tile(asks, "cannot be said of a single image", "open", "lens")
    (first, some, of), (last, more, n) = found[0], found[-1]
    words = f"{more} of {n} words at state {last} vary with the image"
    lines = [("", f"at state {first}: {some} of {of}")] if first != last else []
    least = max(found, key=lambda state: state[1])
    lines += [("", f"most at state {least[0]}: {least[1]} of {least[2]}")]
    decided = settled(run.decisions) if there(run, "decisions") else None
    if decided is not None and (middle := decided["state"].drop_nulls()).len() * 2 >= decided.height:
        half = middle.sort()[(decided.height + 1) // 2 - 1]
        lines.append(("", f"half of the answers are on top from state {half} on"))
    # That few are seen to vary is no proof that they do not; that many do, none that they are words of what is seen.
    return Tile(asks, words, "right" if 2 * more >= n else "open", "lens", lines=lines)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"
