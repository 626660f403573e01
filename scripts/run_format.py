"""Write docs/run-format.md: every file and table of a run, from the columns and their comments in src/medlens/tables/.

python scripts/run_format.py
"""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

from medlens import store
from medlens.store import FORMAT, TABLES, Run

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "run-format.md"
HEAD = """# What a run holds

This page is written by `python scripts/run_format.py` from the columns and their comments in `src/medlens/tables/`; a test holds it
to them. A run is a folder of format {format}. All of it can be read without medlens: JSON, parquet, safetensors, PNG, SVG and HTML.

| file | what it is |
|---|---|
| `manifest.json` | `format`, and what made the run: plan, model, data, versions, machine, timings, `identity` |
| `NAME.parquet` | the tables below, as far as the command that made the run writes them |
| `{states}` | a few rows of every state, for measures of your own |
| `pictures/`, `cards/` | the images that were studied, de-identified; those of single units |
| `charts/` | the report's figures as SVG and PNG |
| `report.html` | the report: one file that needs nothing else |

There is no path and no header of an image in it. While it is made, it stands in `NAME.part` beside its place:
`identity.json` (whose it is), `answers.jsonl`, `progress.json` (what the last finished block left, with the SHA-256 of every file
that it counts on), `kept-*` and `lens-*` (what was found, block by block), `views/` (at single samples, with a `progress.json` of
its own), `state-*.bin` (float32, where the cases wait), `lock`.

## Versions

`format` is one number for the layout of the folder. A reader refuses another one, and a table that lacks a column, in one line that
says what to do; nothing is guessed and nothing is filled in. Columns may be added at the end of a table without a new number: an
older reader does not see them. One that is renamed, taken away or means something else is a new number.

```pycon
>>> from pathlib import Path
>>> import medlens
>>> old = Path("old")
>>> old.mkdir()
>>> _ = (old / "manifest.json").write_text('{{"format": 0}}')
>>> medlens.open_run(old)
Traceback (most recent call last):
    ...
medlens.errors.BadRun: old is a run of format 0; this medlens reads format {format}: repeat the study

```

## Tables
"""


def comments(module: Path) -> dict[int, str]:
    """What is said at the end of each line of a module."""
    tokens = tokenize.generate_tokens(io.StringIO(module.read_text()).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def said() -> dict[tuple[str, str], str]:
    """The comment of each table (with an empty name) and of each of its columns, by where their names stand."""
    found: dict[tuple[str, str], str] = {}
    for module in sorted((ROOT / "src" / "medlens" / "tables").glob("*.py")):
        at, lines = "", comments(module)
        for number, line in enumerate(module.read_text().splitlines(), start=1):
            name = line.strip().split('"')[1] if line.strip().startswith('"') and '":' in line else ""
            if name in TABLES and line.startswith("    ") and not line.startswith("     "):
                at = name
                found[at, ""] = lines.get(number, "")
            elif at and name:
                found[at, name] = lines.get(number, "")
    return found


def page() -> str:
    """The whole page."""
    told, parts = said(), [HEAD.format(format=FORMAT, states=store.STATES)]
    for name, columns in TABLES.items():
        words = getattr(Run, name).__doc__
        parts.append(f"\n### {name}\n\n{words}" + (f" ({told[name, '']})" if told.get((name, "")) else "") + "\n\n")
        parts.append("| column | type | |\n|---|---|---|\n")
        for column, kind in columns.items():
            parts.append(f"| `{column}` | {kind} | {escaped(told.get((name, column), ''))} |\n")
    return "".join(parts)


def escaped(words: str) -> str:
    return words.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE.name}: {len(TABLES)} tables")
