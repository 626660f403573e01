"""A checkpoint in LLaVA-Med's original layout with random weights, of any size: written piece by piece, so that 15 GB of it need
some 200 MB of memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medlens import unfinished
from medlens._bench.pieces import write_tokenizer
from medlens.errors import BadInput, CannotWrite
from medlens.models.llava_med import FAMILY, REQUIRED, TOWER
from medlens.models.shards import INDEX, WHOLE
from medlens.stats.rows import priority

STD = 0.02  # of the weights; norms are 1 and biases 0, so states stay finite and vary
SHARD = 2**30  # bytes, at most (a larger tensor is a shard of its own)
CHUNK = 2**24  # weights drawn at a time
SMALL_FILES = 2**23  # bytes: tokenizer, configurations, index
INSIDE = TOWER.removesuffix("vision_model.")
EXTERNAL = "clip"  # the folder of the external tower, inside the checkpoint's

Shapes = dict[str, tuple[int, ...]]
Tell = Callable[[int, int], None]  # bytes written, of how many


@dataclass(frozen=True)
class Decoder:
    """The decoder's shape; by default Mistral-7B's, as LLaVA-Med v1.5 has it."""

    depth: int = 32
    width: int = 4096
    mlp: int = 14336
    heads: int = 32
    kv_heads: int = 8
    vocabulary: int = 32000

    def __post_init__(self) -> None:
        if min(self.depth, self.width, self.mlp, self.heads, self.kv_heads) < 1:
            raise BadInput("depth, width, mlp, heads and kv-heads are at least 1")
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise BadInput(
                f"{self.heads} heads do not fit a width of {self.width} with {self.kv_heads} key/value heads: width is a multiple "
                "of twice the heads, and heads of kv-heads"
            )


@dataclass(frozen=True)
class Tower:
    """The vision tower's shape: a CLIP tower, whose heads are 64 wide."""

    width: int
    mlp: int
    depth: int
    side: int  # of the image, in pixels
    patch: int = 14


TOWERS = {  # large: CLIP ViT-L/14 at 336 px, the original's; small: as many image tokens (576); tiny: 16 of them
    "large": Tower(1024, 4096, 24, 336),
    "small": Tower(128, 256, 4, 336),
    "tiny": Tower(64, 128, 3, 56),
}


def write_checkpoint(
    folder: Path, decoder: Decoder = Decoder(), tower: str = "large", seed: int = 0, tell: Tell = lambda _done, _all: None
) -> None:
    """Write the checkpoint, and beside its weights the external tower (the same as the one inside) that its config.json names.

    The same seed gives the same weights. Nothing is left at `folder` when it fails. Raises BadInput, and CannotWrite: the folder is
    not empty, or the disk has not enough room, which is looked at before anything is written.
    """
    folder = folder.absolute()
    _check_place(folder, needed(decoder, tower))
    seen = TOWERS[tower]
    shards = _shards(tensors(decoder, seen))
    outside = {name.removeprefix(INSIDE): shape for name, shape in _tower(seen).items()}
    whole, done = _bytes(outside) + sum(map(_bytes, shards)), 0
    with unfinished.writing(folder) as place:
        write_tokenizer(place, decoder.vocabulary)
        _write_json(place / "config.json", _config(decoder, seen, folder / EXTERNAL))
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
        placed = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        _write_json(place / INDEX, {"metadata": {"total_size": sum(map(_bytes, shards))}, "weight_map": placed})
        (place / EXTERNAL).mkdir()
        _write_json(place / EXTERNAL / "config.json", _tower_config(seen))
        _write_json(place / EXTERNAL / "preprocessor_config.json", _pixels(seen))
        for path, shard in [(place / EXTERNAL / WHOLE, outside), *zip((place / n for n in names), shards, strict=True)]:
            _write_shard(path, shard, seed)
            done += _bytes(shard)
            tell(done, whole)


def needed(decoder: Decoder, tower: str) -> int:
    """Bytes of disk that a checkpoint takes. Raises BadInput for a tower that is none of TOWERS."""
    if tower not in TOWERS:
        raise BadInput(f"towers are {', '.join(TOWERS)}; got {tower}")
    return _bytes(tensors(decoder, TOWERS[tower])) + _bytes(_tower(TOWERS[tower])) + SMALL_FILES


def _check_place(folder: Path, need: int) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CannotWrite(f"{folder.name} is there already and not empty; choose another folder, or delete it")
    there = next(p for p in folder.parents if p.exists())
    free = shutil.disk_usage(there).free
    if free < need:
        raise CannotWrite(f"{folder.name} needs {need / 1e9:.2f} GB of disk and {free / 1e9:.2f} GB are free; make it smaller")


# ---- names and shapes, as in the original


def tensors(decoder: Decoder, tower: Tower) -> Shapes:
    """Every tensor of a checkpoint and its shape, in the order in which they are written."""
    d, words = decoder.width, (decoder.vocabulary, decoder.width)
    found: Shapes = {"model.embed_tokens.weight": words}
    for b in range(decoder.depth):
        found |= {f"model.layers.{b}.{name}": shape for name, shape in _block(decoder).items()}
    found |= {"model.norm.weight": (d,), **_tower(tower)}
    for k, width in ((0, tower.width), (2, d)):
        found |= {f"model.mm_projector.{k}.weight": (d, width), f"model.mm_projector.{k}.bias": (d,)}
    return found | {"lm_head.weight": words}


def _block(decoder: Decoder) -> Shapes:
    d, mlp, kv = decoder.width, decoder.mlp, decoder.width // decoder.heads * decoder.kv_heads
    return {
        "input_layernorm.weight": (d,),
        "self_attn.q_proj.weight": (d, d), "self_attn.k_proj.weight": (kv, d), "self_attn.v_proj.weight": (kv, d),
        "self_attn.o_proj.weight": (d, d), "post_attention_layernorm.weight": (d,),
        "mlp.gate_proj.weight": (mlp, d), "mlp.up_proj.weight": (mlp, d), "mlp.down_proj.weight": (d, mlp),
    }  # fmt: skip


def _tower(tower: Tower) -> Shapes:
    d, cells = tower.width, (tower.side // tower.patch) ** 2
    found: Shapes = {
        "embeddings.class_embedding": (d,),
        "embeddings.patch_embedding.weight": (d, 3, tower.patch, tower.patch),
        "embeddings.position_embedding.weight": (cells + 1, d),
        **_affine("pre_layrnorm", d),  # CLIP's own spelling
    }
    for b in range(tower.depth):
        at = f"encoder.layers.{b}."
        found |= _affine(f"{at}layer_norm1", d) | _affine(f"{at}layer_norm2", d)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= _affine(f"{at}self_attn.{name}", d, d)
        found |= _affine(f"{at}mlp.fc1", tower.mlp, d) | _affine(f"{at}mlp.fc2", d, tower.mlp)
    return {TOWER + name: shape for name, shape in (found | _affine("post_layernorm", d)).items()}


def _affine(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


# ---- configurations


def _config(decoder: Decoder, tower: Tower, external: Path) -> dict[str, Any]:
    return {
        **REQUIRED, "model_type": FAMILY, "architectures": ["LlavaMistralForCausalLM"], "torch_dtype": "bfloat16",
        "hidden_size": decoder.width, "intermediate_size": decoder.mlp, "num_hidden_layers": decoder.depth,
        "num_attention_heads": decoder.heads, "num_key_value_heads": decoder.kv_heads, "vocab_size": decoder.vocabulary,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": None,
        "bos_token_id": 1, "eos_token_id": 2, "mm_hidden_size": tower.width, "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch", "mm_vision_tower": str(external),
    }  # fmt: skip


def _tower_config(tower: Tower) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model", "hidden_size": tower.width, "intermediate_size": tower.mlp,
        "num_hidden_layers": tower.depth, "num_attention_heads": tower.width // 64, "image_size": tower.side,
        "patch_size": tower.patch, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    }  # fmt: skip


def _pixels(tower: Tower) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": tower.side}, "resample": 3,
        "crop_size": {"height": tower.side, "width": tower.side},
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


# ---- weights


def _bytes(shapes: Shapes) -> int:
    return sum(2 * prod(shape) for shape in shapes.values())


def _shards(shapes: Shapes) -> list[Shapes]:
    """Cut where a shard would grow too large, wherever in a block that is; always more than one, as the original has."""
    limit, shards = min(SHARD, _bytes(shapes) // 2), [Shapes()]
    for name, shape in shapes.items():
        if shards[-1] and _bytes(shards[-1]) + 2 * prod(shape) > limit:
            shards.append({})
        shards[-1][name] = shape
    return shards


def _write_shard(path: Path, shapes: Shapes, seed: int) -> None:
    """A safetensors file, by hand: the library's own writer wants the whole of it in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with path.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for name, shape in shapes.items():
            for chunk in _weights(name, shape, seed):
                file.write(chunk.bfloat16().view(torch.int16).numpy().data)


def _weights(name: str, shape: tuple[int, ...], seed: int) -> Iterator[Tensor]:
    """One tensor's weights, some at a time; drawn by its name, so that a tower is the same inside the checkpoint and outside."""
    drawn = torch.Generator().manual_seed(priority(seed, name.removeprefix(INSIDE)))
    left = prod(shape)
    while left:
        size = min(left, CHUNK)
        if name.endswith(".bias"):
            yield torch.zeros(size)
        elif name.endswith(".weight") and len(shape) == 1:
            yield torch.ones(size)
        else:
            yield torch.randn(size, generator=drawn).mul_(STD)
        left -= size
