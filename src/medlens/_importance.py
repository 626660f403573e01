"""Which blocks matter: every rule's verdict on every block, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from medlens._flow import flow
from medlens.errors import BadInput
from medlens.instruments.importance import Importance
from medlens.models.base import Model
from medlens.walk.cases import Prompt, cases
from medlens.walk.forward import walk
from medlens.walk.layout import layout_of

READING = "image_reading"
FOLDS = 10


def importance(
    model: Model, prompts: Sequence[Prompt], scratch: Path | None = None, *, folds: int = FOLDS, seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of the table `importance`: of each block, by each rule, for image tokens, the question's ("text") and all.

    Of every rule a larger value says that the block does more: `nonlinearity` (1 - linearity of the update), `block_influence`
    (Men et al. 2024), `angular_distance` (Gromov et al. 2024), with intervals that leave out folds of whole images; and, where
    `scratch` is a folder for states, `image_reading`: the nats of log-odds that the answers lose on their own image more than on
    another, when no token sees the image in this block (see `flow`). `tick` is called once for each case and block, and then for
    each window.

    Raises BadInput without prompts, and for a number of folds below two.
    """
    if not prompts or folds < 2:
        raise BadInput(f"importance needs prompts, and two folds of images or more; got {len(prompts)} prompts, {folds} folds")
    laid = cases(model, prompts)
    visitor = Importance(layout_of(laid, folds))
    walk(model, laid, [visitor], tick)
    if scratch is not None:
        visitor.rows += reading(flow(model, prompts, scratch, width=1, paths=["image to all"], seed=seed, tick=tick))
    return visitor.rows


def reading(flowing: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table `importance` from those of the table `flow`, of windows of one block."""
    return [
        {"rule": READING, "layer": row["begin"], "tokens": "image", "value": -row["own_value"], "low": _minus(row["own_high"]),
         "high": _minus(row["own_low"]), "n": row["n"], "note": row["note"]}
        for row in flowing if row["path"] == "image to all" and row["end"] - row["begin"] == 1
    ]  # fmt: skip


def least_important(rows: Iterable[dict[str, Any]], rule: str, tokens: str = "all") -> list[int]:
    """The blocks, those that a rule would take out first in front. Raises BadInput where it has no rows, or an undefined one."""
    found = {row["layer"]: row["value"] for row in rows if row["rule"] == rule and row["tokens"] == tokens}
    if not found or any(value != value for value in found.values()):
        raise BadInput(f"the rule {rule} says nothing of the blocks at {tokens} tokens: {found or 'no rows'}")
    return sorted(found, key=lambda block: (found[block], block))


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
