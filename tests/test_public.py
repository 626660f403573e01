import inspect
import pickle
import pkgutil
from copy import deepcopy

import pytest

import medlens
from medlens import errors

NAMES = [
    "Answer",
    "Answers",
    "Comparison",
    "Forecast",
    "Forward",
    "Heatmap",
    "LensReading",
    "MEASURES",
    "MedlensError",
    "Model",
    "Neighbours",
    "Plan",
    "Region",
    "Run",
    "Sample",
    "Tokens",
    "Value",
    "anisotropy",
    "answer",
    "answer_all",
    "benchmark_maps",
    "cka",
    "compare",
    "consistency",
    "contradictions",
    "doctor",
    "edit",
    "effective_rank",
    "errors",
    "flow",
    "forecast",
    "forward",
    "gates",
    "importance",
    "intra_similarity",
    "intrinsic_dimension",
    "intrinsic_dimension_between",
    "judge",
    "least_important",
    "lens",
    "linearity",
    "linearity_of_update",
    "load",
    "load_lens",
    "make_report",
    "thin",
    "train_lens",
    "mean_cosine",
    "medical_share",
    "merge",
    "study_shard",
    "mean_cosine_between",
    "measures",
    "mev",
    "mev_centred",
    "neighbours",
    "occurrence",
    "occurrence_of_units",
    "open_run",
    "participation_ratio",
    "phantom",
    "Explanation",
    "explain",
    "export",
    "figures",
    "neurons",
    "probe",
    "prune",
    "reliance",
    "read",
    "self_similarity",
    "stats",
    "study",
    "view",
]


def test_the_public_surface_is_this():
    assert sorted(medlens.__all__) == sorted(NAMES)
    for name in NAMES:
        assert getattr(medlens, name) is not None
    with pytest.raises(AttributeError, match="frobnicate"):
        _ = medlens.frobnicate


@pytest.mark.parametrize("name", [n for n in NAMES if n != "MEASURES"])
def test_everything_public_is_documented(name):
    assert len(inspect.getdoc(getattr(medlens, name)) or "") > 30


@pytest.mark.parametrize("name", [n for n in NAMES if n in medlens.MEASURES])
def test_measures_name_their_source_and_errors(name):
    doc = inspect.getdoc(getattr(medlens, name))
    assert "(n, d)" in doc or "as for `linearity`" in doc
    assert any(year in doc for year in ("20", "as for `linearity`", "baseline"))


def test_no_function_shares_its_name_with_a_module():
    for package in ("medlens", "medlens.measures", "medlens.stats", "medlens.data", "medlens.models"):
        module = __import__(package, fromlist=["x"])
        for info in pkgutil.iter_modules(module.__path__):
            assert not callable(getattr(module, info.name, None)), f"{package}.{info.name}"


def test_one_tree_of_errors():
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception) and not issubclass(e, Warning)]
    assert all(issubclass(e, medlens.MedlensError) for e in kinds)


def test_values_and_answers_survive_copy_and_pickle():
    value, answer = medlens.Value(0.5, 7, "why"), medlens.Answer("yes", (3, 2), (-0.1, -0.2))
    for other in (deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert (float(other), other.n, other.note) == (0.5, 7, "why")
    for other in (deepcopy(answer), pickle.loads(pickle.dumps(answer))):
        assert (other, other.ids, other.logprobs) == ("yes", (3, 2), (-0.1, -0.2))
