"""Load an ordinary transformers folder: its own architecture, its own processor, safetensors only, no code from the folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from medlens.errors import BadModel, MedlensError
from medlens.jsontext import parse
from medlens.models.asked import check_asked
from medlens.models.shards import check_shards
from medlens.models.table import one_more_row, read_longer_table
from medlens.models.weights import Weights, left_in_files, places_of, size_of

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
FETCHED = ["*.safetensors", "*.json", "tokenizer.model", "*.jinja", "vocab.txt", "merges.txt"]
PROCESSORS = ("processor_config.json", "preprocessor_config.json")


class Loaded(NamedTuple):
    """A model, its processor, what is known of where it came from and, where it is streamed, its weights."""

    module: Any
    processor: Any
    origin: dict[str, Any]
    weights: Weights | None


def load_folder(folder: Path, device: str, dtype: torch.dtype, memory: int) -> Loaded:
    """Model and processor of a folder; streamed, where its weights need more memory (bytes) than that. Raises BadModel when a part
    is missing, broken, or not of the architecture it names."""
    check_folder(folder)
    files = check_shards(folder)
    check_asked(folder, files)
    with quiet():
        processor = _processor(folder)
    if size_of(files, dtype) > memory:
        return _streamed(folder, processor, device, dtype, files)
    return Loaded(_from_pretrained(str(folder), device, dtype, files), processor, {}, None)


def _streamed(folder: Path, processor: Any, device: str, dtype: torch.dtype, files: dict[str, Path]) -> Loaded:
    from transformers.models.auto.configuration_auto import AutoConfig
    from transformers.models.auto.modeling_auto import AutoModelForImageTextToText

    with quiet(), _explained(str(folder)):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        module, weights, report = left_in_files(
            folder, lambda: AutoModelForImageTextToText.from_config(config, dtype=dtype),
            lambda module: places_of(module, files), dtype, device,
        )  # fmt: skip
    check_report(str(folder), report)
    return Loaded(module, processor, {}, weights)


def fetch(name: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a hub id, and its exact revision (a commit). The one case in which the network is used: what is in the hub's
    cache already is not fetched again. Only weights and plain text are fetched, no code. Raises BadModel."""
    from huggingface_hub import snapshot_download

    with quiet():
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=FETCHED))
        except Exception as e:  # the hub's client raises a dozen kinds
            raise BadModel(f"{name} cannot be fetched from the hub: {first_line(e)}") from e
    return folder, folder.name


def family_of(folder: Path) -> str:
    """The `model_type` of a folder's config.json. Raises BadModel where that is missing or none."""
    config = folder / "config.json"
    if not config.is_file():
        raise BadModel(f"{folder} holds no config.json: it is not a transformers model folder")
    try:
        return str(parse(config.read_text(encoding="utf-8"))["model_type"])
    except (ValueError, KeyError, TypeError) as e:
        raise BadModel(f"{config} is no model configuration: it is not JSON, or names no model_type") from e


def check_folder(folder: Path) -> None:
    """Raise BadModel for all that can be said of a folder without transformers, which would say it in many lines."""
    family = family_of(folder)
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    if family not in KNOWN:
        raise BadModel(f"{folder}: model_type is {family}, no vision-language model of transformers (expected llava or the like)")
    for what, names in (("tokenizer", TOKENIZERS), ("image processor", PROCESSORS)):
        if not any((folder / name).is_file() for name in names):
            raise BadModel(f"{folder} holds no {what} ({' or '.join(names)}); copy it from where the weights came from")


def _processor(folder: Path) -> Any:
    from transformers.models.auto.processing_auto import AutoProcessor

    with _explained(str(folder)):
        processor = AutoProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not hasattr(processor, "image_processor"):
        raise BadModel(
            f"{folder}: its processor is a {type(processor).__name__} without an image processor; preprocessor_config.json?"
        )
    return processor


def _from_pretrained(name: str, device: str, dtype: torch.dtype, files: dict[str, Path]) -> Any:
    from transformers.models.auto.modeling_auto import AutoModelForImageTextToText

    with quiet(), _explained(name):
        # Sizes that do not fit are reported below, by name; by itself transformers prints a table and points to it.
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=dtype,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    module, report = loaded
    check_report(name, read_longer_table(module, report, files))
    if getattr(module.config, "image_token_id", None) is not None:
        one_more_row(module)
    return module.to(device).eval()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """transformers raises a dozen kinds of errors while it loads; every one of them means that this cannot be loaded."""
    try:
        yield
    except MedlensError:
        raise
    except Exception as e:
        if "torchvision" in str(e).lower():  # which one it misses depends on the family
            raise BadModel(
                f"{name}: the processor of its family needs torchvision, which cannot be imported here: "
                "pip install 'medlens[torchvision]'"
            ) from e
        raise BadModel(f"{name} cannot be loaded: {first_line(e)}") from e


def check_report(name: str, report: dict[str, Any]) -> None:
    """Every weight of the architecture was in the files, in its shape."""
    if missing := sorted(map(str, report["missing_keys"])):
        raise BadModel(f"{name}: {len(missing)} of its weights are not in the files, the first is {missing[0]}")
    if wrong := sorted(report["mismatched_keys"]):
        key, got, expected = wrong[0]
        raise BadModel(
            f"{name}: {key} is {tuple(got)} in the files and {tuple(expected)} by config.json; they do not belong together"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and tables of transformers and the hub: what goes wrong is said once, by us."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    shown, hub_shown = logging.get_verbosity(), hub.get_verbosity()
    logging.set_verbosity_error()
    hub.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(shown)
        hub.set_verbosity(hub_shown)
        logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
