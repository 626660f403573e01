"""Tiny random models of the families that medlens knows, each with its family's own processor, special tokens and chat template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

WORDS = ["is there a lesion on the image? yes, a lesion in the upper left", "which modality is this? user model assistant"]
SIDE, PATCH = 32, 8
TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "initializer_range": 0.3, "max_position_embeddings": 2048,
}  # fmt: skip
TOWER: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": SIDE,
    "patch_size": PATCH, "initializer_range": 0.3,
}  # fmt: skip
NORMED = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def tokenizer(specials: list[str], bos: str, eos: str, **named: str) -> Any:
    """Byte-level pieces; `named` are special tokens that the family's tokenizer knows by an attribute."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE

    inner = Tokenizer(BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", bos, eos, *specials, *named.values()]
    pieces = trainers.BpeTrainer(
        vocab_size=300 + len(special), special_tokens=[AddedToken(t, special=True, normalized=False) for t in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    inner.train_from_iterator(WORDS, pieces)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=bos, eos_token=eos, pad_token="<pad>", extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _ids(words: Any) -> dict[str, Any]:
    return {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}


def _text(config: Any, words: Any, **changes: Any) -> Any:
    return config(**{**TEXT, "vocab_size": len(words), "tie_word_embeddings": True, **_ids(words), **changes})


# ---- one function a family: text settings in, model and processor out

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {% for c in m.content %}"
    "{{ '<image>\n' if c.type == 'image' else c.text }}{% endfor %} [/INST]"
    "{% else %}{% for c in m.content %}{{ c.text }}{% endfor %}</s>{% endif %}{% endfor %}"
)


def llava(**changes: Any) -> tuple[Any, Any]:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer(["<image>", "[INST]", "[/INST]"], "<s>", "</s>")
    pixels = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = hf.LlavaProcessor(
        pixels, words, patch_size=PATCH, vision_feature_select_strategy="default", chat_template=MISTRAL,
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER), text_config=_text(hf.MistralConfig, words, **changes),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config), processor


def llava_next(**changes: Any) -> tuple[Any, Any]:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    words = tokenizer(["<image>", "[INST]", "[/INST]"], "<s>", "</s>")
    grid = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=grid
    )
    processor = hf.LlavaNextProcessor(
        pixels, words, patch_size=PATCH, vision_feature_select_strategy="default", chat_template=MISTRAL,
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER), text_config=_text(hf.MistralConfig, words, **changes),
        image_token_index=words.convert_tokens_to_ids("<image>"), image_grid_pinpoints=grid,
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config), processor


GEMMA = (  # as Gemma 3's: no system turn is made up, and words are trimmed
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) }}\n"
    "{% for c in m.content %}{% if c.type == 'image' %}{{ '<start_of_image>' }}{% else %}{{ c.text | trim }}{% endif %}"
    "{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def gemma3(**changes: Any) -> tuple[Any, Any]:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    words = tokenizer(
        ["<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>",
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>",
    )  # fmt: skip
    pixels = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}, **NORMED)
    processor = hf.Gemma3Processor(pixels, words, chat_template=GEMMA, image_seq_length=4)
    text = {"sliding_window": 64, "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "query_pre_attn_scalar": 8}
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=_text(hf.Gemma3TextConfig, words, **{**text, **changes}), mm_tokens_per_image=4,
        boi_token_index=words.boi_token_id, eoi_token_index=words.eoi_token_id, image_token_index=words.image_token_id,
        initializer_range=0.3,
    )  # fmt: skip
    model = hf.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.3)  # zeros, by transformers
    return model, processor


def _paligemma(text: Any, **changes: Any) -> tuple[Any, Any]:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    words = tokenizer([], "<bos>", "<eos>", image_token="<image>")
    pixels = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, **NORMED)
    pixels.image_seq_length = (SIDE // PATCH) ** 2
    processor = hf.PaliGemmaProcessor(pixels, words)
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False, projection_dim=32),
        text_config=_text(text, words, **changes), image_token_index=words.image_token_id, projection_dim=32,
    )  # fmt: skip
    return hf.PaliGemmaForConditionalGeneration(config), processor


def paligemma(**changes: Any) -> tuple[Any, Any]:
    return _paligemma(hf.GemmaConfig, **changes)


def paligemma2(**changes: Any) -> tuple[Any, Any]:
    """Its logits are capped, and every second layer has a window."""
    return _paligemma(hf.Gemma2Config, **{"sliding_window": 64, "query_pre_attn_scalar": 8, **changes})


IDEFICS = (
    "<|begin_of_text|>{% for m in messages %}{{ m.role.capitalize() }}{{ ':' if m.content[0].type == 'image' else ': ' }}"
    "{% for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def idefics3(**changes: Any) -> tuple[Any, Any]:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    cells = [f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)]
    special = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *cells]
    words = tokenizer(special, "<|begin_of_text|>", "<|end_of_text|>")
    pixels = Idefics3ImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, **NORMED)
    processor = hf.Idefics3Processor(pixels, words, image_seq_len=4, chat_template=IDEFICS)
    config = hf.Idefics3Config(
        vision_config={"model_type": "idefics3_vision", **TOWER}, text_config=_text(hf.LlamaConfig, words, **changes),
        image_token_id=words.convert_tokens_to_ids("<image>"), scale_factor=2, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return hf.Idefics3ForConditionalGeneration(config), processor


AYA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' }}"
    "{{ '<|USER_TOKEN|>' if m.role == 'user' else '<|CHATBOT_TOKEN|>' }}{% for c in m.content %}"
    "{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)


def aya_vision(**changes: Any) -> tuple[Any, Any]:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    special = [
        "<image>", "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
        "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE_GLOBAL", "TILE",
    ]  # fmt: skip
    words = tokenizer(special, "<BOS_TOKEN>", "<EOS_TOKEN>")
    pixels = GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=4, **NORMED
    )
    processor = hf.AyaVisionProcessor(pixels, words, patch_size=PATCH, img_size=SIDE, downsample_factor=2, chat_template=AYA)
    text = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 2}
    config = hf.AyaVisionConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=_text(hf.Cohere2Config, words, **{**text, **changes}), downsample_factor=2,
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )  # fmt: skip
    return hf.AyaVisionForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[..., tuple[Any, Any]]] = {
    make.__name__: make for make in (llava, llava_next, gemma3, paligemma, paligemma2, idefics3, aya_vision)
}


def build(family: str, **changes: Any) -> tuple[Any, Any]:
    """A model of the family with random weights (always the same) and its processor; `changes` are of its text configuration."""
    torch.manual_seed(0)
    model, processor = FAMILIES[family](**changes)
    return model.eval(), processor
