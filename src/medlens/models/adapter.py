"""LoRA adapters, as the package peft writes them, merged into the weights they were trained beside: W + scale B A.

Only what is exactly that is read; anything that would make the merged model another one than was trained is refused by name.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medlens.errors import BadModel
from medlens.jsontext import parse
from medlens.models.weights import Weights

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

# Keys of the configuration that are read, and those that say nothing of the merged weights. Every other one must be off.
READ = {"peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights", "modules_to_save"}
SILENT = {
    "base_model_name_or_path", "revision", "task_type", "inference_mode", "auto_mapping", "peft_version", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "eva_config", "megatron_core", "megatron_config",
    "qalora_group_size", "runtime_config",
}  # fmt: skip
KEEP_BASE = (True, False, "gaussian", "eva", "orthogonal")  # ways to begin that leave the base weights as they are

# Where modules lay in LLaVA-Med's original layout and in transformers 4, and where they lie now.
MOVED = (
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^model\.mm_projector\.0$", "model.multi_modal_projector.linear_1"),
    (r"^model\.mm_projector\.2$", "model.multi_modal_projector.linear_2"),
    (r"^language_model\.lm_head$", "lm_head"),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^model\.layers\.", "model.language_model.layers."),
    (r"^vision_tower\.(vision_model\.)?", "model.vision_tower."),
    (r"^multi_modal_projector\.", "model.multi_modal_projector."),
    (r"^visual\.", "model.visual."),
)


def merge_adapter(module: Any, folder: Path, weights: Weights | None = None) -> dict[str, Any]:
    """Merge the adapter of a folder into a model, in place; where its weights are streamed, whenever they are read. Returns its
    name, its rank, how many matrices were merged and how many tensors were replaced (peft's `modules_to_save`). Raises BadModel,
    before anything is changed."""
    rank, scale, saved = _configuration(folder)
    tensors = _tensors(folder)
    pairs, whole = _sorted(folder, tensors)
    deltas = [(_linear(module, folder, name), _of_rank(folder, name, a, b, rank)) for name, (a, b) in pairs.items()]
    for (name, linear), (a, b) in deltas:
        if (got := (b.shape[0], a.shape[1])) != tuple(linear.weight.shape):
            raise BadModel(
                f"{folder}: B A of {name} is {got}, the model's weight is {tuple(linear.weight.shape)}; another base model?"
            )
    replaced = [(_parameter(module, folder, name, saved, tensor), tensor) for name, tensor in whole.items()]
    edits = {id(linear.weight): partial(_added, scale=scale, a=a, b=b) for (_, linear), (a, b) in deltas}
    edits |= {id(parameter): partial(_replaced, tensor=tensor) for parameter, tensor in replaced}
    for name, parameter in module.named_parameters():
        if (edit := edits.get(id(parameter))) is None:
            continue
        if weights is not None:
            weights.edits[name] = edit
        else:
            with torch.no_grad():
                parameter.copy_(edit(parameter))
    return {"name": folder.name, "rank": rank, "merged": len(deltas), "replaced": len(replaced)}


def _added(w: Tensor, scale: float, a: Tensor, b: Tensor) -> Tensor:
    return (w.float() + scale * (b.to(w.device).float() @ a.to(w.device).float())).to(w.dtype)


def _replaced(w: Tensor, tensor: Tensor) -> Tensor:
    return tensor.to(w.device, w.dtype)


def _configuration(folder: Path) -> tuple[int, float, list[str]]:
    """Rank, scale, and the modules that are saved whole."""
    if not (folder / CONFIG).is_file():
        raise BadModel(f"{folder} holds no {CONFIG}: it is no adapter folder")
    try:
        written = dict(parse((folder / CONFIG).read_text(encoding="utf-8")))
        kind, rank, alpha = str(written["peft_type"]), int(written["r"]), float(written["lora_alpha"])
    except (ValueError, KeyError, TypeError, OverflowError) as e:
        raise BadModel(f"{folder / CONFIG} is no LoRA configuration: it is not JSON, or lacks peft_type, r or lora_alpha") from e
    if kind != "LORA" or rank < 1:
        raise BadModel(f"{folder}: the adapter is {kind} of rank {rank}; only LORA of rank 1 or more can be merged")
    on = {k: v for k, v in written.items() if k not in READ | SILENT and v}
    if written.get("bias", "none") != "none":
        on["bias"] = written["bias"]
    if written.get("init_lora_weights", True) not in KEEP_BASE:  # the others change the base weights before training
        on["init_lora_weights"] = written["init_lora_weights"]
    if on:
        key, value = next(iter(on.items()))
        raise BadModel(
            f"{folder}: the adapter has {key} = {value!r}, which is not plain LoRA; merge it with peft, and load the result"
        )
    return rank, alpha / (rank**0.5 if written.get("use_rslora") else rank), list(written.get("modules_to_save") or ())


def _tensors(folder: Path) -> dict[str, Tensor]:
    if not (folder / WEIGHTS).is_file():
        raise BadModel(f"{folder} holds no {WEIGHTS}; medlens reads no pickled weights: save the adapter again with peft")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as e:
        raise BadModel(f"{folder / WEIGHTS} is cut off, damaged or no safetensors file ({e}); copy it again") from e
    if not tensors:
        raise BadModel(f"{folder / WEIGHTS} holds no tensors; copy it again")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BadModel(f"{folder}: adapter weight {name} holds a NaN or infinity; the file is damaged")
    return tensors


def _sorted(folder: Path, tensors: dict[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """A and B by the name of their module; and the tensors that are neither, by their own name."""
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        found = re.fullmatch(r"(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if found:
            halves.setdefault(found[1], {})[found[2]] = tensor
        else:
            whole[name] = tensor
    for name, held in halves.items():
        if len(held) < 2:
            raise BadModel(f"{folder}: the adapter holds only {next(iter(held))} of {name}; copy it again")
    return {name: (held["A"], held["B"]) for name, held in halves.items()}, whole


def _of_rank(folder: Path, name: str, a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r), when they are of the rank that is said."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise BadModel(f"{folder}: A {tuple(a.shape)} and B {tuple(b.shape)} of {name} are not of rank {rank}, as {CONFIG} says")
    return a, b


def _moved(name: str, here: Any) -> str | None:
    """The name under which `here` knows a module of that name, today or in an older layout."""
    if name in here:
        return name
    moved = (re.sub(old, new, name) for old, new in MOVED)
    return next((m for m in moved if m != name and m in here), None)


def _linear(module: Any, folder: Path, name: str) -> tuple[str, nn.Linear]:
    modules = dict(module.named_modules())
    found = modules.get(_moved(name, modules) or "")
    if found is None or found is module:
        raise BadModel(f"{folder}: the adapter is for a module {name}, which this model does not have; another base model?")
    if not isinstance(found, nn.Linear):
        raise BadModel(f"{folder}: {name} is a {type(found).__name__}; only adapters of linear modules can be merged")
    if found.weight is module.get_input_embeddings().weight:
        raise BadModel(f"{folder}: {name} is tied to the input table, so a merged adapter would change both; it cannot be merged")
    return name, found


def _parameter(module: Any, folder: Path, name: str, saved: list[str], tensor: Tensor) -> nn.Parameter:
    """The parameter that a tensor of `modules_to_save` replaces."""
    place, _, leaf = name.rpartition(".")
    modules = dict(module.named_modules())
    found = getattr(modules.get(_moved(place, modules) or ""), leaf, None)
    if not any(f".{s}." in f".{place}." for s in saved) or found is None:
        raise BadModel(f"{folder}: the adapter holds {name}, which is neither LoRA nor of its modules_to_save; it cannot be merged")
    if found.shape != tensor.shape:
        raise BadModel(f"{folder}: {name} is {tuple(tensor.shape)} in the adapter and {tuple(found.shape)} in the model")
    return found
