"""LoRA adapters: merged as defined, as peft merges them, and refused where the merged model would be another than was trained."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import medlens
from medlens.errors import BadInput, BadModel

SEED = Path(__file__).parent / "golden" / "llava_med" / "seed0"
CHECKPOINT, CLIP = SEED / "checkpoint", SEED / "clip"
SAMPLE = medlens.Sample(SEED.parent / "images" / "wide_rgb.png", "What is shown in this image?")
RANK, ALPHA = 3, 8
TARGETS = {  # module in the original layout: its shape here, and where it lies here
    "model.layers.0.self_attn.q_proj": ((64, 64), "model.language_model.layers.0.self_attn.q_proj"),
    "model.layers.3.mlp.down_proj": ((64, 160), "model.language_model.layers.3.mlp.down_proj"),
    "model.mm_projector.2": ((64, 64), "model.multi_modal_projector.linear_2"),
    "lm_head": ((400, 64), "lm_head"),
}
PLAIN = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj"], "bias": "none", "task_type": None}


def write(folder, tensors, **changes):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **changes}))
    return folder


def halves(targets, rank=RANK):
    torch.manual_seed(1)
    tensors = {}
    for name, (out, into) in targets.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, into) * 0.1
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, rank) * 0.1
    return tensors


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "tuned", halves({name: shape for name, (shape, _) in TARGETS.items()}))


def load(adapter=None):
    return medlens.load(CHECKPOINT, vision_tower=CLIP, adapter=adapter)


@pytest.fixture(scope="module")
def base():
    return load()


@pytest.mark.parametrize("rslora", [False, True])
def test_the_weights_are_those_of_the_definition(base, folder, rslora):
    write(folder, load_file(folder / "adapter_model.safetensors"), use_rslora=rslora)
    merged = load(folder)
    before, after = base.module.state_dict(), merged.module.state_dict()
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = ALPHA / (math.sqrt(RANK) if rslora else RANK)
    touched = set()
    for name, (_, here) in TARGETS.items():
        a, b = (tensors[f"base_model.model.{name}.lora_{half}.weight"].double() for half in "AB")
        expected = before[f"{here}.weight"].double() + scale * b @ a
        assert (after[f"{here}.weight"].double() - expected).abs().max() < 1e-6
        assert not torch.allclose(after[f"{here}.weight"], before[f"{here}.weight"], atol=1e-3)
        touched.add(f"{here}.weight")
    assert all(torch.equal(after[key], before[key]) for key in before.keys() - touched)
    assert merged.origin["adapter"] == {"name": "tuned", "rank": RANK, "merged": 4, "replaced": 0}
    assert not torch.allclose(medlens.forward(merged, SAMPLE).logits, medlens.forward(base, SAMPLE).logits, atol=1e-3)


def test_todays_names_and_those_of_transformers_4_are_the_same_modules(base, folder, tmp_path):
    merged = load(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    for k, layout in enumerate(
        ({}, {"model.language_model.": "language_model.model.", "model.multi_": "multi_", "lm_head": "language_model.lm_head"})
    ):
        renamed = {}
        for key, tensor in tensors.items():
            name, half = key.removeprefix("base_model.model.").split(".lora_")
            here = TARGETS[name][1]
            for new, old in layout.items():
                here = here.replace(new, old)
            renamed[f"base_model.model.{here}.lora_{half}"] = tensor
        again = load(write(tmp_path / f"layout{k}", renamed))
        assert torch.equal(medlens.forward(again, SAMPLE).logits, medlens.forward(merged, SAMPLE).logits)


def test_modules_saved_whole_replace_the_models(base, tmp_path):
    tensors = halves({"model.layers.0.self_attn.q_proj": (64, 64)})
    tensors["base_model.model.model.mm_projector.0.weight"] = torch.full((64, 32), 0.5)
    merged = load(write(tmp_path / "tuned", tensors, modules_to_save=["mm_projector"]))
    assert merged.origin["adapter"]["replaced"] == 1
    assert (merged.module.model.multi_modal_projector.linear_1.weight == 0.5).all()
    assert torch.equal(
        merged.module.model.multi_modal_projector.linear_1.bias, base.module.model.multi_modal_projector.linear_1.bias
    )


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"init_lora_weights": "gaussian"}, {"modules_to_save": ["multi_modal_projector"]}]
)
def test_merged_as_peft_merges(base, tmp_path, options):
    peft = pytest.importorskip("peft", reason="no oracle: pip install peft")
    model = load()
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=r".*language_model.*\.(q_proj|v_proj|up_proj)", **options)
    tuned = peft.get_peft_model(model.module, config)
    torch.manual_seed(2)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name or ("modules_to_save" in name and name.endswith("weight")):
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.save_pretrained(tmp_path / "tuned")
    theirs = tuned.merge_and_unload().state_dict()
    ours = load(tmp_path / "tuned")
    assert ours.origin["adapter"]["merged"] == 12
    assert ours.origin["adapter"]["replaced"] == (4 if "modules_to_save" in options else 0)
    assert max(float((theirs[k] - w).abs().max()) for k, w in ours.module.state_dict().items()) < 1e-6
    assert max(float((w - base.module.state_dict()[k]).abs().max()) for k, w in ours.module.state_dict().items()) > 0.01


ONE = {"model.layers.0.self_attn.q_proj": (64, 64)}
REFUSED = {
    "names that match nothing": (halves({"transformer.h.0.attn": (64, 64)}), {}, "transformer.h.0.attn, which this model does"),
    "a layer too many": (halves({"model.layers.9.self_attn.q_proj": (64, 64)}), {}, "layers.9.self_attn.q_proj, which this model"),
    "another width": (halves({"model.layers.0.self_attn.q_proj": (128, 64)}), {}, r"is \(128, 64\), the model's weight is"),
    "another rank": (halves(ONE, rank=5), {}, "are not of rank 3"),
    "no linear module": (halves({"model.layers.0.input_layernorm": (64, 64)}), {}, "is a MistralRMSNorm; only adapters of linear"),
    "half of it": (dict(list(halves(ONE).items())[:1]), {}, "holds only A of"),
    "something else": ({**halves(ONE), "base_model.model.lm_head.weight": torch.ones(400, 64)}, {}, "lm_head.weight, which is"),
    "an embedding's": ({**halves(ONE), "x.lora_embedding_A": torch.ones(3)}, {}, "lora_embedding_A, which is neither"),
    "a magnitude": ({**halves(ONE), "base_model.model.lm_head.lora_magnitude_vector": torch.ones(3)}, {}, "which is neither"),
    "nothing": ({}, {}, "holds no tensors"),
    "a NaN": ({name: tensor * float("nan") for name, tensor in halves(ONE).items()}, {}, "holds a NaN"),
    "DoRA": (halves(ONE), {"use_dora": True}, "use_dora = True, which is not plain LoRA"),
    "transposed": (halves(ONE), {"fan_in_fan_out": True}, "fan_in_fan_out = True"),
    "biases": (halves(ONE), {"bias": "all"}, "bias = 'all'"),
    "biases of its own": (halves(ONE), {"lora_bias": True}, "lora_bias = True"),
    "ranks by layer": (halves(ONE), {"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
    "changed base": (halves(ONE), {"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
    "a key of tomorrow": (halves(ONE), {"use_twist": 1}, "use_twist = 1, which is not plain LoRA"),
    "another kind": (halves(ONE), {"peft_type": "IA3"}, "the adapter is IA3"),
    "no rank": (halves(ONE), {"r": None}, "no LoRA configuration"),
    "rank 0": (halves(ONE), {"r": 0}, "of rank 0"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "changes", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_plain_lora_for_this_model_is_refused(tmp_path, tensors, changes, says):
    with pytest.raises(BadModel, match=says) as caught:
        load(write(tmp_path / "tuned", tensors, **changes))
    assert "\n" not in str(caught.value)


DAMAGED = {
    "no folder": (lambda f: f.rename(f.parent / "elsewhere"), "no adapter_config.json"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors; medlens reads no pickled"),
    "cut off": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 9), "is cut off, damaged"),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "no LoRA configuration"),
    "a list": (lambda f: (f / "adapter_config.json").write_text("[1]"), "no LoRA configuration"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_adapter_is_named(folder, damage, says):
    damage(folder)
    with pytest.raises(BadModel, match=says) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_tied_head_is_refused(tmp_path):
    import tiny

    for part in tiny.build("gemma3"):
        part.save_pretrained(tmp_path / "model")
    words = tiny.build("gemma3")[0].config.text_config.vocab_size
    adapter = write(tmp_path / "tuned", halves({"lm_head": (words, 32)}))
    with pytest.raises(BadModel, match="lm_head is tied to the input table"):
        medlens.load(tmp_path / "model", adapter=adapter)


def test_an_object_takes_no_adapter(phantom, folder):
    with pytest.raises(BadInput, match="loaded by its name"):
        medlens.load(phantom.module, phantom.processor, adapter=folder)
    with pytest.raises(BadInput, match="loaded already"):
        medlens.study(phantom, medlens.phantom.samples(5, seed=1), medlens.Plan(adapter=str(folder)), "nowhere")


def test_in_a_study(tmp_path):
    from medlens._record import command_line, describe_model

    adapter = write(tmp_path / "tuned", halves({"model.language_model.layers.0.self_attn.q_proj": (128, 128)}))
    model = medlens.load("phantom", adapter=adapter)
    assert describe_model(model, "")["origin"]["adapter"]["merged"] == 1
    said = command_line("phantom", "phantom", medlens.Plan(adapter=str(adapter)))
    assert said == "medlens study phantom phantom --adapter tuned --out RUN"
