"""Rows by subgroup are those of a study of these samples alone."""

import polars as pl
import pytest

import medlens
from medlens.errors import BadInput
from medlens.plan import Plan
from medlens.types import Sample
from medlens.walk.cases import cases
from medlens.walk.forward import prepare
from medlens.walk.subgroups import subgroups_of, values_of

SAMPLES = [s.named(f"s{k}") for k, s in enumerate(medlens.phantom.samples(24))]
PLAN = Plan(answers="given", by=("modality", "question_type"), nulls=())
KEY = ["measure", "layer", "tokens", "variant"]


@pytest.fixture(autouse=True)
def quick_report(monkeypatch):
    monkeypatch.setattr("medlens.report.as_files", lambda chart: {"svg": ""})
    monkeypatch.setattr("medlens.report.figures.drawn", lambda *chart: {})


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medlens.report.as_files", lambda chart: {"svg": ""})
        patch.setattr("medlens.report.figures.drawn", lambda *chart: {})
        return medlens.study(phantom, SAMPLES, PLAN, tmp_path_factory.mktemp("by") / "run")


def test_a_row_is_that_of_a_study_of_these_samples_alone(phantom, run, tmp_path):
    kind = SAMPLES[0].question_type
    for group, mine in (
        (f"modality={SAMPLES[0].tags['modality']}", [s for s in SAMPLES if s.tags["modality"] == SAMPLES[0].tags["modality"]]),
        (f"question_type={kind}", [s for s in SAMPLES if s.question_type == kind]),
    ):
        alone = medlens.study(phantom, mine, Plan(answers="given", nulls=(), instruments=("geometry",)), tmp_path / group)
        both = alone.rows.join(run.rows.filter(pl.col("group") == group), on=KEY, suffix="_by")
        assert both.height == alone.rows.height
        assert (both["n"] == both["n_by"]).all()
        assert (both["value"].is_nan() == both["value_by"].is_nan()).all()
        defined = both.filter(pl.col("value").is_finite())
        apart = (defined["value"] - defined["value_by"]).abs() / defined["value"].abs().clip(1e-2)
        assert apart.max() < 1e-4
        image = defined.filter(pl.col("tokens") == "image", pl.col("layer") == 0)
        assert (image["value"] - image["value_by"]).abs().max() < 1e-6
        widths = defined.filter(pl.col("low").is_not_null(), pl.col("low_by").is_not_null(), pl.col("high") > pl.col("low"))
        assert (widths["high_by"] - widths["low_by"] >= widths["high"] - widths["low"]).all()  # corrected
    other = run.rows.filter(pl.col("group") == "all").join(run.rows.filter(pl.col("group") == group), on=KEY, suffix="_by")
    assert (other["value"] != other["value_by"]).mean() > 0.5  # a subgroup is not everybody


def test_the_correction_is_said(run):
    groups = run.rows.filter(pl.col("group") != "all")
    m = groups["group"].n_unique()
    said = groups.filter(pl.col("low").is_not_null())["note"]
    assert said.len() > 100
    assert said.str.contains(f"interval at {100 * (1 - 0.05 / m):.4g} %: {m} subgroups looked at", literal=True).all()
    assert not run.rows.filter(pl.col("group") == "all")["note"].str.contains("subgroups").any()
    assert "--by modality --by question_type" in run.manifest["command"]


def tagged(**tags):
    values = next(iter(tags.values()))
    return [Sample(id=str(k), question="?", tags={name: each[k] for name, each in tags.items()}) for k in range(len(values))]


def test_values_numbers_and_what_is_missing():
    assert values_of(tagged(organ=["lung", None, "", "heart", "lung"]), "organ") == {"heart": ["3"], "lung": ["0", "4"]}
    ages = values_of(tagged(age=[str(a) for a in range(20, 60)]), "age")
    assert [(name, len(chosen)) for name, chosen in ages.items()] == [("20-29", 10), ("30-39", 10), ("40-49", 10), ("50-59", 10)]
    assert list(values_of(tagged(stage=[3, 1, 2, 1]), "stage")) == ["1", "2", "3"]


def test_fields_that_will_not_do(phantom):
    laid = cases(phantom, [prepare(phantom, s, s.answer) for s in SAMPLES[:4]])
    with pytest.raises(BadInput, match=r"by is .organ., which no sample has; there are question_type, .*modality"):
        subgroups_of(laid, ["organ"], 2)
    with pytest.raises(BadInput, match="which has 30 values; at most 20"):
        values_of(tagged(name=[f"n{k}" for k in range(30)]), "name")
