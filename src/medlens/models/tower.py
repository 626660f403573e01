"""The vision tower: its layers, found by what they are and not by the family."""

from __future__ import annotations

from torch import nn

from medlens.errors import BadModel
from medlens.models.base import Model

LAYERS = ("layers", "layer", "blocks", "transformer_layers")  # what the lists of layers are called in transformers' towers


def tower_layers(model: Model) -> list[nn.Module]:
    """Layers 0 .. of the model's vision tower: the longest list of layers in the encoder that transformers names for images.

    Raises BadModel, naming the family, where there is none.
    """
    tower = model.module.get_encoder(modality="image")
    found = [] if tower is model.module or tower is model.module.base_model else _lists(tower)
    if not found:
        raise BadModel(
            f"{model.name}: no vision tower with a list of layers found in a {model.family}; only its decoder can be read"
        )
    return list(max(found, key=len))


def _lists(tower: nn.Module) -> list[nn.ModuleList]:
    return [m for name, m in tower.named_modules() if isinstance(m, nn.ModuleList) and name.rpartition(".")[2] in LAYERS]


def class_places(model: Model) -> int:
    """How many places at the beginning of a tower's row are no patches: 1 where it has an embedding of its own for the class."""
    tower = model.module.get_encoder(modality="image")
    names = [name.rpartition(".")[2] for name, _ in tower.named_parameters()]
    return int("class_embedding" in names or "cls_token" in names)


def fed_from(model: Model) -> int | None:
    """The tower's state that the projector reads, where the configuration says so with one number; else it is not known here."""
    layer = getattr(model.module.config, "vision_feature_layer", None)
    if not isinstance(layer, int):
        return None
    return layer % (len(tower_layers(model)) + 1)
