"""Phantoms with one thing planted in them: oracles for methods that claim to find such things.

`plant_unit` writes a model in which one known unit alone carries a word; `linear_block` one in which a known block is exactly
linear.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

from medlens import hooks
from medlens.errors import BadInput
from medlens.models.base import Model
from medlens.phantom.questions import samples
from medlens.walk.cases import Case, arguments, cases
from medlens.walk.forward import prepare, walk

STEEPNESS = 8.0  # of the planted unit's gate: shut for "no", open for "yes"


# ---- one unit


def plant_unit(model: Model, word: str = "cyst", block: int = 6, unit: int = 0, *, n: int = 600, seed: int = 1_000) -> Model:
    """A copy of a phantom in which unit `unit` of `block` alone can make it say `word`, one of the answers about a lesion's type.

    One direction e of the residual stream is cleared: nothing writes to it and nothing reads it, but for the planted unit and the
    word's row of the head. The unit fires on what a ridge regression, on `n` slices, tells the word from other answers by. So the
    word's logit is the unit's activation times a constant (over the final norm's divisor); with the unit ablated it is 0.

    Raises BadInput for a word that is no single token, a block or a unit that the model does not have.
    """
    _check(model, word, block, unit)
    planted = replace(model, name=f"{model.name} with unit {block}.{unit} planted", module=copy.deepcopy(model.module))
    asked = samples(n, seed, "type")
    laid = cases(planted, [prepare(planted, s) for s in asked])
    with torch.no_grad():
        direction = _least_used(planted, laid[:50])
        _clear(planted, direction)
        layer: Any = planted.blocks[block]
        layer.mlp.down_proj.weight[:, unit] = 0
        _wire(planted, laid, torch.tensor([s.answer == word for s in asked]), layer, unit, direction, _token(planted, word))
    return planted


def _check(model: Model, word: str, block: int, unit: int) -> None:
    _check_block(model, block)
    units = model.text_config.intermediate_size
    if not 0 <= unit < units:
        raise BadInput(f"unit is 0..{units - 1}; got {unit}")
    ids = model.tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == model.tokenizer.unk_token_id:
        raise BadInput(f"a planted word is one token of {model.name}; {word!r} is not")


def _check_block(model: Model, block: int) -> None:
    if not 0 <= block < model.depth:
        raise BadInput(f"block is 0..{model.depth - 1}; got {block}")


def _token(model: Model, word: str) -> int:
    return model.tokenizer(word, add_special_tokens=False)["input_ids"][0]


def _least_used(model: Model, laid: Sequence[Case]) -> Tensor:
    """The direction (d,) along which the states of all layers, each row scaled to length 1, vary least."""
    kept = _States(model.depth)
    walk(model, laid, [kept])
    rows = torch.cat([state for states in kept.of_layer for state in states]).double()
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return torch.linalg.eigh(rows.T @ rows).eigenvectors[:, 0].to(model.dtype)


def _clear(model: Model, e: Tensor) -> None:
    """Nothing writes along e any more, and nothing reads along it (behind a norm with weight g, e arrives as g * e)."""
    module = model.module
    projector, table = module.model.multi_modal_projector.linear_2, module.get_input_embeddings()
    for weight in (table.weight.T, projector.weight, projector.bias[:, None]):
        weight -= torch.outer(e, e @ weight)
    readers = [(model.head, model.norm)]
    for block in model.blocks:
        layer: Any = block
        for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writer.weight -= torch.outer(e, e @ writer.weight)
        attention = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
        readers += [(reader, layer.input_layernorm) for reader in attention]
        readers += [(reader, layer.post_attention_layernorm) for reader in (layer.mlp.gate_proj, layer.mlp.up_proj)]
    for reader, norm in readers:
        seen = norm.weight * e  # pyright: ignore
        seen = seen / seen.norm()
        reader.weight -= torch.outer(reader.weight @ seen, seen)  # pyright: ignore


def _wire(model: Model, laid: Sequence[Case], is_word: Tensor, layer: Any, unit: int, e: Tensor, token: int) -> None:
    """Gate and up row read the word, the down column writes along e, the head's row reads e and nothing else."""
    seen, last = [], []
    with hooks.evaluation(model.module), hooks.inputs_of(layer.mlp) as into_mlp, hooks.inputs_of(model.norm) as into_norm:
        for case in laid:
            model.module(**arguments(model, case), use_cache=False, logits_to_keep=1)
            seen.append(into_mlp.pop()[0, -1])
            last.append(into_norm.pop()[0, -1])
    states, finals = torch.stack(seen), torch.stack(last)
    probe = _ridge(states, 2.0 * is_word - 1).to(model.dtype)
    layer.mlp.gate_proj.weight[unit], layer.mlp.up_proj.weight[unit] = STEEPNESS * probe, probe
    active = nn.functional.silu(STEEPNESS * states @ probe) * (states @ probe)
    written = 0.1 * finals.norm(dim=1).median() / STEEPNESS  # a tenth of a state's length where the unit is fully active
    layer.mlp.down_proj.weight[:, unit] = written * e
    others = model.unembed(model.norm(finals)).index_fill(1, torch.tensor([token]), -torch.inf).amax(1)
    divisor = finals.pow(2).mean(1).sqrt()
    needed = (others * divisor / (written * active)).double()  # what the head must multiply by for the word to win
    model.head.weight[token] = _threshold(needed, is_word) * e / model.norm.weight  # pyright: ignore


def _threshold(needed: Tensor, is_word: Tensor) -> float:
    """The gain with the fewest errors: the word wins where a positive number smaller than it is needed."""
    tried = needed[needed > 0].sort().values
    between = (tried[1:] * tried[:-1]).sqrt()
    wins = (needed > 0) & (needed < between[:, None])
    return float(between[(wins == is_word).sum(1).argmax()])


def _ridge(x: Tensor, y: Tensor, share: float = 1e-3) -> Tensor:
    """Least squares with a little shrinkage, in double: (n, d), (n,) -> (d,)."""
    x, y = x.double(), y.double()
    gram = x.T @ x
    return torch.linalg.solve(gram + share * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype), x.T @ y)


# ---- one block


class LinearBlock(MistralDecoderLayer):
    """A block whose output is `linear(state)`. Its attention still runs, so that it can be read, and goes nowhere."""

    linear: nn.Linear

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        super().forward(hidden_states, *args, **kwargs)
        return self.linear(hidden_states)


def linear_block(model: Model, block: int = 4, *, n: int = 500, seed: int = 1_000) -> Model:
    """A copy of a phantom in which `block` is exactly linear: state b + 1 = A (state b) + c at every token.

    A and c are the least-squares fit to what the block did on `n` samples, image and other tokens weighing the same; they stand in
    `model.blocks[block].linear`. Raises BadInput for a block that the model does not have.
    """
    _check_block(model, block)
    kept = _States(model.depth)
    walk(model, cases(model, [prepare(model, s, s.answer) for s in samples(n, seed)]), [kept])
    edited = replace(model, name=f"{model.name} with block {block} linear", module=copy.deepcopy(model.module))
    layer: Any = edited.blocks[block]
    layer.__class__ = LinearBlock  # the same object: transformers has its own hooks on it
    layer.linear = _affine(torch.cat(kept.of_layer[block]), torch.cat(kept.of_layer[block + 1]), torch.cat(kept.image))
    return edited


def _affine(x: Tensor, y: Tensor, image: Tensor) -> nn.Linear:
    """The linear layer that maps rows x to rows y best: (n, d), (n, d)."""
    share = image.double().mean()
    weight = torch.where(image, 1 / share, 1 / (1 - share)).sqrt()[:, None]
    padded = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(weight * padded, weight * y.double()).solution
    layer = nn.Linear(x.shape[1], y.shape[1])
    layer.weight.data, layer.bias.data = solution[:-1].T.to(x.dtype).contiguous(), solution[-1].to(x.dtype)
    return layer


class _States:
    """A visitor that keeps the states of every layer, and which of their rows are the image's."""

    def __init__(self, depth: int) -> None:
        self.of_layer: list[list[Tensor]] = [[] for _ in range(depth + 1)]
        self.image: list[Tensor] = []

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        self.of_layer[block].append(before)

    def leave(self, block: int) -> None:
        pass

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        self.of_layer[-1].append(raw)
        self.image.append(torch.tensor([g == "image" for g in case.groups]))
