"""Families whose processors need torchvision, from the walk on: our states are transformers' states."""

import json

import pytest
import torch
from transformers.utils import is_torchvision_available

import bare
import medlens
from medlens import hooks
from medlens.errors import BadModel
from medlens.walk import way
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import walk
from medlens.walk.generate import Decoding, answer_prompt, answer_together

QUESTIONS = ("is there a lesion on the image?", "which modality is this?", "a lesion")
SHARING = ("internvl", "smolvlm", "mistral3", "llava_onevision")


def close(a, b):
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


class Keep:
    def __init__(self):
        self.states, self.raw, self.normed = {}, [], []

    def visit(self, block, case, before, after):
        self.states.setdefault(block, []).append(before)

    def leave(self, block): ...
    def finish(self, case, raw, normed):
        self.raw.append(raw)
        self.normed.append(normed)


def walked(model, laid):
    kept = Keep()
    walk(model, laid, [kept])
    return kept


def theirs(model, prompt):
    """transformers' own forward: its output, and what entered each block and the norm."""
    (case,) = cases(model, [prompt])
    with torch.no_grad(), hooks.inputs_of_each([*model.blocks, model.norm]) as entered:
        out = model.module(**arguments(model, case), output_hidden_states=True, use_cache=False)
    return out, [state[0] for state in entered]


@pytest.mark.parametrize("family", bare.FAMILIES)
def test_the_walk_is_transformers_forward(family):
    model, look = bare.build(family)
    prompt = bare.prompt(model, look, QUESTIONS[0], "yes")
    out, entered = theirs(model, prompt)
    kept = walked(model, cases(model, [prompt]))
    for b in range(model.depth):
        assert close(kept.states[b][0], entered[b])
    assert close(kept.raw[0], entered[-1])
    assert close(kept.normed[0], out.hidden_states[-1][0])
    assert close(model.unembed(kept.normed[0]), out.logits[0])
    if family != "qwen3_vl":
        assert all(close(kept.states[b][0], out.hidden_states[b][0]) for b in range(model.depth))


@pytest.mark.parametrize("family", bare.FAMILIES)
def test_the_image_is_seen(family):
    """Negative control: another image is another forward."""
    model, look = bare.build(family)
    prompt = bare.prompt(model, look, QUESTIONS[0])
    before = walked(model, cases(model, [prompt])).normed[0]
    look.inputs["pixel_values"].mul_(-1)
    assert not close(walked(model, cases(model, [prompt])).normed[0], before)


def test_what_qwen3_adds_between_blocks_is_in_the_states():
    """State b is what enters block b. transformers' `hidden_states` there are what left block b - 1, before the addition."""
    model, look = bare.build("qwen3_vl")
    prompt = bare.prompt(model, look, QUESTIONS[0])
    out, _ = theirs(model, prompt)
    kept = walked(model, cases(model, [prompt]))
    image, others = prompt.tokens.where("image"), [*prompt.tokens.where("text"), *prompt.tokens.where("template")]
    for b in (1, 2):
        ours, before = kept.states[b][0], out.hidden_states[b][0]
        assert not close(ours[image], before[image])
        assert close(ours[others], before[others])
    assert close(kept.states[3][0], out.hidden_states[3][0])


def test_what_is_added_behind_the_last_block_is_in_the_last_state():
    model, look = bare.build("qwen3_vl", num_hidden_layers=2)
    prompt = bare.prompt(model, look, QUESTIONS[0])
    out, entered = theirs(model, prompt)
    kept = walked(model, cases(model, [prompt]))
    assert close(kept.raw[0], entered[-1])
    assert close(model.unembed(kept.normed[0]), out.logits[0])


def test_without_what_is_added_the_walk_is_not_the_forward(monkeypatch):
    """Negative control."""
    model, look = bare.build("qwen3_vl")
    prompt = bare.prompt(model, look, QUESTIONS[0])
    _, entered = theirs(model, prompt)
    bare_steps = lambda steps: [step._replace(added=None) for step in steps]
    monkeypatch.setattr(way, "Way", lambda steps, attention, Way=way.Way: Way(bare_steps(steps), attention))
    assert not close(walked(model, cases(model, [prompt])).raw[0], entered[-1])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_qwen_counts_positions_in_three_dimensions(family, monkeypatch):
    """Negative control: without the tokens' types an image's positions are a line (or it is refused by transformers)."""
    model, look = bare.build(family)
    prompt = bare.prompt(model, look, QUESTIONS[0])
    _, entered = theirs(model, prompt)
    monkeypatch.setattr("medlens.walk.cases.token_types", lambda *_: {})
    try:
        assert not close(walked(model, cases(model, [prompt])).raw[0], entered[-1])
    except ValueError as e:
        assert "mm_token_type_ids" in str(e)  # noqa: PT017


@pytest.mark.parametrize("family", bare.FAMILIES)
def test_answers(family):
    model, look = bare.build(family)
    prompt = bare.prompt(model, look, QUESTIONS[0])
    said = answer_prompt(model, prompt, Decoding(5))
    assert answer_together(model, [prompt], 5)[0].ids == said.ids


@pytest.mark.parametrize("family", SHARING)
@pytest.mark.parametrize("window", [None, 3])
def test_packed_is_one_by_one(family, window):
    changes = {"sliding_window": window, "use_sliding_window": window is not None, "max_window_layers": 1}
    model, look = bare.build(family, **changes)
    prompts = [bare.prompt(model, look, question, "yes") for question in QUESTIONS]
    (case,) = cases(model, prompts)
    kept = walked(model, [case])
    for k, prompt in enumerate(prompts):
        out, entered = theirs(model, prompt)
        rows = case.pack.rows(k)
        assert all(close(kept.states[b][0][rows], entered[b]) for b in range(model.depth))
        assert close(kept.normed[0][rows], out.hidden_states[-1][0])


PROCESSORS = {"qwen3_vl": "Qwen2VLImageProcessorFast", "internvl": "GotOcr2ImageProcessorFast", "mistral3": "PixtralImageProcessor"}


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is here")
@pytest.mark.parametrize("family", PROCESSORS)
def test_without_torchvision_a_folder_says_what_to_install(family, tmp_path, capfd):
    model, _ = bare.build(family)
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    name = {"qwen3_vl": "Qwen3VLProcessor", "internvl": "InternVLProcessor", "mistral3": "PixtralProcessor"}[family]
    said = {"image_processor_type": PROCESSORS[family], "processor_class": name, "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    capfd.readouterr()
    with pytest.raises(BadModel, match=r"pip install 'medlens\[torchvision\]'") as caught:
        medlens.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("family", sorted(set(bare.FAMILIES) - set(SHARING)))
def test_the_others_walk_one_by_one(family):
    model, look = bare.build(family)
    assert len(cases(model, [bare.prompt(model, look, question) for question in QUESTIONS])) == 3
