"""What many tests share. Real data and Chromium are found here, and a skip says what is missing."""

import os
import shutil
from pathlib import Path

import pytest
import torch

import medlens
from blank import Blank
from medlens import _views
from medlens.plan import Plan
from medlens.report import charts

torch.set_num_threads(1)  # on models this small, two threads are slower than one


@pytest.fixture(scope="session")
def phantom():
    """The shipped model. Tests must leave it as they found it."""
    return medlens.load("phantom")


@pytest.fixture(scope="module", autouse=True)
def _charts(request):
    """Charts take half the time of a small study, and most tests never look at one: those that do say `CHARTS = True`."""
    if getattr(request.module, "CHARTS", False):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "vl_convert", Blank)
        yield


@pytest.fixture(scope="module", autouse=True)
def _maps(request):
    """A map's report card walks its sample hundreds of times: studies make maps in modules that say `MAPS = True`."""
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "MAPS", False):
            patch.setattr(_views, "MAPPED", 0)
        yield


@pytest.fixture(scope="session")
def looked_at(phantom, tmp_path_factory):
    """A small study whose first image's first question was looked at token by token. Tests must leave it as they found it."""
    plan = Plan(limit=6, lens_images=1, instruments=("lens", "tokens"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "vl_convert", Blank)
        return medlens.study(phantom, "phantom", plan, tmp_path_factory.mktemp("looked-at") / "run")


@pytest.fixture(scope="session")
def real_data():
    folder = os.environ.get("MEDLENS_REAL_DATA")
    if not folder:
        pytest.skip("no real data: set MEDLENS_REAL_DATA to the folder that holds vqa_rad/")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium():
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium: install the package `chromium`")
    return found


@pytest.fixture
def tiny_llava():
    """A function that makes a random LLaVA of the phantom's vocabulary, with another decoder: `tiny_llava(sliding_window=16)`."""
    from transformers import LlavaForConditionalGeneration, MistralConfig

    from medlens.phantom.train import blank_model, blank_processor

    def make(decoder=MistralConfig, **changes):
        config = blank_model(0).config
        text = {
            "vocab_size": config.text_config.vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 3, "head_dim": 8,
        }  # fmt: skip
        config.text_config = decoder(**{**text, **changes})
        torch.manual_seed(0)
        return medlens.load(LlavaForConditionalGeneration(config), blank_processor())

    return make
