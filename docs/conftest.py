"""The examples in these pages are run, each page in an empty folder."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
