"""An edited checkpoint is the same but for what was scaled, and says what a model with that unit scaled says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import medlens
from medlens.errors import BadInput, CannotWrite
from medlens.models.phantom import folder_of


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    return medlens.edit("phantom", {"6.17": 0, "6.3": -2, "0.351": 0.5}, tmp_path_factory.mktemp("edit") / "new")


def test_only_those_columns_change(edited):
    before, after = (load_file(f / "model.safetensors") for f in (folder_of("phantom"), edited))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        expected = weight.clone()
        if name.endswith("layers.6.mlp.down_proj.weight"):
            expected[:, 17] *= 0
            expected[:, 3] *= -2
        elif name.endswith("layers.0.mlp.down_proj.weight"):
            expected[:, 351] *= 0.5
        assert torch.equal(after[name], expected), name
    assert sum(not torch.equal(before[name], after[name]) for name in before) == 2


def test_it_says_what_it_is(edited):
    assert json.loads((edited / "medlens_edit.json").read_text())["scaled"] == {"0.351": 0.5, "6.3": -2, "6.17": 0}


def test_plain_transformers_computes_what_the_scaled_units_would(edited):
    """Oracle: the original, its activations changed on their way into down_proj."""
    from transformers import LlavaForConditionalGeneration

    factors = {6: {17: 0.0, 3: -2.0}, 0: {351: 0.5}}

    def scaled(block):
        def change(_module, inputs):
            changed = inputs[0].clone()
            for unit, factor in factors[block].items():
                changed[..., unit] *= factor
            return (changed,)

        return change

    ids = {"input_ids": torch.tensor([[1, 20, 30, 40, 50]])}
    original = LlavaForConditionalGeneration.from_pretrained(folder_of("phantom"), dtype=torch.float32).eval()
    other = LlavaForConditionalGeneration.from_pretrained(edited, dtype=torch.float32).eval()
    with torch.no_grad():
        plain = original(**ids).logits
        layers = original.get_decoder().layers
        kept = [layers[b].mlp.down_proj.register_forward_pre_hook(scaled(b)) for b in factors]
        expected = original(**ids).logits
        for hook in kept:
            hook.remove()
        assert torch.allclose(other(**ids).logits, expected, atol=1e-5)
        assert not torch.allclose(expected, plain, atol=1e-3)


def test_a_planted_unit_taken_out_takes_its_word_along(tmp_path):
    """The unit alone carries the word; any other does not."""
    planted = medlens.phantom.plant_unit(medlens.load("phantom"), "cyst", 6, 17, n=200)
    planted.module.save_pretrained(tmp_path / "planted")
    planted.processor.save_pretrained(tmp_path / "planted")
    asked = next(s for s in medlens.phantom.samples(60, 5, "type") if s.answer == "cyst")
    said = {}
    for name, unit in (("its", "6.17"), ("another", "6.18")):
        said[name] = str(medlens.answer(medlens.load(medlens.edit(tmp_path / "planted", {unit: 0}, tmp_path / name)), asked))
    assert said["another"] == "cyst"
    assert said["its"] != "cyst"


def test_the_original_layout(tmp_path):
    """Shards and their index, and the tower's folder beside them: all of it is there again, and it loads."""
    folder = Path(__file__).parent / "golden" / "llava_med" / "seed0" / "checkpoint"
    new = medlens.edit(folder, {"0.1": 0}, tmp_path / "new")
    names = lambda place: sorted(str(f.relative_to(place)) for f in place.rglob("*") if not f.name.startswith("."))
    assert names(new) == sorted([*names(folder), "medlens_edit.json"])
    changed = [f.name for f in folder.glob("*.safetensors") if f.read_bytes() != (new / f.name).read_bytes()]
    assert len(changed) == 1
    weight = medlens.load(new, vision_tower="checkpoint").blocks[0].mlp.down_proj.weight
    assert weight[:, 1].abs().max() == 0
    assert weight[:, 2].abs().max() > 0


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ({}, "nothing to scale"),
        ({"6": 0.0}, "BLOCK.UNIT"),
        ({"6.-1": 0.0}, "BLOCK.UNIT"),
        ({"8.0": 0.0}, "blocks 0 to 7"),
        ({"7.352": 0.0}, "units 0 to 351"),
        ({"7.1": float("nan")}, "finite"),
    ],
)
def test_bad_input(scale, said, tmp_path):
    with pytest.raises(BadInput, match=said):
        medlens.edit("phantom", scale, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_written_over(tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(CannotWrite, match="there already"):
        medlens.edit("phantom", {"1.1": 0}, tmp_path)
    assert (tmp_path / "kept").read_text() == "mine"


def test_a_model_without_files(tmp_path):
    with pytest.raises(BadInput, match="no files"):
        medlens.edit("phantom:random", {"1.1": 0}, tmp_path / "new")
