"""What this machine and this model can do together, measured where it can be. (`_doctor`, because the function is `doctor`.)"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import safetensors
import torch

from medlens.budget import free_memory, readable
from medlens.errors import BadModel
from medlens.models import MOST, check_device
from medlens.models.llava_med import is_here, is_original
from medlens.models.phantom import folder_of
from medlens.models.shards import check_shards

# The published study: 193 questions on 50 images of 576 tokens. Packed, that many tokens walk; an answer has some 64.
PUBLISHED_TOKENS, PUBLISHED_ANSWER_TOKENS = 32_200, 193 * 64
EXTRAS = {  # what for -> the module, and the line that installs it
    "DICOM images": ("pydicom", "pip install 'medlens[dicom]'"),
    "Ray clusters": ("ray", "pip install 'medlens[ray]'"),
    "tables as pandas": ("pandas", "pip install 'medlens[pandas]'"),
    "Qwen, InternVL, SmolVLM, Mistral 3": ("torchvision", "pip install 'medlens[torchvision]'"),
}
SIDE = 1024  # of the matrices that are multiplied to measure speed


@dataclass(frozen=True)
class ModelFacts:
    """Of a model folder, without loading it. parameters; bytes on disk and in memory in float32, of all of it and of its largest
    block; what is missing, a line each; tower: what is to be known of the vision tower, where there is something."""

    name: str
    family: str
    blocks: int
    width: int
    parameters: int
    disk: int
    memory: int
    block: int
    missing: tuple[str, ...]
    tower: str = ""


@dataclass(frozen=True)
class Examination:
    """Memory and disk in bytes, free; speed in 10^9 floating-point operations a second by dtype, and in bytes read a second; which
    extras are there; the model, and what the published study would take with it (seconds), resident and in float32."""

    cores: int
    device: str
    memory: int
    disk: int
    speed: dict[str, float]
    bandwidth: float
    extras: dict[str, str]
    model: ModelFacts | None
    mode: str
    walk_seconds: float | None
    answer_seconds: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def doctor(model: str | Path | None = None, device: str = "cpu") -> Examination:
    """Examine this machine and, where one is named, a model folder (or a phantom). Nothing is loaded, fetched or written.

    Raises BadModel for a folder whose weights are damaged, BadInput for a device that is not here.
    """
    check_device(device)
    speed = {str(dtype).removeprefix("torch."): _speed(dtype, device) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    memory, facts = free_memory(device), None if model is None else _facts(str(model))
    bandwidth = _bandwidth(device)
    extras = {what: "yes" if importlib.util.find_spec(module) else f"no: {line}" for what, (module, line) in EXTRAS.items()}
    walk = answer = None
    if facts:
        walk = 2 * facts.parameters * PUBLISHED_TOKENS / (speed["float32"] * 1e9)
        answer = facts.memory / bandwidth * PUBLISHED_ANSWER_TOKENS
    return Examination(
        os.cpu_count() or 1, device, memory, shutil.disk_usage(Path.cwd()).free, speed, bandwidth, extras, facts,
        _mode(facts, memory), walk, answer,
    )  # fmt: skip


def _mode(facts: ModelFacts | None, memory: int) -> str:
    if facts is None:
        return "name a model to be told"
    if facts.missing:
        return "not yet: see what is missing"
    if facts.memory < MOST * memory:
        return "resident: the whole model in memory, float32"
    return (
        f"streamed: the weights stay in their files, one block ({readable(facts.block)} in float32) is read at a time; "
        "same results, --memory 4GiB keeps it small"
    )


# ---- the machine


def _speed(dtype: torch.dtype, device: str) -> float:
    """GFLOP/s of a matrix product: of a small one first, and of a large one where that would not take long."""
    found = 0.0
    for side in (SIDE // 8, SIDE):
        a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
        if found and 2 * SIDE**3 / found / 1e9 > 0.25:
            break
        found = 2 * side**3 / _seconds(lambda a=a, b=b: a @ b, device) / 1e9
    return found


def _bandwidth(device: str) -> float:
    """Bytes a second that a sum over a large array reads: what writing one token after the other is bound by."""
    block = torch.ones(2**26, device=device)
    return 4 * block.numel() / _seconds(lambda: block.sum(), device)


def _seconds(run: Callable[[], object], device: str, rounds: int = 5) -> float:
    """The best of several, after one that warms up: what the machine can do when nothing else wants it."""
    run()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return min(found)


# ---- the model


def _facts(name: str) -> ModelFacts:
    folder = folder_of(name) if name.partition(":")[0] == "phantom" else Path(name)
    if not (folder / "config.json").is_file():
        raise BadModel(f"{name} is no model folder here: doctor looks at folders and fetches nothing")
    try:
        written = json.loads((folder / "config.json").read_text())
    except ValueError as e:
        raise BadModel(f"{folder}/config.json is no JSON; copy it again") from e
    text = written.get("text_config", written)
    tensors = check_shards(folder)
    parameters, disk = _sizes(tensors)
    no_tower, tower = _tower(folder, written, tensors)
    return ModelFacts(
        Path(name).name, str(written.get("model_type")), int(text.get("num_hidden_layers", 0)), int(text.get("hidden_size", 0)),
        parameters, disk, 4 * parameters, 4 * _largest_block(tensors), (*_missing(folder), *no_tower),
        tower,
    )  # fmt: skip


def _sizes(tensors: dict[str, Path]) -> tuple[int, int]:
    """How many parameters, and bytes of files, by the headers alone."""
    parameters = 0
    for shard in set(tensors.values()):
        with safetensors.safe_open(shard, "pt") as opened:
            parameters += sum(prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118 (no mapping)
    return parameters, sum(shard.stat().st_size for shard in set(tensors.values()))


def _largest_block(tensors: dict[str, Path]) -> int:
    """Parameters of the largest of the decoder's blocks, by their names."""
    sizes: Counter[str] = Counter()
    for shard in set(tensors.values()):
        with safetensors.safe_open(shard, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                found = re.search(r"\.layers\.(\d+)\.", name)
                if found and "vision" not in name:
                    sizes[found[1]] += prod(opened.get_slice(name).get_shape())
    return max(sizes.values(), default=0)


def _tower(folder: Path, written: dict[str, Any], tensors: dict[str, Path]) -> tuple[tuple[str, ...], str]:
    """Of LLaVA-Med's layout, whose tower lies elsewhere: what is missing for good, and what will be taken in its place."""
    named = str(written.get("mm_vision_tower"))
    if not is_original(folder) or is_here(named):
        return (), ""
    if any("vision_tower" in name for name in tensors):
        return (), f"{named}, which its authors use, is not here: the checkpoint's own will be taken, or --vision-tower FOLDER"
    return (
        f"its vision tower {named} is not here, and it has none of its own: fetch it, and name it with --vision-tower FOLDER",
    ), ""


def _missing(folder: Path) -> tuple[str, ...]:
    found = []
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        found.append("no tokenizer: copy tokenizer.model or tokenizer.json from where the weights came from")
    if (
        not is_original(folder)
        and not (folder / "processor_config.json").is_file()
        and not (folder / "preprocessor_config.json").is_file()
    ):
        found.append("no image processor: copy preprocessor_config.json from where the weights came from")
    return tuple(found)
