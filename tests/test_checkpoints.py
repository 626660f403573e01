"""LLaVA-Med's original layout, damaged in every way that copying, converting and mixing damage it: one line each."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import medlens
from medlens.errors import BadInput, BadModel, MedlensWarning
from medlens.models.phantom import WEIGHTS

SEED = Path(__file__).parent / "golden" / "llava_med" / "seed0"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(SEED / "checkpoint", tmp_path / "checkpoint")
    shutil.copytree(SEED / "clip", tmp_path / "clip")
    return tmp_path / "checkpoint"


def refused(folder, says, capfd, **arguments):
    capfd.readouterr()
    with pytest.raises(BadModel, match=says) as caught:
        medlens.load(folder, **{"vision_tower": folder.parent / "clip", **arguments})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def edit(path, change):
    """Rewrite a JSON file."""
    read = json.loads(path.read_text())
    change(read)
    path.write_text(json.dumps(read))


def config(**changes):
    return lambda folder: edit(folder / "config.json", lambda written: written.update(changes))


def index(**changes):
    return lambda folder: edit(folder / INDEX, lambda written: written["weight_map"].update(changes))


def moved(folder):
    """A tensor of the second shard, said to be in the first."""
    index(**{next(iter(load_file(folder / SECOND))): FIRST})(folder)


def cut(size):
    return lambda folder: (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:size])


def header(folder):
    """A header that says a million bytes where it has some thousands."""
    held = bytearray((folder / FIRST).read_bytes())
    held[:8] = (10**6).to_bytes(8, "little")
    (folder / FIRST).write_bytes(held)


def without(name):
    return lambda folder: (folder / name).unlink()


def drop(key):
    return lambda folder: edit(folder / "config.json", lambda written: written.pop(key))


def tensors(change):
    def rewrite(folder):
        for shard in (FIRST, SECOND):
            held = load_file(folder / shard)
            change(held)
            save_file(held, folder / shard, {"format": "pt"})
        places = {name: shard for shard in (FIRST, SECOND) for name in load_file(folder / shard)}
        edit(folder / INDEX, lambda written: written.update(weight_map=places))

    return rewrite


def renamed_away(held):
    """As in a copy that was renamed for another library and kept its config.json."""
    for name in [n for n in held if "layers.2.mlp" in n]:
        held[name.replace("model.layers", "model.blocks")] = held.pop(name)


def nan(held):
    if "lm_head.weight" in held:
        held["lm_head.weight"][3, 4] = float("nan")


def bigger_tokenizer(folder):
    shutil.copy(SEED.parent / "tokenizer_fast" / "tokenizer.json", folder)
    (folder / "tokenizer.model").unlink()
    edit(folder / "tokenizer.json", _one_more_word)


def _one_more_word(written):
    written["model"]["vocab"]["more"] = 400


DAMAGED = {
    "a shard missing": (without(SECOND), rf"lacks the shard {SECOND}"),
    "a shard cut off": (cut(100_000), rf"{FIRST} is cut off"),
    "a shard cut off in its header": (cut(100), rf"{FIRST} is cut off"),
    "an empty shard": (cut(0), rf"{FIRST} is cut off"),
    "a wrong header": (header, rf"{FIRST} is cut off, damaged"),
    "no header": (lambda f: (f / FIRST).write_bytes(b"\0" * 5000), rf"{FIRST} is cut off, damaged"),
    "an index with absent tensors": (index(**{"model.layers.9.x": FIRST}), "names the tensor model.layers.9.x"),
    "an index with tensors elsewhere": (moved, "which does not hold it"),
    "an index with a file outside": (index(**{"lm_head.weight": "../other.safetensors"}), "does not lie beside it"),
    "an absolute index": (index(**{"lm_head.weight": "/etc/passwd"}), "does not lie beside it"),
    "an index that is no JSON": (lambda f: (f / INDEX).write_text("{"), "no index of weights"),
    "an index without a map": (lambda f: (f / INDEX).write_text("[]"), "no index of weights"),
    "no weights": (lambda f: [(f / n).unlink() for n in (FIRST, SECOND, INDEX)], r"no \*\.safetensors"),
    "no index": (without(INDEX), rf"holds shards, but no {INDEX}"),
    "weights of other names": (tensors(renamed_away), r"3 of its weights are not in the files, the first is .*layers\.2\.mlp"),
    "a NaN": (tensors(nan), "lm_head.weight holds a NaN"),
    "an unknown key": (config(rope_twist=2), "a key 'rope_twist' that is not known"),
    "a key with another value": (config(hidden_act="gelu"), "hidden_act = 'gelu'; only 'silu'"),
    "another projector": (config(mm_projector_type="linear"), "mm_projector_type = 'linear'; only 'mlp2x_gelu'"),
    "a key missing": (drop("rms_norm_eps"), "config.json lacks rms_norm_eps"),
    "another width": (config(intermediate_size=96), r"\(64, 160\) in the files and \(64, 96\) by config.json"),
    "a block less than said": (config(num_hidden_layers=5), "weights are not in the files"),
    "a config that is no JSON": (lambda f: (f / "config.json").write_text("{'a': 1}"), "is no model configuration: it is not JSON"),
    "a config that is a list": (lambda f: (f / "config.json").write_text("[]"), "is no model configuration"),
    "a config with a word for a number": (config(hidden_size="wide"), "hidden_size"),
    "no tokenizer": (without("tokenizer.model"), "no tokenizer.model"),
    "a broken tokenizer": (lambda f: (f / "tokenizer.model").write_bytes(b"\1\2\3"), "its tokenizer cannot be read"),
    "a bigger tokenizer": (bigger_tokenizer, "the tokenizer has 401 tokens, config.json says 400"),
    "another vocabulary": (config(vocab_size=401), r"400.*401|401.*400"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "says"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_checkpoint_is_named(folder, damage, says, capfd):
    damage(folder)
    refused(folder, says, capfd)


def test_the_undamaged_one_loads(folder):
    assert medlens.load(folder, vision_tower=folder.parent / "clip").depth == 4


# ---- vision towers


def test_a_tower_that_is_not_here(folder, capfd, monkeypatch):
    """The one that config.json names; and no network is asked for it."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    refused(folder, "the vision tower openai/clip.* cannot be read here .*--vision-tower", capfd, vision_tower="external")


def test_where_the_tower_is_not_here_the_one_inside_is_taken_and_it_is_said(folder, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    with pytest.warns(MedlensWarning, match="openai/clip.* is not here: the checkpoint's own is taken"):
        assert medlens.load(folder).origin["vision_tower"]["used"] == "checkpoint"


def test_a_tower_without_weights(folder, capfd):
    (folder.parent / "clip" / "model.safetensors").unlink()
    refused(folder, "the vision tower .*clip cannot be read here", capfd)


def test_a_tower_of_another_width(folder, capfd):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=48, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14
        )
    ).save_pretrained(folder.parent / "clip")
    refused(folder, r"linear_1.weight is \(64, 32\) in the files and \(64, 48\) by config.json", capfd)


def test_a_checkpoint_without_a_tower_of_its_own(folder, capfd):
    def towerless(held):
        for name in [n for n in held if "vision_tower" in n]:
            del held[name]

    tensors(towerless)(folder)
    refused(folder, "no vision tower of its own; take the external one", capfd, vision_tower="checkpoint")
    assert medlens.load(folder, vision_tower=folder.parent / "clip").origin["vision_tower"]["difference"] is None


def test_the_option_is_for_this_layout_alone(folder):
    with pytest.raises(BadInput, match="--vision-tower"):
        medlens.load(WEIGHTS / "sound", vision_tower="checkpoint")


# ---- converted


def converted(folder, out, **options):
    model = medlens.load(folder, vision_tower=folder.parent / "clip")
    model.module.save_pretrained(out, **options)
    model.processor.save_pretrained(out)
    return model


def test_a_copy_in_transformers_layout_is_the_same_model(folder, tmp_path):
    model = converted(folder, tmp_path / "copy", save_original_format=False)
    again = medlens.load(tmp_path / "copy")
    assert again.family == "llava"
    sample = medlens.Sample(SEED.parent / "images" / "wide_rgb.png", "What is shown in this image?")
    ours, theirs = medlens.forward(again, sample), medlens.forward(model, sample)
    assert ours.tokens.ids == theirs.tokens.ids
    assert torch.equal(ours.logits, theirs.logits)


def test_a_copy_with_names_that_do_not_fit_is_refused(folder, tmp_path, capfd):
    """What `save_pretrained` makes by itself of a model whose weights were renamed while they were read: the original's names
    beside a configuration that expects transformers'. transformers would load it with fresh weights for nearly all."""
    converted(folder, tmp_path / "copy")
    capfd.readouterr()
    with pytest.raises(BadModel, match=r"\d\d+ of its weights are not in the files") as caught:
        medlens.load(tmp_path / "copy")
    assert "\n" not in str(caught.value)
