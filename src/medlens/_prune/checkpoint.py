"""The checkpoint without some blocks: every byte that stays is copied, blocks are numbered anew, and the configuration says so.

In the layout that it has: what could read the whole one can read this one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from medlens._prepare import Prepared
from medlens._record import fingerprint
from medlens.errors import BadModel, MedlensError
from medlens.models import load
from medlens.models.base import Model
from medlens.models.llava_med import is_original
from medlens.models.shards import INDEX
from medlens.phantom.questions import is_phantom
from medlens.walk.cases import Case, Prompt, cases
from medlens.walk.forward import walk
from medlens.walk.surgery import blocks_dropped

CONFIG, PIECE = "config.json", 2**24  # bytes copied at a time
OTHERS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
RECORD = "medlens_prune.json"
SAME = 1e-5  # of the largest logit
LAYERS = "layer_types"  # of a decoder that mixes kinds of attention: the kind of each block


def shortened_checkpoint(
    asked: Model | str | Path, prepared: Prepared, blocks: Sequence[int], prompts: Sequence[Prompt], out: Path
) -> dict[str, Any]:  # fmt: skip
    """Write the checkpoint, load it again and hold its logits against the model's without these blocks; what the manifest says.

    Where there are no files to cut (a model in memory, an adapter that was merged), where weights or configuration are not laid out
    by blocks, or the logits differ, nothing is left, and `why` says so. tied: see `write_cut`; difference: of logits, the largest.
    """
    model, told = prepared.model, {"blocks": list(blocks), "why": "", "tied": False, "difference": None}
    try:
        files = model if model.weights else _in_files(asked, prepared)
        told["tied"] = write_cut(files, blocks, out)
        new = load(
            out, device=str(model.device), dtype=str(model.dtype).removeprefix("torch."), memory=1 if model.weights else None,
            vision_tower=_tower(out, prepared.plan.vision_tower),
        )  # fmt: skip
        with blocks_dropped(model, blocks):
            expected = _logits(model, prompts)
        told["difference"] = float((_logits(new, prompts) - expected).abs().max())
        if told["difference"] > SAME * max(1.0, float(expected.abs().max())):
            raise BadModel(f"what was written differs by {told['difference']:.2g} from the model without these blocks")
    except MedlensError as e:
        shutil.rmtree(out, ignore_errors=True)
        told["why"] = str(e).replace(str(out.parent), "RUN")
    return told


def _in_files(asked: Model | str | Path, prepared: Prepared) -> Model:
    """The model with its weights left in their files. Raises BadModel where these are not the weights that were judged."""
    model = prepared.model
    name = model.name if isinstance(asked, Model) else asked
    if isinstance(asked, Model) and not (Path(name).is_dir() or is_phantom(str(name))):
        raise BadModel("the model was given as an object: there are no files to cut")
    tower = _tower(Path(name), prepared.plan.vision_tower)
    found = load(name, dtype=str(model.dtype).removeprefix("torch."), memory=1, vision_tower=tower)
    if found.weights is None:
        raise BadModel("the model has no files to cut")
    if fingerprint(found) != prepared.identity["weights"]:
        raise BadModel("the weights that were judged are not those in the files (changed in memory, or by an adapter)")
    return found


def _tower(folder: Path, asked: str) -> str:
    """The vision tower to load with: of the original layout alone there is a choice."""
    return asked if folder.is_dir() and is_original(folder) else "auto"


def _logits(model: Model, prompts: Sequence[Prompt]) -> Tensor:
    """(tokens, V), of all of them."""
    rows: list[Tensor] = []

    class Reader:
        def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None: ...
        def leave(self, block: int) -> None: ...
        def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
            rows.append(normed)

    walk(model, cases(model, prompts), [Reader()])
    with torch.no_grad(), model.here("head"):
        return torch.cat([model.unembed(of) for of in rows]).float().cpu()


def write_cut(model: Model, blocks: Sequence[int], out: Path) -> bool:
    """Write the checkpoint of a streamed model without these blocks into the new folder `out`; all else in its folder is copied.

    Returns whether head and input table are tied: they then lie in the files once, as before.

    Raises BadModel where a block's weights are not named by its number, where it shares a weight with another block, or where
    nothing in the configuration says how many blocks there are.
    """
    assert model.weights is not None
    names = _renamed(model, blocks)
    folder = next(place.file.parent for name, place in model.weights.places.items() if name in model.names_of[0])
    shutil.copytree(folder, out, ignore=lambda at, found: _left(Path(at), found, folder))
    for file in sorted(folder.glob("*.safetensors")):
        if not _copy(file, out / file.name, names):
            (out / file.name).unlink()  # a shard of nothing but blocks that went
    if (folder / INDEX).is_file():
        _index(folder / INDEX, out / INDEX, names)
    _configure(model, blocks, out / CONFIG)
    told = {"medlens": version("medlens"), "blocks": model.depth, "dropped": sorted(blocks)}
    (out / RECORD).write_text(json.dumps(told, indent=1), encoding="utf-8")
    table, head = model.module.get_input_embeddings(), model.head
    places = model.weights.places
    of = {id(module): name for name, module in model.module.named_modules()}
    return places[f"{of[id(table)]}.weight"] == places[f"{of[id(head)]}.weight"]


def _left(at: Path, found: Sequence[str], folder: Path) -> list[str]:
    """What is written anew, or holds the whole model in another format. (A tower's own folder within is copied whole.)"""
    anew = [name for name in found if at == folder and (name == INDEX or name.endswith((".safetensors", *OTHERS)))]
    return [*anew, *(name for name in found if name.startswith("."))]


def _renamed(model: Model, blocks: Sequence[int]) -> dict[str, str | None]:
    """Of each tensor of a block, by its name in its file, the new name; None: it goes."""
    assert model.weights is not None
    numbers = {b: k for k, b in enumerate(b for b in range(model.depth) if b not in blocks)}
    at = {id(module): name for name, module in model.module.named_modules()}
    found: dict[str, str | None] = {}
    for b, block in enumerate(model.blocks):
        buffers = [f"{at[id(block)]}.{name}" for name, _ in block.named_buffers()]
        for name in [*model.names_of[b], *(name for name in buffers if name in model.weights.places)]:
            lying, within = model.weights.places[name].name, name.removeprefix(f"{at[id(block)]}.")
            start = lying.removesuffix(f".{within}")
            if lying in found or start == lying or not start.endswith(f".{b}"):
                raise BadModel(f"{model.name}: {lying} is not named by its block {b} alone, so it cannot be numbered anew")
            found[lying] = f"{start[: -len(str(b))]}{numbers[b]}.{within}" if b in numbers else None
    return found


def _copy(file: Path, new: Path, names: Mapping[str, str | None]) -> int:
    """The tensors of one safetensors file that stay, byte for byte, under their new names; how many they are."""
    with file.open("rb") as source, new.open("wb") as target:
        length = int.from_bytes(source.read(8), "little")
        header: dict[str, Any] = json.loads(source.read(length))
        told, spans, end = {}, [], 0
        if "__metadata__" in header:
            told["__metadata__"] = header.pop("__metadata__")
        for name, of in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if (fresh := names.get(name, name)) is not None:
                begin, last = of["data_offsets"]
                spans.append((8 + length + begin, last - begin))
                told[fresh] = of | {"data_offsets": [end, end + last - begin]}
                end += last - begin
        written = json.dumps(told, separators=(",", ":")).encode()
        written += b" " * (-len(written) % 8)  # what follows is aligned
        target.write(len(written).to_bytes(8, "little") + written)
        for begin, size in spans:
            _pour(source, target, begin, size)
    return len(spans)


def _pour(source: BinaryIO, target: BinaryIO, begin: int, size: int) -> None:
    source.seek(begin)
    while size:
        piece = source.read(min(size, PIECE))
        if not piece:
            raise BadModel(f"{getattr(source, 'name', 'a shard')} is cut off; copy it again")
        target.write(piece)
        size -= len(piece)


def _index(index: Path, new: Path, names: Mapping[str, str | None]) -> None:
    told = json.loads(index.read_text(encoding="utf-8"))
    placed = {names.get(name, name): file for name, file in told["weight_map"].items()}
    told["weight_map"] = {name: file for name, file in placed.items() if name is not None}
    lying = [of for file in sorted(set(told["weight_map"].values())) for of in _header(new.parent / file)]
    totals = {
        "total_size": sum(of["data_offsets"][1] - of["data_offsets"][0] for of in lying),
        "total_parameters": sum(prod(of["shape"]) for of in lying),
    }
    told["metadata"] = {name: totals.get(name, value) for name, value in told.get("metadata", {}).items()}
    new.write_text(json.dumps(told, indent=2), encoding="utf-8")


def _header(file: Path) -> list[dict[str, Any]]:
    """What a safetensors file says of each of its tensors."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return [of for name, of in header.items() if name != "__metadata__"]


def _configure(model: Model, blocks: Sequence[int], path: Path) -> None:
    """The decoder's part of the configuration: how many blocks, and of what kind each is."""
    written = json.loads(path.read_text(encoding="utf-8"))
    part, config = written, model.text_config
    if config is not model.module.config and "num_hidden_layers" not in written:
        parts = [part for name, part in written.items() if getattr(model.module.config, name, None) is config]
        if len(parts) != 1 or not isinstance(parts[0], dict):
            raise BadModel(f"{model.name}: nothing in {CONFIG} says how many blocks its decoder has")
        part = parts[0]
    part["num_hidden_layers"] = model.depth - len(set(blocks))
    kinds = getattr(config, LAYERS, None)
    if kinds is not None and (part is not written or LAYERS in written):
        part[LAYERS] = [kind for b, kind in enumerate(kinds) if b not in blocks]
    path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
