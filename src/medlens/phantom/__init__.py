"""The phantom: a test object whose inside is known.

`samples` draws its slices, `sheet` shows them, `evaluate` asks a model all about them; `medlens.load("phantom")` is the sound
model, `phantom:shortcut`, `phantom:textonly` and `phantom:random` the unsound ones; `plant_unit` and `linear_block` edit a model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from medlens.phantom.questions import samples

if TYPE_CHECKING:
    from medlens.phantom.contact import sheet as sheet
    from medlens.phantom.evaluation import Evaluation as Evaluation
    from medlens.phantom.evaluation import evaluate as evaluate
    from medlens.phantom.planted import linear_block as linear_block
    from medlens.phantom.planted import plant_unit as plant_unit

_HOME_OF = {
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "linear_block": "planted",
    "plant_unit": "planted",
    "sheet": "contact",
}

__all__ = ["Evaluation", "evaluate", "linear_block", "plant_unit", "samples", "sheet"]


def __getattr__(name: str) -> Any:
    """All but the scanner is imported when it is used: drawing slices needs no torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"medlens.phantom has no {name!r}")
    return getattr(importlib.import_module(f"medlens.phantom.{_HOME_OF[name]}"), name)
