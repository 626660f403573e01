"""LLaVA-Med in its original layout against tensors that the original code computed (tests/golden/llava_med/README.md).

All tolerances are absolute: the states are small. Negative controls stand at the end: small departures from the original must fail.
"""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import medlens
from medlens import hooks
from medlens.data.images import open_image
from medlens.models.prompt import look, read
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare, walk
from medlens.walk.generate import Decoding, answer_prompt, answer_together

GOLDEN = Path(__file__).parent / "golden" / "llava_med"
CHECKPOINT, CLIP = GOLDEN / "seed0" / "checkpoint", GOLDEN / "seed0" / "clip"
META = json.loads((GOLDEN / "meta.json").read_text())["cases"]
STATES, FINE = 1e-4, 5e-5  # hidden states and logits; attentions and activations

TURNS = {  # the golden prompts, as samples
    "single_wide": [["What is shown in this image?"]],
    "gray_tall_pair_batch": [["Is there a pathology on the image?"], ["Where is the mass located? Describe the lesion."]],
    "multi_turn": [["What modality was used?", "MRI", "Why?"]],
    "two_images": [["<image>\nCT <image>\nWhat do you see?"]],
    "text_only": [["What are the findings? Yes No"]],
}


@pytest.fixture(scope="module")
def external():
    return medlens.load(CHECKPOINT, vision_tower=str(CLIP))


@pytest.fixture(scope="module")
def inside():
    return medlens.load(CHECKPOINT, vision_tower="checkpoint")


BY_IMAGE = ("pixel_values", "clip_hidden_m2", "image_features")
BY_TOKEN = ("hidden_states", "resid_final_prenorm", "logits", "inputs_embeds", "image_mask", "mlp_act", "attn_pre_o")


def golden(tower, case):
    """Each prompt of a case as a sample, with its reference tensors, without batch dimension and padding."""
    name = f"seed0/ref_{tower}_{case}.safetensors"
    tensors, images = load_file(GOLDEN / name), [GOLDEN / "images" / file for file in META[name]["images"]]
    batch = len(TURNS[case])
    for row, turns in enumerate(TURNS[case]):
        mine = images[row : row + 1] if batch > 1 else images
        length = int(tensors["expanded_attention_mask"][row].sum())
        reference = {}
        for key, tensor in tensors.items():
            if key.startswith(BY_IMAGE):
                reference[key] = tensor[row : row + 1] if batch > 1 else tensor
            elif key.startswith(BY_TOKEN):
                reference[key] = tensor[row, :length]
            elif key.startswith("attentions"):
                reference[key] = tensor[row, :, :length, :length]
            else:
                reference[key] = tensor[row]
        yield medlens.Sample(images=mine, turns=turns, id=f"row {row}"), reference


def largest(a, b):
    assert a.shape == b.shape
    return float((a - b).abs().max())


CASES = [("external", case) for case in TURNS] + [("checkpoint", "single_wide")]


@pytest.fixture(params=CASES, ids=[f"{t}-{c}" for t, c in CASES])
def golden_case(request, external, inside):
    tower, case = request.param
    return (external if tower == "external" else inside), list(golden(tower, case))


def test_golden_ids_and_image_places(golden_case):
    model, rows = golden_case
    for sample, reference in rows:
        tokens = prepare(model, sample).tokens
        ids = reference["input_ids"].tolist()
        collapsed = []
        for i, token in enumerate(tokens.ids):  # 16 image tokens an image are one -200 in the original's ids
            if token != model.image_token_id:
                collapsed.append(token)
            elif tokens.ids[:i].count(token) % 16 == 0:
                collapsed.append(-200)
        assert collapsed == ids[: len(collapsed)]
        assert set(ids[len(collapsed) :]) <= {0}
        assert tokens.where("image") == reference["image_mask"].bool().nonzero().flatten().tolist()


def test_golden_hidden_states_and_logits(golden_case):
    model, rows = golden_case
    for sample, reference in rows:
        out = medlens.forward(model, sample)
        for k, state in enumerate(out.hidden_states):
            assert largest(state, reference[f"hidden_states.{k}"]) <= STATES
        assert largest(out.raw_last, reference["resid_final_prenorm"]) <= STATES
        assert largest(out.logits, reference["logits"]) <= STATES
        assert out.logits.shape[1] == 400


def test_golden_attentions_and_activations(golden_case):
    model, rows = golden_case
    for sample, reference in rows:
        if "attentions.0" not in reference:
            continue
        prompt = prepare(model, sample)
        out = medlens.forward(model, sample)
        mlps = [block.mlp.down_proj for block in model.blocks]
        attended = [block.self_attn.o_proj for block in model.blocks]
        collected = {}
        handles = [
            module.register_forward_pre_hook(lambda _m, inputs, key=(name, k), into=collected: into.update({key: inputs[0][0]}))
            for name, modules in (("mlp_act", mlps), ("attn_pre_o", attended))
            for k, module in enumerate(modules)
        ]
        with hooks.evaluation(model.module):
            model.module(**arguments(model, cases(model, [prompt])[0]))
        for handle in handles:
            handle.remove()
        for k in range(model.depth):
            weights = out.attentions[k]
            assert largest(weights, reference[f"attentions.{k}"]) <= FINE
            for name in ("mlp_act", "attn_pre_o"):
                got = collected[name, k]
                assert largest(got, reference[f"{name}.{k}"]) <= FINE


def test_golden_pixels_tower_and_projector(golden_case):
    model, rows = golden_case
    for sample, reference in rows:
        if not sample.images:
            continue
        pixels = look(model, [open_image(i, grey=True) for i in sample.images]).inputs["pixel_values"]
        assert largest(pixels, reference["pixel_values"]) == 0
        with torch.no_grad():
            seen = model.module.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
            features = torch.stack(list(model.module.get_image_features(pixels).pooler_output))
        assert largest(seen, reference["clip_hidden_m2"]) <= FINE
        assert largest(features, reference["image_features"]) <= FINE


def test_golden_generated_ids(golden_case):
    model, rows = golden_case
    for sample, reference in rows:
        if "generated_ids" not in reference:
            continue
        said = reference["generated_ids"].tolist()[1:]  # the first is a start artefact
        assert list(answer_prompt(model, prepare(model, sample), Decoding(len(said))).ids) == said
        assert list(answer_together(model, [prepare(model, sample)], len(said))[0].ids) == said


def test_golden_batch_together_is_one_by_one(external):
    """Different images and lengths in one walk: what the original padded, we pack or walk side by side."""
    rows = list(golden("external", "gray_tall_pair_batch"))
    prompts = [prepare(external, sample) for sample, _ in rows]
    ends = {}

    class Keep:
        def visit(self, block, case, before, after): ...
        def leave(self, block): ...
        def finish(self, case, raw, normed):
            ends[case.prompts[0].sample.id] = normed

    walk(external, cases(external, prompts), [Keep()])
    for sample, reference in rows:
        assert largest(ends[sample.id], reference["hidden_states.4"]) <= STATES


def test_golden_preprocessing_is_one_of_the_originals(external):
    references = load_file(GOLDEN / "preprocess.safetensors")
    for file in sorted((GOLDEN / "images").iterdir()):
        (pixels,) = look(external, [open_image(file, grey=True)]).inputs["pixel_values"]
        assert largest(pixels, references[f"{file.stem}.lo"]) == 0
        if Image.open(file).width != Image.open(file).height:
            assert largest(pixels, references[f"{file.stem}.hi"]) > 0.1  # the other toss is another picture


def test_golden_groups(external):
    sample = medlens.Sample(GOLDEN / "images" / "wide_rgb.png", turns=TURNS["multi_turn"][0])
    tokens = prepare(external, sample, "because").tokens
    words = "".join(tokens.texts[i] for i in tokens.where("text")).replace("▁", " ")
    assert "modality was used?" in words
    assert "Why?" in words
    assert "MRI" not in words
    assert "INST" not in words
    assert "".join(tokens.texts[i] for i in tokens.where("answer")).replace("▁", " ").strip() == "because"


def test_golden_towers_are_told_apart(external, inside):
    assert external.origin["vision_tower"]["used"] == "given"
    assert external.origin["vision_tower"]["name"] == "clip"
    assert external.origin["vision_tower"]["difference"] > 0.1
    assert inside.origin["vision_tower"] == {"used": "checkpoint", "name": "checkpoint", "difference": None}


# ---- negative controls: each of these must be seen


def worst(model):
    return max(
        largest(out.logits, reference["logits"])
        for case in ("single_wide", "gray_tall_pair_batch")
        for sample, reference in golden("external", case)
        for out in [medlens.forward(model, sample)]
    )


def _eps(module):
    for norm in module.modules():
        if hasattr(norm, "variance_epsilon"):
            norm.variance_epsilon = 1e-6


def _gelu_of_projector(module):
    module.model.multi_modal_projector.act = torch.nn.GELU(approximate="tanh")


def _gelu_of_tower(module):
    for layer in module.model.vision_tower.modules():
        if hasattr(layer, "activation_fn"):
            layer.activation_fn = torch.nn.GELU()


def _rope(module):
    inv_freq = module.model.language_model.rotary_emb.inv_freq
    n = len(inv_freq)
    module.model.language_model.rotary_emb.inv_freq = 1e4 ** (-torch.arange(n) / n)


@pytest.mark.parametrize("change", [_eps, _gelu_of_projector, _gelu_of_tower, _rope])
def test_golden_negative_control(external, change):
    assert worst(external) <= STATES
    module = deepcopy(external.module)
    change(module)
    assert worst(replace(external, module=module)) > 2 * STATES


def test_golden_negative_control_of_the_tower(inside):
    assert worst(inside) > 1


def test_golden_negative_control_of_grey_padding(external):
    (sample, reference), _ = golden("external", "gray_tall_pair_batch")
    as_rgb = look(external, [open_image(sample.image)])
    pixels = as_rgb.inputs["pixel_values"]
    assert largest(pixels, reference["pixel_values"]) > 0.1
    assert read(external, sample, as_rgb).ids == prepare(external, sample).tokens.ids


def test_golden_configuration_is_explicit(external):
    """What short sequences cannot show: no sliding window, the base of the rotary embedding, the activations."""
    text, vision = external.text_config, external.module.config.vision_config
    assert text.sliding_window is None
    assert text.rope_parameters["rope_theta"] == 1e6
    assert text.rms_norm_eps == 1e-5
    assert vision.hidden_act == "quick_gelu"
    assert external.module.config.projector_hidden_act == "gelu"
    assert external.module.config.vision_feature_layer == -2


# ---- the real vocabulary


def test_golden_real_prompts_have_the_originals_ids(tmp_path):
    """LLaVA-Med's 32,000 words are Mistral-7B's first tokenizer, which the package mistral-common carries."""
    import shutil
    import sys

    from medlens.models.llava_med import _tokenizer

    vocabulary = Path(sys.prefix) / "vocabulary" / "mistral_common" / "data" / "tokenizer.model.v1"
    if not vocabulary.is_file():
        pytest.skip("no vocabulary: `make test` puts the package mistral-common into .venv/vocabulary")
    shutil.copy(vocabulary, tmp_path / "tokenizer.model")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(CHECKPOINT / name, tmp_path)
    tokenizer = _tokenizer(tmp_path, 32_000)
    for case in json.loads((GOLDEN / "real_tokenization.json").read_text())["cases"]:
        ids = tokenizer("<s>" + case["prompt"], add_special_tokens=False)["input_ids"]
        assert [-200 if i == 32_000 else i for i in ids] == case["ids"]
