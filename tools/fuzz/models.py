"""Checkpoints: safetensors headers, indices, configurations, adapters, tuned lenses; and whole folders, loaded and tested."""

from __future__ import annotations

import json
import pickle
import random
import struct
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tools.fuzz import mutate
from tools.fuzz.target import Read, Target

import medlens
from medlens.models.adapter import CONFIG, WEIGHTS, merge_adapter
from medlens.models.base import Model
from medlens.models.hf import check_folder, family_of
from medlens.models.llava_med import read_configuration
from medlens.models.phantom import folder_of
from medlens.models.shards import INDEX, check_shards
from medlens.models.tuned import ABOUT, FORMAT, open_lens
from medlens.models.weights import places_in, size_of


class Code:
    """Pickled, it writes a file when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path("pickle-was-opened"), "x")


PICKLE = pickle.dumps({"weight": Code()})
SMALL = {"a.weight": torch.arange(12.0).reshape(3, 4), "b.weight": torch.ones(5)}
OFFSETS = (
    [0, 0],
    [-8, 48],
    [48, 0],
    [0, 2**63],
    [2**64, 2**64 + 48],
    [0, 47],
    [1, 49],
    [24, 72],
    [0.5, 48],
    ["0", "48"],
    [0],
    None,
    "x",
)


def safetensors(rng: random.Random, tensors: dict[str, torch.Tensor] = SMALL) -> bytes:
    """A file whose header says something else than its data: overlapping, negative, huge, twice, deep, of a wrong length."""
    data = save(tensors, {"format": "pt"})
    if (kind := rng.randrange(6)) == 0:
        return mutate.some_bytes(data, rng)
    if kind == 1:
        return PICKLE if rng.random() < 0.5 else struct.pack("<Q", len(PICKLE)) + PICKLE
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if kind == 2:
        header[rng.choice(list(tensors))]["data_offsets"] = rng.choice(OFFSETS)
        text = json.dumps(header)
    elif kind == 3:
        text = json.dumps(header)
        text = text[:-1] + "," + text[1:]  # every key twice
    else:
        text = mutate.as_text(mutate.some_json(header, rng))
    written = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", rng.choice(mutate.NUMBERS) % 2**64 if rng.random() < 0.1 else len(written)) + written + rest


def _nothing(_: Path) -> None:
    return None


def _shards(_: Any, folder: Path, rng: random.Random) -> Read:
    (folder / "model-1.safetensors").write_bytes(safetensors(rng) if rng.random() < 0.7 else save(SMALL))
    if rng.random() < 0.5:
        names = {
            "a.weight": "model-1.safetensors",
            "b.weight": rng.choice(("model-1.safetensors", "../outside/secret.png", *mutate.TEXTS)),
        }
        told: Any = {"metadata": {}, "weight_map": names}
        told = mutate.some_json(told, rng) if rng.random() < 0.5 else told
        (folder / INDEX).write_bytes(mutate.as_text(told).encode("utf-8", "surrogatepass"))
    else:
        (folder / "model-1.safetensors").rename(folder / "model.safetensors")

    def reading() -> None:
        files = check_shards(folder)
        size_of(files, torch.float32)
        for file in set(files.values()):
            places_in(file)

    return reading


def _config_seeds(_: Path) -> list[dict[str, Any]]:
    llava = json.loads((folder_of("phantom") / "config.json").read_text())
    original = {"model_type": "llava_mistral", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 70, "rope_theta": 1e4}
    return [llava, original]


def _config(seeds: list[dict[str, Any]], folder: Path, rng: random.Random) -> Read:
    text = mutate.as_text(mutate.some_json(rng.choice(seeds), rng)).encode("utf-8", "surrogatepass")
    (folder / "config.json").write_bytes(mutate.some_bytes(text, rng) if rng.random() < 0.3 else text)
    (folder / "tokenizer.json").touch()
    (folder / "processor_config.json").touch()

    def reading() -> None:
        if family_of(folder) == "llava_mistral":
            read_configuration(folder)
        else:
            check_folder(folder)

    return reading


@cache
def phantom() -> Model:
    """Once for all targets that need a model."""
    return medlens.load("phantom")


def _phantom(_: Path) -> Model:
    return phantom()


def _adapter(model: Model, folder: Path, rng: random.Random) -> Read:
    told: Any = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"]}
    told = mutate.some_json(told, rng) if rng.random() < 0.5 else told
    (folder / CONFIG).write_bytes(mutate.as_text(told).encode("utf-8", "surrogatepass"))
    name = rng.choice(
        ("model.language_model.layers.0.self_attn.q_proj", "model.language_model.layers.9.q", "", "model.language_model")
    )
    factors = {
        f"base_model.model.{name}.lora_A.weight": torch.zeros(2, 128),
        f"base_model.model.{name}.lora_B.weight": torch.zeros(128, 2),
    }
    (folder / WEIGHTS).write_bytes(safetensors(rng, factors) if rng.random() < 0.6 else save(factors))
    return lambda: merge_adapter(model.module, folder)


def _lens(model: Model, folder: Path, rng: random.Random) -> Read:
    maps = {
        f"{kind}.{b}": torch.zeros(*shape) for b in range(model.depth) for kind, shape in (("map", (128, 128)), ("shift", (128,)))
    }
    about: Any = {"format": FORMAT, "fingerprint": rng.choice(("own", "other")), "told": {"model": "phantom"}}
    about = mutate.some_json(about, rng) if rng.random() < 0.8 else about
    text = mutate.as_text(about).encode("utf-8", "replace").decode()
    data = save(maps, {ABOUT: text}) if rng.random() < 0.7 else safetensors(rng, maps)
    (folder / "lens.safetensors").write_bytes(data)
    return lambda: open_lens(folder / "lens.safetensors", model, "own")


def _checkpoint(_: Any, folder: Path, rng: random.Random) -> Read:
    """The phantom's folder with one of its files changed."""
    source = folder_of("phantom")
    files = sorted(source.iterdir())
    hit = rng.choice([f for f in files if f.suffix in (".json", ".jinja", ".safetensors")])
    for file in files:
        if file != hit:
            (folder / file.name).symlink_to(file)
    if hit.suffix == ".json":
        told = json.loads(hit.read_text())
        told = mutate.some_json(told, rng) if rng.random() < 0.8 else asks_for_code(told, folder)
        (folder / hit.name).write_bytes(mutate.as_text(told).encode("utf-8", "surrogatepass"))
    elif hit.suffix == ".jinja":
        (folder / hit.name).write_text(rng.choice(TEMPLATES) + (hit.read_text() if rng.random() < 0.5 else ""))
    else:
        (folder / hit.name).write_bytes(mutate.some_bytes(hit.read_bytes(), rng) if rng.random() < 0.7 else safetensors(rng))
    return lambda: medlens.load(folder)


TEMPLATES = (
    "{% for x in range(10**9) %}x{% endfor %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('id') }}", "{{ 'a' * 10**10 }}", "{% include '/etc/passwd' %}",
    "{{ messages[0].content[0].text }}", "{{", "{% raise %}",
)  # fmt: skip


def asks_for_code(told: Any, folder: Path) -> Any:
    """A configuration that names classes in a file of its own folder, and the file, which writes another when it is imported."""
    (folder / "code.py").write_text("from pathlib import Path\nPath('code-was-run').touch()\nclass A: pass\n")
    classes = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
    return {**told, "auto_map": dict.fromkeys(classes, "code.A"), "trust_remote_code": True} if isinstance(told, dict) else told


TARGETS = (
    Target("safetensors", 12, _nothing, _shards),
    Target("configuration", 4, _config_seeds, _config),
    Target("adapter", 3, _phantom, _adapter),
    Target("tuned lens", 2, _phantom, _lens),
    Target("checkpoint", 1, _nothing, _checkpoint),
)
