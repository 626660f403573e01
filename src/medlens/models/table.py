"""The input table of a model whose image token lies just outside of the vocabulary, as LLaVA-Med's does.

Its row is never seen, as image features replace it; with it, ids can be looked up as they are, and logits stay as wide as the
vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn


def one_more_row(module: Any) -> None:
    """Let the input table end with a row of zeros for the image token, if that has none."""
    table = module.get_input_embeddings()
    if table.num_embeddings == module.config.image_token_id:
        _replace(module, torch.cat([table.weight.detach(), torch.zeros_like(table.weight[:1])]))


def read_longer_table(module: Any, report: dict[str, Any], files: dict[str, Path]) -> dict[str, Any]:
    """Where the files hold the table with that row (a copy that was saved after loading), take it from there.

    files: each tensor's name and file. Returns transformers' loading report without the sizes that are settled by that."""
    rows = getattr(module.config, "image_token_id", None)
    left = []
    for key, got, expected in report["mismatched_keys"]:
        name = next((n for n in files if n.endswith("embed_tokens.weight")), None)
        if name and key.endswith("embed_tokens.weight") and got[0] - 1 == rows == expected[0] and got[1:] == expected[1:]:
            with safetensors.safe_open(files[name], "pt") as opened:
                _replace(module, opened.get_tensor(name).to(module.get_input_embeddings().weight.dtype))
        else:
            left.append((key, got, expected))
    return {**report, "mismatched_keys": left}


def _replace(module: Any, weight: torch.Tensor) -> None:
    module.set_input_embeddings(nn.Embedding.from_pretrained(weight, freeze=False))
