"""Tiny random models of families whose processors need torchvision: with the inputs that those processors would give."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import transformers as hf

import tiny
from medlens import Sample
from medlens.models.base import Model
from medlens.models.prompt import Look
from medlens.types import Group, Tokens
from medlens.walk.cases import Prompt

SPECIAL = ["<image>", "<video>", "<img>", "</img>"]
IMAGE = "<image>"
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
MERGED = {"depth": 3, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2, "patch_size": 8, "initializer_range": 0.3}


def _qwen(family: str, words: Any, vision: dict[str, Any], **changes: Any) -> tuple[Any, dict[str, Any], int]:
    names = {
        "image_token_id": "<image>",
        "video_token_id": "<video>",
        "vision_start_token_id": "<img>",
        "vision_end_token_id": "</img>",
    }
    rope = {**ROPE, "mrope_interleaved": True} if family == "Qwen3VL" else ROPE
    text = getattr(hf, f"{family}TextConfig")(
        **{
            **tiny.TEXT,
            "vocab_size": len(words),
            "rope_parameters": rope,
            "use_sliding_window": False,
            **tiny._ids(words),
            **changes,
        }
    )
    ids = {key: words.convert_tokens_to_ids(token) for key, token in names.items()}
    config = getattr(hf, f"{family}Config")(text_config=text.to_dict(), vision_config={**MERGED, **vision}, **ids)
    inputs = {"pixel_values": torch.randn(24, 3 * 2 * 8 * 8), "image_grid_thw": torch.tensor([[1, 4, 6]])}
    return getattr(hf, f"{family}ForConditionalGeneration")(config), inputs, 6


def qwen2_vl(words: Any, **changes: Any) -> tuple[Any, dict[str, Any], int]:
    return _qwen("Qwen2VL", words, {"embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2}, **changes)


def qwen2_5_vl(words: Any, **changes: Any) -> tuple[Any, dict[str, Any], int]:
    return _qwen("Qwen2_5_VL", words, {"out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 32}, **changes)


def qwen3_vl(words: Any, **changes: Any) -> tuple[Any, dict[str, Any], int]:
    """Adds features of the tower's blocks 0 and 2 to the states behind the decoder's blocks 0 and 1."""
    vision = {"out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 2]}
    return _qwen("Qwen3VL", words, vision, **changes)


def internvl(words: Any, **changes: Any) -> tuple[Any, dict[str, Any], int]:
    vision = hf.InternVLVisionConfig(**{**tiny.TOWER, "image_size": [32, 32], "patch_size": [8, 8]})
    config = hf.InternVLConfig(
        vision_config=vision, text_config=tiny._text(hf.Qwen2Config, words, **changes), image_seq_length=4,
        image_token_id=words.convert_tokens_to_ids(IMAGE),
    )  # fmt: skip
    return hf.InternVLForConditionalGeneration(config), {"pixel_values": torch.randn(1, 3, 32, 32)}, 4


def smolvlm(words: Any, **changes: Any) -> tuple[Any, dict[str, Any], int]:
    config = hf.SmolVLMConfig(
        vision_config={"model_type": "smolvlm_vision", **tiny.TOWER}, text_config=tiny._text(hf.LlamaConfig, words, **changes),
        image_token_id=words.convert_tokens_to_ids(IMAGE), scale_factor=2, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return hf.SmolVLMForConditionalGeneration(config), {"pixel_values": torch.randn(1, 1, 3, 32, 32)}, 4


def mistral3(words: Any, **changes: Any) -> tuple[Any, dict[str, Any], int]:
    vision = hf.PixtralVisionConfig(**tiny.TOWER, head_dim=6)
    config = hf.Mistral3Config(
        vision_config=vision, text_config=tiny._text(hf.MistralConfig, words, **changes),
        image_token_index=words.convert_tokens_to_ids(IMAGE),
    )  # fmt: skip
    return hf.Mistral3ForConditionalGeneration(config), {"pixel_values": torch.randn(1, 3, 32, 32), "image_sizes": [[32, 32]]}, 4


def llava_onevision(words: Any, **changes: Any) -> tuple[Any, dict[str, Any], int]:
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**tiny.TOWER, vision_use_head=False),
        text_config=tiny._text(hf.Qwen2Config, words, **changes), image_token_index=words.convert_tokens_to_ids(IMAGE),
        video_token_index=words.convert_tokens_to_ids("<video>"), image_grid_pinpoints=[[32, 64]],
        vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    inputs = {"pixel_values": torch.randn(1, 3, 3, 32, 32), "image_sizes": torch.tensor([[32, 64]])}
    return hf.LlavaOnevisionForConditionalGeneration(config), inputs, 16 + 4 * 8 + 4  # the whole, its two tiles, a mark a line


FAMILIES: dict[str, Callable[..., tuple[Any, dict[str, Any], int]]] = {
    make.__name__: make for make in (qwen2_vl, qwen2_5_vl, qwen3_vl, internvl, smolvlm, mistral3, llava_onevision)
}


def build(family: str, **changes: Any) -> tuple[Model, Look]:
    """A model of the family with random weights (always the same) and a tokenizer alone; and an image, as it would take it."""
    torch.manual_seed(0)
    words = tiny.tokenizer(SPECIAL, "<s>", "</s>")
    module, inputs, tokens = FAMILIES[family](words, **changes)
    model = Model(family, module.eval(), SimpleNamespace(tokenizer=words))
    return model, Look(lambda: inputs, (IMAGE * tokens,))


def prompt(model: Model, look: Look, question: str, answer: str = "") -> Prompt:
    """A question behind the image, tokens and groups written out by hand."""
    pieces: list[tuple[str, Group]] = [
        ("<s><img>", "template"), ("".join(look.placeholders), "image"), ("</img>", "template"), (question, "text"),
        (answer, "answer"),
    ]  # fmt: skip
    ids: list[int] = []
    groups: list[Group] = []
    for text, group in pieces:
        made = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, groups = ids + made, groups + [group] * len(made)
    tokens = Tokens(tuple(ids), tuple(groups), tuple(model.tokenizer.convert_ids_to_tokens(ids)))
    return Prompt(Sample(question=question, id=question), look, tokens, "image")
