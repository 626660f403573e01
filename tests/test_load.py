"""Model folders, as they come: broken in every way that copying and converting break them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import medlens
from medlens.errors import BadInput, BadModel
from medlens.models.phantom import WEIGHTS


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(WEIGHTS / "sound", copy)
    return copy


def without(name):
    return lambda folder: (folder / name).unlink()


def config(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def weights(change):
    def rewrite(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return rewrite


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def pickled(folder):
    torch.save({"a": torch.ones(3)}, folder / "model.safetensors")


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def nan(tensors):
    tensors["language_model.lm_head.weight"][3, 4] = float("nan")


def narrower(folder):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    config(text_config=text | {"intermediate_size": 300})(folder)


BROKEN = {
    "no config": (without("config.json"), "no config.json"),
    "config is not JSON": (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    "no vision-language model": (config(model_type="bert"), "model_type is bert"),
    "no tokenizer": (no_tokenizer, "no tokenizer"),
    "no image processor": (without("processor_config.json"), "no image processor"),
    "no weights": (without("model.safetensors"), r"no \*\.safetensors"),
    "cut off": (cut, "cut off, damaged or no safetensors"),
    "a pickle": (pickled, "cut off, damaged or no safetensors"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "cut off, damaged or no safetensors"),
    "a missing tensor": (
        weights(lambda t: t.pop("language_model.lm_head.weight")),
        "1 of its weights are not in the files, the first is .*lm_head",
    ),
    "other sizes": (narrower, r"is \(.*352.*\) in the files and \(.*300.*\) by config\.json"),
    "a NaN": (weights(nan), r"lm_head\.weight holds a NaN"),
    "no chat template": (without("chat_template.jinja"), "no chat template"),
}


@pytest.mark.parametrize(("damage", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_named(folder, damage, says, capfd):
    damage(folder)
    with pytest.raises(BadModel, match=says) as caught:
        medlens.load(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # nor does transformers say anything of its own


def test_the_folder_itself_loads(folder):
    assert medlens.load(folder).depth == 8


@pytest.mark.parametrize("name", ["nomodel", "./no/model", "/no/model", "model/file", "model/nothing"])
def test_no_network_for_what_is_no_hub_id(tmp_path, monkeypatch, name):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medlens.models.fetch", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(BadModel, match="no model"):
        medlens.load(name)


def test_a_hub_id_asks_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def hub(name, *_):
        raise BadModel(f"the hub was asked for {name}")

    monkeypatch.setattr("medlens.models.fetch", hub)
    with pytest.raises(BadModel, match="the hub was asked for owner/name"):
        medlens.load("owner/name")


@pytest.mark.parametrize("arguments", [{"device": "abacus"}, {"device": "meta"}, {"dtype": "int3"}])
def test_senseless_arguments(arguments):
    with pytest.raises(BadInput, match=next(iter(arguments))):
        medlens.load("phantom", **arguments)


def test_objects(phantom):
    assert medlens.load(phantom.module, phantom.processor).name == "LlavaForConditionalGeneration"
    with pytest.raises(BadInput, match="needs its processor"):
        medlens.load(phantom.module)
    for thing in (None, 5, phantom):
        with pytest.raises(BadInput, match="a model is a name"):
            medlens.load(thing)
