"""Load an ordinary transformers folder: its own architecture, its own processor, safetensors only, no code from the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from medlens.errors import BadModel

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
PROCESSORS = ("processor_config.json", "preprocessor_config.json")


def load_folder(folder: Path, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and processor of a folder. Raises BadModel when a part is missing, broken, or not of the architecture it names."""
    _check_parts(folder)
    return _from_pretrained(str(folder), device, dtype, local=True)


def load_hub(name: str, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and processor by hub id: the one case in which the network is used."""
    return _from_pretrained(name, device, dtype, local=False)


def _check_parts(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise BadModel(f"{folder} holds no config.json: it is not a transformers model folder")
    try:
        json.loads(config.read_text())
    except ValueError as e:
        raise BadModel(f"{config} is not JSON: {e}") from e
    for what, names in (("tokenizer", TOKENIZERS), ("image processor", PROCESSORS)):
        if not any((folder / name).is_file() for name in names):
            raise BadModel(f"{folder} holds no {what} ({' or '.join(names)}); copy it from where the weights came from")
    if not [*folder.glob("*.safetensors")]:
        raise BadModel(f"{folder} holds no *.safetensors; medlens reads no pickled weights: convert them first")


def _from_pretrained(name: str, device: str, dtype: torch.dtype, local: bool) -> tuple[Any, Any]:
    import transformers
    from transformers.utils import logging

    shown = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        processor = transformers.AutoProcessor.from_pretrained(name, local_files_only=local, trust_remote_code=False)
        loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            name, local_files_only=local, trust_remote_code=False, use_safetensors=True, dtype=dtype, output_loading_info=True
        )
    except Exception as e:  # transformers raises a dozen kinds; every one of them means that this cannot be loaded
        raise BadModel(f"{name} cannot be loaded: {_first_line(e)}") from e
    finally:
        logging.set_verbosity(shown)
        logging.enable_progress_bar()
    module, report = loaded
    for kind in ("missing_keys", "mismatched_keys"):
        if keys := sorted(map(str, report[kind])):
            raise BadModel(
                f"{name}: {len(keys)} {kind.replace('_', ' ')}, first {keys[0]}: weights and config do not belong together"
            )
    if not hasattr(processor, "image_processor"):
        raise BadModel(
            f"{name}: its processor is a {type(processor).__name__} without an image processor; preprocessor_config.json?"
        )
    return module.to(device).eval(), processor


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
