"""The examples in these pages are run, each page in an empty folder."""

import pytest
import torch

from medlens import _views

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_views, "MAPPED", 0)  # maps take longer than all the rest of a study; pages that show them ask for them
