"""The tuned lens (Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens): one affine map a state,
which stands in for the blocks that are skipped. What a trained one is, how it is read, and its file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from medlens.errors import BadInput, BadModel
from medlens.jsontext import parse
from medlens.models.base import Model
from medlens.store import write

FORMAT, ABOUT = "medlens tuned lens 1", "about"


@dataclass(frozen=True, eq=False)
class TunedLens:
    """Of a model's states 0 .. L-1: h becomes norm(h + h A + b), which the head can read. State L needs no map.

    maps: of each state A (d, d); shifts: b (d), both float32. fingerprint: of the weights that it belongs to. told: how it was
    trained, and what it is worth on images that it was not trained on.
    """

    model: Model
    maps: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]
    fingerprint: str
    told: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"TunedLens(of {self.model.name}, {len(self.maps)} states)"

    def apply(self, layer: int, raw: Tensor) -> Tensor:
        """Rows (T, d) of state `layer`, raw, as the head reads them. The norm's weights must be there (`Model.here`).

        Raises BadInput for a layer that is none.
        """
        if not 0 <= layer <= self.model.depth:
            raise BadInput(f"{self.model.name} has states 0 to {self.model.depth}; got {layer}")
        if layer < len(self.maps):
            raw = translate(raw, self.maps[layer], self.shifts[layer])
        return self.model.norm(raw[None])[0]

    def save(self, path: Path) -> None:
        """One safetensors file. Raises OSError."""
        tensors = {f"map.{b}": a for b, a in enumerate(self.maps)} | {f"shift.{b}": b_ for b, b_ in enumerate(self.shifts)}
        about = {"format": FORMAT, "fingerprint": self.fingerprint, "told": dict(self.told)}
        # under one name: safetensors writes several in any order
        write(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, {ABOUT: json.dumps(about)}))


def translate(raw: Tensor, map_: Tensor, shift: Tensor) -> Tensor:
    """h + h A + b, in the type of the rows."""
    return raw + (raw.float() @ map_ + shift).to(raw.dtype)


def open_lens(path: Path, model: Model, fingerprint: str) -> TunedLens:
    """The lens in a file. Raises BadModel for what is none, is damaged, or belongs to other weights than these."""
    try:
        with safetensors.safe_open(path, "pt") as opened:
            about = parse((opened.metadata() or {}).get(ABOUT, "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError, ValueError) as e:
        raise BadModel(f"{path} is no tuned lens, or cut off ({e}); train one: medlens lens train MODEL DATA --out FILE") from e
    said = about if isinstance(about, dict) else {}
    if said.get("format") != FORMAT:
        raise BadModel(f"{path} is no tuned lens: its format is {said.get('format')!r}; expected {FORMAT!r}")
    told = said.get("told")
    if not isinstance(told, dict) or not isinstance(said.get("fingerprint"), str):
        raise BadModel(f"{path} does not say which weights it was trained for; it is damaged: train it again")
    if said["fingerprint"] != fingerprint:
        raise BadModel(
            f"{path} was trained for other weights ({told.get('model', '?')}, {said['fingerprint']}) than {model.name}'s "
            f"({fingerprint}); a lens fits one model only: train one for this"
        )
    return TunedLens(model, *_maps(path, tensors, model), fingerprint, told)


def _maps(path: Path, tensors: Mapping[str, Tensor], model: Model) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    d, found = model.width, []
    for kind, shape in (("map", (d, d)), ("shift", (d,))):
        names = [f"{kind}.{b}" for b in range(model.depth)]
        for name in names:
            if name not in tensors or tuple(tensors[name].shape) != shape:
                raise BadModel(f"{path} holds no {name} of shape {shape}; it is damaged: train it again")
            if not torch.isfinite(tensors[name]).all():
                raise BadModel(f"{path}: {name} holds a NaN or infinity; it is damaged: train it again")
        found.append(tuple(tensors[name].float().to(model.device) for name in names))
    return found[0], found[1]
