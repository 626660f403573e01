"""medlens: look inside vision-language models that answer medical questions.

The public names below are imported when they are first used: importing torch takes seconds, and `medlens --help` must not.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medlens import phantom as phantom
    from medlens._answers import Answers as Answers
    from medlens._answers import answer_all as answer_all
    from medlens._doctor import doctor as doctor
    from medlens._edit import edit as edit
    from medlens._explain import Explanation as Explanation
    from medlens._explain import explain as explain
    from medlens._explain.benchmark import benchmark_maps as benchmark_maps
    from medlens._export import export as export
    from medlens._figures import figures as figures
    from medlens._flow import flow as flow
    from medlens._forecast import Forecast as Forecast
    from medlens._gate import gates as gates
    from medlens._importance import importance as importance
    from medlens._importance import least_important as least_important
    from medlens._lens import lens as lens
    from medlens._merge import merge as merge
    from medlens._merge import study_shard as study_shard
    from medlens._neighbours import Neighbours as Neighbours
    from medlens._neighbours import neighbours as neighbours
    from medlens._neurons import neurons as neurons
    from medlens._probe import probe as probe
    from medlens._prune import prune as prune
    from medlens._reliance import reliance as reliance
    from medlens._reliance.consistency import consistency as consistency
    from medlens._reliance.consistency import contradictions as contradictions
    from medlens._study import forecast as forecast
    from medlens._study import study as study
    from medlens._thin import thin as thin
    from medlens._tune import load_lens as load_lens
    from medlens._tune import train_lens as train_lens
    from medlens._units import occurrence_of_units as occurrence_of_units
    from medlens._words import medical_share as medical_share
    from medlens._words import occurrence as occurrence
    from medlens.claims import judge as judge
    from medlens.comparison import Comparison as Comparison
    from medlens.comparison import compare as compare
    from medlens.data import read as read
    from medlens.errors import MedlensError as MedlensError
    from medlens.lens_reading import LensReading as LensReading
    from medlens.measures import MEASURES as MEASURES
    from medlens.measures import anisotropy as anisotropy
    from medlens.measures import cka as cka
    from medlens.measures import effective_rank as effective_rank
    from medlens.measures import intra_similarity as intra_similarity
    from medlens.measures import intrinsic_dimension as intrinsic_dimension
    from medlens.measures import intrinsic_dimension_between as intrinsic_dimension_between
    from medlens.measures import linearity as linearity
    from medlens.measures import linearity_of_update as linearity_of_update
    from medlens.measures import mean_cosine as mean_cosine
    from medlens.measures import mean_cosine_between as mean_cosine_between
    from medlens.measures import mev as mev
    from medlens.measures import mev_centred as mev_centred
    from medlens.measures import participation_ratio as participation_ratio
    from medlens.measures import self_similarity as self_similarity
    from medlens.models import load as load
    from medlens.models.base import Model as Model
    from medlens.plan import Plan as Plan
    from medlens.report.again import make_report as make_report
    from medlens.store import Run as Run
    from medlens.store import open_run as open_run
    from medlens.types import Answer as Answer
    from medlens.types import Heatmap as Heatmap
    from medlens.types import Region as Region
    from medlens.types import Sample as Sample
    from medlens.types import Tokens as Tokens
    from medlens.types import Value as Value
    from medlens.viewer.notebook import view as view
    from medlens.walk.forward import Forward as Forward
    from medlens.walk.forward import forward as forward
    from medlens.walk.generate import answer as answer

_HOMES = {
    "medlens._answers": ("Answers", "answer_all"),
    "medlens._doctor": ("doctor",),
    "medlens._edit": ("edit",),
    "medlens._explain": ("Explanation", "explain"),
    "medlens._explain.benchmark": ("benchmark_maps",),
    "medlens._export": ("export",),
    "medlens._figures": ("figures",),
    "medlens._flow": ("flow",),
    "medlens._forecast": ("Forecast",),
    "medlens._gate": ("gates",),
    "medlens._importance": ("importance", "least_important"),
    "medlens._lens": ("lens",),
    "medlens._merge": ("merge", "study_shard"),
    "medlens._neighbours": ("Neighbours", "neighbours"),
    "medlens._neurons": ("neurons",),
    "medlens._probe": ("probe",),
    "medlens._prune": ("prune",),
    "medlens._reliance": ("reliance",),
    "medlens._reliance.consistency": ("consistency", "contradictions"),
    "medlens._study": ("forecast", "study"),
    "medlens._thin": ("thin",),
    "medlens._tune": ("load_lens", "train_lens"),
    "medlens._units": ("occurrence_of_units",),
    "medlens._words": ("medical_share", "occurrence"),
    "medlens.claims": ("judge",),
    "medlens.comparison": ("Comparison", "compare"),
    "medlens.data": ("read",),
    "medlens.errors": ("MedlensError",),
    "medlens.lens_reading": ("LensReading",),
    "medlens.measures": (
        "MEASURES", "anisotropy", "cka", "effective_rank", "intra_similarity", "intrinsic_dimension",
        "intrinsic_dimension_between", "linearity", "linearity_of_update", "mean_cosine", "mean_cosine_between", "mev",
        "mev_centred", "participation_ratio", "self_similarity",
    ),
    "medlens.models": ("load",),
    "medlens.models.base": ("Model",),
    "medlens.plan": ("Plan",),
    "medlens.report.again": ("make_report",),
    "medlens.store": ("Run", "open_run"),
    "medlens.types": ("Answer", "Heatmap", "Region", "Sample", "Tokens", "Value"),
    "medlens.viewer.notebook": ("view",),
    "medlens.walk.forward": ("Forward", "forward"),
    "medlens.walk.generate": ("answer",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = ("phantom", "errors", "stats", "measures")  # modules that are part of the public surface

__all__ = sorted([*_HOME_OF, *_ROOMS])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"medlens.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"medlens has no {name!r}", name=name, obj=sys.modules[__name__])  # so Python names the nearest
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
