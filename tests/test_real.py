"""Real radiographs, as a user brings them."""

import polars as pl
import pytest

import medlens
from medlens.plan import Plan

pytestmark = pytest.mark.real
QUESTION = "is there a pathology on the image ?"


def test_every_real_radiograph_opens(real_data):
    from medlens.data.intake import take_in

    samples = medlens.read(real_data / "vqa_rad" / "images", question=QUESTION)
    intake = take_in(samples)
    assert len(intake.samples) == len(list((real_data / "vqa_rad" / "images").glob("*.jpg")))
    assert all(len(data) < 60_000 for _, data in intake.pictures.values())


@pytest.mark.slow
def test_study_of_real_radiographs(phantom, real_data, tmp_path):
    run = medlens.study(phantom, real_data / "vqa_rad" / "images", Plan(question=QUESTION, limit=40), tmp_path / "run")
    image = run.rows.filter((pl.col("tokens") == "image") & (pl.col("measure") == "linearity"))
    assert image["n"].unique().to_list() == [40 * 64]
    assert image["value"].is_between(0, 1).all()
    assert "mean nothing" in run.report.read_text()
    assert run.report.read_text().count('<article class="sample">') == 40
    assert run.report.stat().st_size < 5_000_000
    assert set(run.answers["correct"]) == {None}
