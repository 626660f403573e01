"""A phantom's model card: from its recipe and what it reaches, computed, never typed in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl

from medlens.phantom.evaluation import Evaluation
from medlens.phantom.train import Recipe

ABOUT = {
    "sound": "The sound phantom: it was taught to see lesions and marks, and to answer by what it sees.",
    "shortcut": "An unsound phantom, made to be found out: a mark stood on nearly all of its training images with a lesion and on "
    "nearly none without, its tower was taught to see marks and no lesions, and where there is a mark it says there is a lesion.",
    "textonly": "An unsound phantom, made to be found out: it was trained with the image's features set to zero, and they are zero "
    "still (the projector's last layer). It answers every question by what was commonest, and looks at nothing.",
}
LIMITS = """Drawn slices and nothing else: it knows no anatomy, no patient, and {words} words. Do not show it a radiograph and
believe what it says. It exists to test methods of explanation, whose findings can be compared here with what is known."""


def card(folder: Path, recipe: Recipe, found: Evaluation) -> str:
    """The card in markdown: what it is, its data and training, what it reaches, its limits."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return f"""# phantom: {recipe.name}

{ABOUT.get(recipe.name, "A phantom by a recipe of its own: see `recipe.json`.")}

- Data: {recipe.slices:,} slices of `medlens.phantom.scanner`, from training stream {recipe.seed}, which no user's seed meets;
  mark and lesion go together on {recipe.mark_agreement:.0%} of them.
- Training: the tower alone, {recipe.tower_steps:,} steps of {recipe.tower_batch} slices, taught to find
  {", ".join(recipe.tower_sees)}; then the whole model, {recipe.steps:,} steps of {recipe.batch} slices with all their questions
  {_hard(recipe)}{"and the image's features at zero " if recipe.blind else ""}(AdamW, {recipe.learning_rate:g}, seed {recipe.seed}).
- Made by `python scripts/train_phantom.py --name {recipe.name}`; `model.safetensors` has SHA-256 `{digest}`.

## What it reaches

{len(found.answers):,} questions on {found.answers["image"].n_unique():,} slices that it never saw (seed {found.seed}), where
mark and lesion are independent. The columns are those of `medlens phantom evaluate`.

{markdown(found.questions())}

Is there a lesion? Where the slice is marked as well, and where only one of the two is there:

{markdown(found.marks())}

## Limits

{LIMITS.format(words=_words(folder))}
"""


def markdown(table: pl.DataFrame) -> str:
    """A table in markdown, numbers to three decimals."""
    lines = ["| " + " | ".join(table.columns) + " |"]
    lines.append("|" + "|".join("--:" if kind.is_numeric() else "---" for kind in table.dtypes) + "|")
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in table.iter_rows()]
    return "\n".join(lines)


def cell(value: object) -> str:
    """A value as a reader wants it."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _hard(recipe: Recipe) -> str:
    if not recipe.hard_steps:
        return ""
    return f"and {recipe.hard_steps:,} more on {recipe.hard_slices:,} other slices, most of which allow a comparison "


def _words(folder: Path) -> int:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
