"""The same architecture with weights that were never trained: what a measure gives where nothing was learned."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from medlens.models.base import Model
from medlens.models.int8 import as_floats
from medlens.models.weights import Weights
from medlens.stats.rows import priority

SPREAD = 0.02  # of the draws, where the configuration names none


@dataclass(eq=False)
class Drawn(Weights):
    """Weights that are drawn when they are needed, and read from nowhere: the same whenever they are drawn again."""

    seed: int = 0
    spread: float = SPREAD

    def read(self, name: str) -> Tensor:
        """Matrices N(0, spread^2), biases 0, a norm's scale so that it scales by 1."""
        shape, leaf = self.module.get_parameter(name).shape, name.rpartition(".")[2]
        owner = self.module.get_submodule(name.rpartition(".")[0])
        if leaf.endswith("bias"):
            return torch.zeros(shape, device=self.device, dtype=self.dtype)
        if leaf == "weight" and len(shape) == 1 and "norm" in type(owner).__name__.lower():
            return torch.full(shape, _neutral(owner), device=self.device, dtype=self.dtype)
        tied = getattr(self.module, "all_tied_weights_keys", None) or {}
        generator = torch.Generator().manual_seed(priority(self.seed, tied.get(name, name)))
        return (torch.randn(shape, generator=generator) * self.spread).to(self.device, self.dtype)

    def read_rows(self, name: str, begin: int, end: int) -> Tensor:
        """All are drawn for some: whoever needs many has the part in memory meanwhile."""
        return self.read(name)[begin:end]

    def expect(self, names: Iterable[str]) -> None:
        """There is nothing to read ahead."""


def reinitialised(model: Model, seed: int) -> Model:
    """The same architecture with every parameter drawn anew, seeded by its name; the model itself is left as it is.

    Matrices are drawn from N(0, initializer_range^2) of the text configuration (0.02 where it names none), a norm's scale is 1,
    biases are 0. Always streamed: a part is drawn when it is its turn, so no second model is in memory. Whether the model is
    streamed itself makes no difference to what is drawn. Parameter randomisation as a control: Adebayo et al. 2018.
    """
    shared = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in model.module.parameters()}
    module = copy.deepcopy(model.module, dict(shared))
    as_floats(module)  # weights that are drawn are not quantised
    spread = getattr(model.text_config, "initializer_range", None) or SPREAD
    told = {name: f"drawn {seed} {spread} {tuple(w.shape)}" for name, w in module.state_dict().items()}  # by what they are known
    weights = Drawn(module, {}, model.dtype, model.device, digests=told, seed=seed, spread=spread)
    return replace(model, module=module, weights=weights, checks=None)


def _neutral(norm: nn.Module) -> float:
    """The weight with which a norm scales by 1: some multiply by 1 + weight, and those are silent at no weight of 0."""
    zeros = {name: torch.zeros(p.shape) for name, p in norm.named_parameters()}
    probe = torch.linspace(-1, 1, zeros["weight"].numel())[None] + 0.1
    return 0.0 if functional_call(norm, zeros, (probe,)).any() else 1.0
