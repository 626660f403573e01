"""Runs with reports, made once for all tests of reports: `pytest_plugins = ["reported"]`."""

import pytest
from PIL import Image

import medlens
from blank import Blank
from invented import invented
from medlens.plan import Plan
from medlens.report import charts, render

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> \"' {{ 7*7 }}"


@pytest.fixture(scope="session")
def run(phantom, tmp_path_factory):
    return medlens.study(phantom, "phantom", Plan(limit=25, map_images=0), tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="session")
def hostile(phantom, tmp_path_factory):
    """Script tags in every field that a data set can fill."""
    samples = [
        medlens.Sample(
            image=Image.new("RGB", (64, 64), (k, 9, 9)), question=HOSTILE, id=f"{HOSTILE}{k}", answer=HOSTILE,
            question_type=HOSTILE, image_id=f"{HOSTILE}{k}", patient_id=HOSTILE, tags={HOSTILE: HOSTILE},
        )
        for k in range(3)
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "vl_convert", Blank)  # the page draws its own; files of charts take longer than the study
        return medlens.study(phantom, samples, Plan(map_images=0), tmp_path_factory.mktemp("hostile") / "run")


@pytest.fixture(scope="session")
def full(run, tmp_path_factory):
    """A run that has everything, by invention."""
    full = medlens.open_run(invented(run, tmp_path_factory.mktemp("full") / "run"))
    full.report.write_text(render(full))
    return full
