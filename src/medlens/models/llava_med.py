"""LLaVA-Med v1.5 as its authors published it (`model_type: llava_mistral`), read as transformers' own LLaVA.

Weights are renamed while they are read, the configuration is written out in full, and pixels and prompt are made as the original
code makes them. The original ignores the vision tower inside the checkpoint and takes the one that its configuration names; so do
we, and say how far apart the two are.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from medlens.errors import BadModel, MedlensWarning
from medlens.jsontext import parse
from medlens.models.asked import check_asked
from medlens.models.hf import Loaded, check_report, family_of, first_line, quiet
from medlens.models.shards import check_shards
from medlens.models.table import one_more_row
from medlens.models.weights import Place, Weights, left_in_files, places_of, size_of

FAMILY = "llava_mistral"
IMAGE = "<image>"
TEMPLATE = (  # `mistral_instruct` of the original; the line break after an image belongs to it
    "{{ '<s>' }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] "
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} [/INST]"
    "{% else %} {% for c in m['content'] %}{{ c['text'] }}{% endfor %} </s>{% endif %}{% endfor %}"
)
RENAMED = {
    r"^model\.vision_tower\.vision_tower\.": "model.vision_tower.",
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
}
TOWER = "model.vision_tower.vision_tower.vision_model."
PLACED = "model.vision_tower."  # where transformers has it

STRATEGIES: dict[str, Literal["default", "full"]] = {
    "patch": "default",
    "cls_patch": "full",
}  # which of the tower's tokens are features

# Keys of config.json: what must be so for our computation to be the original's, what is read, and what only training looked at.
REQUIRED: dict[str, Any] = {
    "hidden_act": "silu", "mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False, "mm_use_im_start_end": False,
    "image_aspect_ratio": "pad", "tie_word_embeddings": False, "use_mm_proj": True, "proj_vis_to_txt_tokens": False,
    "prompt_segtok_w_instruct": False, "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip
DECODER = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "max_position_embeddings", "rms_norm_eps", "sliding_window",
)  # fmt: skip
READ = {
    *DECODER, "rope_theta", "bos_token_id", "eos_token_id", "pad_token_id", "mm_vision_select_layer", "mm_vision_select_feature",
    "mm_vision_tower", "mm_hidden_size", "model_type",
}  # fmt: skip
TRAINING = {
    "_name_or_path", "architectures", "attention_dropout", "feature_outs", "freeze_mm_mlp_adapter", "img_size", "initializer_range",
    "mm_projector_lr", "segtok_posembed", "tokenizer_model_max_length", "tokenizer_padding_side", "torch_dtype", "dtype",
    "transformers_version", "tune_mm_mlp_adapter", "tune_vision_tokenizer", "use_cache", "vision_backbone", "vision_tokenizer_lr",
}  # fmt: skip


def is_original(folder: Path) -> bool:
    """Whether a folder's config.json says that it holds the original layout. Raises BadModel where there is none."""
    return family_of(folder) == FAMILY


def load_original(
    folder: Path, device: str, dtype: torch.dtype, memory: int, vision_tower: str = "auto", network: bool = False
) -> Loaded:
    """Model, processor, and what to know of them: which vision tower is used, and how far it is from the other one.

    memory: bytes; streamed, where the weights need more. vision_tower: "external", the one that config.json names, as the original
    code takes it; "checkpoint", the one inside; a folder or hub id; or "auto": the external one where it is here or may be fetched,
    else the one inside, with a MedlensWarning. network: whether one may be fetched. Raises BadModel.
    """
    tensors = check_shards(folder)
    check_asked(folder, tensors)
    written = read_configuration(folder)
    streamed = size_of(tensors, dtype) > memory
    tower = _tower(written, tensors, vision_tower, network, dtype, streamed)
    has_own = any(name.startswith(TOWER) for name in tensors)
    if streamed:
        module, weights, difference = _left_in_files(folder, written, tensors, tower, dtype, device)
    else:
        module, weights = _build(folder, written, tower, dtype), None
        difference = _install(module, tower, has_own)
        one_more_row(module)
        module = module.to(device)
    origin = {"layout": FAMILY, "vision_tower": {"used": tower.used, "name": tower.name, "difference": difference}}
    return Loaded(module.eval(), _processor(folder, written, tower), origin, weights)


# ---- configuration


def read_configuration(folder: Path) -> dict[str, Any]:
    written = parse((folder / "config.json").read_text(encoding="utf-8"))
    for key, value in written.items():
        if key in REQUIRED and value != REQUIRED[key]:
            raise BadModel(f"{folder}: config.json has {key} = {value!r}; only {REQUIRED[key]!r} is computed as the original does")
        if key not in REQUIRED and key not in READ and key not in TRAINING:
            raise BadModel(f"{folder}: config.json has a key {key!r} that is not known here; it may change what is computed")
    if (chosen := written.get("mm_vision_select_feature", "patch")) not in STRATEGIES:
        raise BadModel(f"{folder}: config.json has mm_vision_select_feature = {chosen!r}; expected {' or '.join(STRATEGIES)}")
    if missing := sorted({*DECODER, "rope_theta", "mm_vision_select_layer"} - set(written)):
        raise BadModel(f"{folder}: config.json lacks {missing[0]}; copy it from where the weights came from")
    return written


def _llava_config(written: dict[str, Any], vision: Any) -> Any:
    """Everything explicit: the defaults of MistralConfig are not Mistral-7B-Instruct-v0.2's."""
    from transformers.models.llava.configuration_llava import LlavaConfig
    from transformers.models.mistral.configuration_mistral import MistralConfig

    special: dict[str, Any] = {f"{name}_token_id": written.get(f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return LlavaConfig(
        vision_config=vision,
        text_config=MistralConfig(
            **{key: written[key] for key in DECODER}, hidden_act="silu", tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": written["rope_theta"]}, **special,
        ),
        image_token_index=written["vocab_size"], projector_hidden_act="gelu",
        vision_feature_layer=written["mm_vision_select_layer"],
        vision_feature_select_strategy=STRATEGIES[written.get("mm_vision_select_feature", "patch")],
        tie_word_embeddings=False, **special,
    )  # fmt: skip


# ---- vision tower


@dataclass(frozen=True)
class _Tower:
    """Which tower was chosen: its configuration; where it lies outside of the checkpoint, the model (or its weights, if they are to
    be left in their files); and its pixels' processor."""

    used: str
    name: str
    config: Any
    outside: Any = None
    processor: Any = None
    weights: Weights | None = None


def _tower(
    written: dict[str, Any], tensors: dict[str, Path], chosen: str, network: bool, dtype: torch.dtype, streamed: bool
) -> _Tower:
    named = str(written.get("mm_vision_tower"))
    if chosen == "checkpoint":
        return _inside(written, tensors, named, dtype, streamed)
    if chosen == "auto" and not network and not is_here(named) and _shapes(tensors):
        warnings.warn(
            f"the vision tower {named}, which its authors use, is not here: the checkpoint's own is taken (see --vision-tower)",
            MedlensWarning, stacklevel=2,
        )  # fmt: skip
        return _inside(written, tensors, named, dtype, streamed)
    if chosen in ("auto", "external"):
        return _outside("external", named, network, dtype, streamed)
    return _outside("given", chosen, not Path(chosen).exists(), dtype, streamed)


def is_here(tower: str) -> bool:
    """Whether a tower is a folder here, or lies in the cache."""
    from huggingface_hub import try_to_load_from_cache

    return Path(tower).is_dir() or isinstance(try_to_load_from_cache(tower, "config.json"), str)


def _outside(used: str, name: str, network: bool, dtype: torch.dtype, streamed: bool) -> _Tower:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.clip.modeling_clip import CLIPVisionModel

    shown = Path(name).name if Path(name).exists() else name
    try:
        with quiet():
            pixels = CLIPImageProcessorPil.from_pretrained(name, local_files_only=not network)
            if streamed:
                weights = _outside_weights(name, network, dtype)
                return _Tower(used, shown, weights.module.config, None, pixels, weights)
            model = CLIPVisionModel.from_pretrained(name, local_files_only=not network, use_safetensors=True, dtype=dtype)
    except Exception as e:  # transformers raises a dozen kinds
        raise BadModel(
            f"the vision tower {name} cannot be read here ({first_line(e)[:120]}); give its folder, or "
            "`checkpoint` for the one inside the checkpoint (--vision-tower, vision_tower=)"
        ) from e
    return _Tower(used, shown, model.config, model, pixels)


def _outside_weights(name: str, network: bool, dtype: torch.dtype) -> Weights:
    from huggingface_hub import snapshot_download
    from transformers.models.clip.configuration_clip import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPVisionModel

    folder = Path(name)
    if not folder.is_dir():
        folder = Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json"], local_files_only=not network))
    files = check_shards(folder)
    config = CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
    _, weights, report = left_in_files(
        folder, lambda: CLIPVisionModel(config), lambda module: places_of(module, files), dtype, "cpu"
    )
    check_report(name, report)
    return weights


def _inside(written: dict[str, Any], tensors: dict[str, Path], named: str, dtype: torch.dtype, streamed: bool) -> _Tower:
    """The checkpoint's own tower. Its sizes are those of its weights; CLIP's heads are 64 wide (in a tower too narrow for that, as
    many as the decoder's)."""
    from transformers.models.clip.configuration_clip import CLIPVisionConfig

    shapes = _shapes(tensors)
    if not shapes:
        raise BadModel(
            "the checkpoint holds no vision tower of its own; take the external one (--vision-tower external, or a folder)"
        )
    width, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
    cells = shapes["embeddings.position_embedding.weight"][0] - 1
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=sum(name.endswith("layer_norm1.weight") for name in shapes),
        num_attention_heads=width // 64 if width % 64 == 0 else written["num_attention_heads"],
        patch_size=patch, image_size=patch * round(cells**0.5), hidden_act="quick_gelu", layer_norm_eps=1e-5,
    )  # fmt: skip
    try:
        other = _outside("external", named, False, dtype, streamed)
    except BadModel:
        other = None  # then its distance is not known, which is what the manifest says
    return _Tower("checkpoint", "checkpoint", config, *((other and (other.outside, other.processor, other.weights)) or ()))


def _shapes(tensors: dict[str, Path]) -> dict[str, list[int]]:
    import safetensors

    found = {}
    for name, shard in tensors.items():
        if name.startswith(TOWER):
            with safetensors.safe_open(shard, "pt") as opened:
                found[name.removeprefix(TOWER)] = opened.get_slice(name).get_shape()
    return found


def _install(module: Any, tower: _Tower, has_own: bool) -> float | None:
    """Put the chosen tower in its place. Returns the largest difference of any weight to the other one."""
    own, outside = module.model.vision_tower.state_dict(), tower.outside and tower.outside.state_dict()
    difference = None
    if outside and has_own and {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in outside.items()}:
        difference = max(float((own[k].float() - outside[k].float()).abs().max()) for k in own)
    if tower.used != "checkpoint":
        module.model.vision_tower.load_state_dict(outside)
    return difference


# ---- model and processor


def _left_in_files(
    folder: Path, written: dict[str, Any], files: dict[str, Path], tower: _Tower, dtype: torch.dtype, device: str
) -> tuple[Any, Weights, float | None]:
    """The model with its weights left in their files, and the largest difference between the two towers."""
    from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

    config = _llava_config(written, tower.config)
    own: dict[str, Place] = {}

    def places(module: Any) -> dict[str, Place]:
        found = places_of(module, files, RENAMED)
        own.update({name: place for name, place in found.items() if name.startswith(PLACED)})
        chosen = tower.weights.places if tower.used != "checkpoint" and tower.weights else {}
        return found | {PLACED + name: place for name, place in chosen.items()}

    with quiet():
        module, weights, report = left_in_files(folder, lambda: LlavaForConditionalGeneration(config), places, dtype, device)
    check_report(str(folder), report)
    return module, weights, _apart(own, tower.weights)


def _apart(own: dict[str, Place], outside: Weights | None) -> float | None:
    if outside is None or {name.removeprefix(PLACED): p.shape for name, p in own.items()} != {
        name: p.shape for name, p in outside.places.items()
    }:
        return None
    inside = replace(outside, places={name.removeprefix(PLACED): place for name, place in own.items()}, digests={})
    return max(float((inside.read(name).float() - outside.read(name).float()).abs().max()) for name in inside.places)


def _build(folder: Path, written: dict[str, Any], tower: _Tower, dtype: torch.dtype) -> Any:
    from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

    with quiet():
        try:
            config = _llava_config(written, tower.config)
            loaded: Any = LlavaForConditionalGeneration.from_pretrained(
                folder, config=config, key_mapping=RENAMED, dtype=dtype, use_safetensors=True, local_files_only=True,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
        except Exception as e:
            raise BadModel(f"{folder} cannot be loaded: {first_line(e)}") from e
    module, report = loaded
    if tower.used != "checkpoint":  # what the checkpoint says of a tower is not used
        report = {
            **report,
            "missing_keys": {k for k in report["missing_keys"] if not str(k).startswith("model.vision_tower.")},
            "mismatched_keys": {k for k in report["mismatched_keys"] if not str(k[0]).startswith("model.vision_tower.")},
        }
    check_report(str(folder), report)
    return module


def _processor(folder: Path, written: dict[str, Any], tower: _Tower) -> Any:
    from transformers.models.llava.processing_llava import LlavaProcessor

    size = tower.config.image_size
    like = tower.processor.to_dict() if tower.processor is not None else {}
    kept = {key: like[key] for key in ("image_mean", "image_std", "resample", "rescale_factor") if key in like}
    pixels = _padding_processor()(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **kept)
    return LlavaProcessor(
        image_processor=pixels, tokenizer=_tokenizer(folder, written["vocab_size"]), patch_size=tower.config.patch_size,
        vision_feature_select_strategy=STRATEGIES[written.get("mm_vision_select_feature", "patch")],
        chat_template=TEMPLATE, image_token=IMAGE, num_additional_image_tokens=1,
    )  # fmt: skip


def _tokenizer(folder: Path, vocabulary: int) -> Any:
    from tokenizers import AddedToken
    from transformers.models.llama.tokenization_llama import LlamaTokenizer

    if not (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        raise BadModel(f"{folder} holds no tokenizer.model; copy it from where the weights came from")
    try:
        with quiet():
            tokenizer = LlamaTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as e:
        raise BadModel(f"{folder}: its tokenizer cannot be read ({first_line(e)[:120]})") from e
    if len(tokenizer) != vocabulary:
        raise BadModel(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, config.json says {vocabulary}; they do not belong together"
        )
    tokenizer.add_tokens([AddedToken(IMAGE, normalized=False, special=True)], special_tokens=True)
    return tokenizer


def _padding_processor() -> type:
    """CLIP's processor behind the original's `expand2square`: padded to a square with the mean colour, in the image's own mode."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    class SquareCLIPImageProcessor(CLIPImageProcessorPil):
        takes_grey = True

        def to_dict(self) -> dict[str, Any]:
            """As a saved copy names it: transformers' nearest, which is the same for colour images."""
            return {**super().to_dict(), "image_processor_type": "LlavaImageProcessor", "do_pad": True}

        def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
            colour = tuple(int(255 * mean) for mean in self.image_mean)
            several = images if isinstance(images, list | tuple) else [images]
            return super().preprocess([_squared(image, colour) for image in several], *args, **kwargs)

    return SquareCLIPImageProcessor


def _squared(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The image in the middle of a square of the mean colour (a grey one: the mean of its channels); where that leaves one pixel
    over, it lies on the right, or below (the original tosses)."""
    side = max(image.size)
    square = Image.new(image.mode, (side, side), colour if image.mode == "RGB" else sum(colour) // 3)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
