"""Every family that can be loaded: what we compute is what transformers computes, and every token is in its group."""

from types import SimpleNamespace

import polars as pl
import pytest
import torch
from PIL import Image
from transformers import PreTrainedModel

import medlens
import tiny
from medlens import hooks
from medlens.errors import BadData, BadModel
from medlens.models.base import Model
from medlens.models.prompt import look
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, walk
from medlens.walk.generate import Decoding, answer_prompt, answer_together

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # paligemma's own processor

QUESTION = "is there a lesion on the image?"
PICTURE = Image.radial_gradient("L").convert("RGB").resize((80, 56))
OTHER = Image.linear_gradient("L").convert("RGB").resize((80, 56))
SAMPLE = medlens.Sample(image=PICTURE, question=QUESTION)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models as they come: a folder, written by transformers."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            for part in tiny.build(family):
                part.save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def model(request, folders):
    return medlens.load(folders(request.param))


def close(a, b):
    """The contract's tolerance: 1e-5 x max(1, largest state)."""
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


def theirs(model, sample, answer=None):
    """transformers' own forward on what the family's own processor makes of the whole prompt, and the prompt's ids."""
    images = [{"type": "image"} for _ in sample.images]
    turns = [{"role": "user", "content": [*images, {"type": "text", "text": sample.question}]}]
    if answer:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    pictures = [image.convert("RGB") for image in sample.images]
    if model.family == "paligemma":
        text = model.processor.image_token * len(pictures) + sample.question
        inputs = model.processor(text=text, images=pictures, suffix=answer, return_tensors="pt")
        inputs.pop("labels", None)
    else:
        text = model.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None)
        inputs = model.processor(text=text, images=pictures, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad(), hooks.attention(model.module, "eager"), hooks.inputs_of(model.norm) as raw:
        return model.module(**inputs, output_hidden_states=True, output_attentions=True), inputs["input_ids"][0], raw[-1][0]


@pytest.mark.parametrize("answer", [None, "yes, a lesion"])
def test_forward_is_transformers_forward(model, answer):
    out, ids, raw = theirs(model, SAMPLE, answer)
    ours = medlens.forward(model, SAMPLE, answer)
    assert list(ours.tokens.ids) == ids.tolist()
    assert len(ours.hidden_states) == len(out.hidden_states) == model.depth + 1
    for a, b in zip(ours.hidden_states, out.hidden_states, strict=True):
        assert close(a, b[0])
    assert close(ours.raw_last, raw)
    assert close(ours.logits, out.logits[0])
    for a, b in zip(ours.attentions, out.attentions, strict=True):
        assert close(a, b[0])


def test_the_comparison_can_fail(model):
    """Negative control: another image is another forward."""
    other = medlens.Sample(image=OTHER, question=QUESTION)
    assert not close(medlens.forward(model, SAMPLE).logits, theirs(model, other)[0].logits[0])


def test_groups(model):
    tokens = medlens.forward(model, SAMPLE, "yes, a lesion").tokens
    decode = model.tokenizer.decode
    said = {g: decode([tokens.ids[i] for i in tokens.where(g)]) for g in ("text", "answer", "template")}
    assert said["text"].strip() == QUESTION
    assert said["answer"].strip() == "yes, a lesion"
    assert "lesion" not in said["template"]
    assert {tokens.ids[i] for i in tokens.where("image")} == {model.image_token_id}
    features = look(model, [PICTURE]).placeholders[0]
    assert len(tokens.where("image")) == features.count(model.tokenizer.decode([model.image_token_id])) > 3


def test_two_images(model):
    two = medlens.Sample(images=[PICTURE, OTHER], question=QUESTION)
    out, ids, _ = theirs(model, two)
    ours = medlens.forward(model, two)
    assert list(ours.tokens.ids) == ids.tolist()
    assert close(ours.logits, out.logits[0])


def test_no_image(model):
    tokens = medlens.forward(model, medlens.Sample(question=QUESTION)).tokens
    assert tokens.where("image") == []
    assert model.tokenizer.decode([tokens.ids[i] for i in tokens.where("text")]).strip() == QUESTION


def test_answers(model):
    """By transformers' generation, by whole passes, and by the forward's own logits: the same words."""
    prompt = prepare(model, SAMPLE)
    said = answer_prompt(model, prompt, Decoding(5))
    together = answer_together(model, [prompt], 5)[0]
    assert together.ids == said.ids
    assert max(abs(a - b) for a, b in zip(together.logprobs, said.logprobs, strict=True)) < 1e-3
    assert int(medlens.forward(model, SAMPLE).logits[-1].argmax()) == said.ids[0]


def attention_of(module):
    """Which attention implementation each part runs with; in PaliGemma 2 decoder and tower differ."""
    return {name: part.config._attn_implementation for name, part in module.named_modules() if isinstance(part, PreTrainedModel)}


def test_the_self_test_passed_and_nothing_is_left(model):
    assert model.checks["logits"] < 1e-5
    assert model.checks["image_effect"] > 0
    blocks = model.decoder.layers
    medlens.forward(model, SAMPLE)
    assert model.decoder.layers is blocks
    fresh, _ = tiny.build(model.family + ("2" if model.text_config.model_type == "gemma2" else ""))
    assert attention_of(model.module) == attention_of(fresh)
    hooked = [f for m in model.module.modules() for f in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert not [f for f in hooked if f.__module__.startswith("medlens")]


@pytest.mark.parametrize("word", ["<end_of_turn>", "<image_soft_token>", "<start_of_image>"])
def test_control_tokens_of_the_family_are_refused(folders, word):
    with pytest.raises(BadData, match=f"control token '{word}'"):
        medlens.forward(medlens.load(folders("gemma3")), medlens.Sample(image=PICTURE, question=f"is {word} there?"))


# ---- who sees whom


def attended(model, sample, row, column):
    """The largest weight, over blocks and heads, with which a token looks at another one."""
    return max(float(a[:, row, column].max()) for a in medlens.forward(model, sample).attentions)


@pytest.mark.parametrize(("family", "both_ways"), [("gemma3", True), ("paligemma", True), ("llava", False), ("idefics3", False)])
def test_whether_image_tokens_see_what_comes_later(folders, family, both_ways):
    model = medlens.load(folders(family))
    image = prepare(model, SAMPLE).tokens.where("image")
    assert (attended(model, SAMPLE, image[0], image[-1]) > 0) == both_ways


def test_the_images_of_gemma3_do_not_see_later_images(folders):
    model, two = medlens.load(folders("gemma3")), medlens.Sample(images=[PICTURE, OTHER], question=QUESTION)
    image = prepare(model, two).tokens.where("image")
    assert attended(model, two, image[0], image[3]) > 0
    assert attended(model, two, image[0], image[4]) == 0
    assert attended(model, two, image[4], image[0]) > 0


def image_rows(model, question):
    out = medlens.forward(model, medlens.Sample(image=PICTURE, question=question))
    return out.raw_last[out.tokens.where("image")]


def test_whether_image_rows_depend_on_the_question(model):
    """They do in paligemma, which is why its questions are not packed."""
    one, two = image_rows(model, QUESTION), image_rows(model, "which modality is this?")
    assert close(one, two) == (model.family != "paligemma")


QUESTIONS = (QUESTION, "which modality is this?", "a lesion")


@pytest.mark.parametrize("family", [f for f in tiny.FAMILIES if not f.startswith("paligemma")])
@pytest.mark.parametrize("window", [5, 64])
def test_packed_is_one_by_one(family, window):
    """Also where a layer's window is shorter than the prefix, and with two images."""
    model = medlens.load(*tiny.build(family, sliding_window=window))
    for images in ([PICTURE], [PICTURE, OTHER]):
        samples = [medlens.Sample(images=images, question=q, id=q, image_id="one") for q in QUESTIONS]
        prompts = [prepare(model, sample, "yes") for sample in samples]
        (case,) = cases(model, prompts)
        kept = packed_states(model, case)
        for k, sample in enumerate(samples):
            out, rows = theirs(model, sample, "yes")[0], case.pack.rows(k)
            for ours, state in zip(kept, out.hidden_states, strict=True):
                assert close(ours[rows], state[0])


def packed_states(model, case):
    """States 0 .. L, the last one after the final norm."""
    states = []

    class Keep:
        def visit(self, block, case, before, after):
            states.append(before)

        def leave(self, block): ...
        def finish(self, case, raw, normed):
            states.append(normed)

    walk(model, [case], [Keep()])
    return states


def test_packed_without_both_ways_is_not(monkeypatch):
    """Negative control: gemma3 with a causal mask over its image."""
    monkeypatch.setattr("medlens.walk.cases.SEE_WHOLE_IMAGE", frozenset())
    with pytest.raises(AssertionError):
        test_packed_is_one_by_one("gemma3", 64)


def test_packed_without_the_window_is_not(monkeypatch):
    """Negative control: gemma3 with one mask for both kinds of layers."""
    from medlens.walk import cases as module

    monkeypatch.setattr(module, "visible", lambda s, p, w, t, seen=module.visible: seen(s, p, None, t))
    with pytest.raises(AssertionError):
        test_packed_is_one_by_one("gemma3", 5)


def test_paligemma_is_not_packed(folders):
    model = medlens.load(folders("paligemma"))
    prompts = [prepare(model, medlens.Sample(image=PICTURE, question=q, image_id="one")) for q in QUESTIONS]
    assert [len(case.prompts) for case in cases(model, prompts)] == [1, 1, 1]


@pytest.mark.parametrize("family", ["gemma3", "paligemma", "idefics3"])
def test_a_study(folders, family, tmp_path):
    model = medlens.load(folders(family))
    samples = [medlens.Sample(p, q, id=f"{k}{q}") for k, p in enumerate((PICTURE, OTHER)) for q in QUESTIONS]
    run = medlens.study(model, samples, medlens.Plan(max_new_tokens=2), tmp_path / "run")
    assert run.samples.height == 6
    assert run.manifest["model"]["family"] == family
    layers = run.rows.filter(
        (pl.col("measure") == "linearity_of_update") & (pl.col("tokens") == "image") & (pl.col("variant") == "raw"),
        pl.col("protocol") == "sound",
    )["layer"]
    assert layers.to_list() == list(range(model.depth))


def test_what_stops_the_self_test_is_said_in_one_line():
    module, processor = tiny.build("llava")
    processor.patch_size = 5  # places for an image of other sizes than the tower's
    with pytest.raises(BadModel, match="llava cannot be read: its self-test stopped with ValueError") as caught:
        medlens.load(module, processor)
    assert "\n" not in str(caught.value)


def test_a_family_without_image_tokens_is_named():
    config = SimpleNamespace(model_type="git")
    with pytest.raises(BadModel, match="git has no image token in its prompts"):
        _ = Model("captions", SimpleNamespace(config=config), None).image_token_id


def test_a_family_with_unknown_token_types_is_refused():
    """Were its types not passed, nothing would show that its image is read wrongly."""
    module, processor = tiny.build("gemma3")
    module.config.model_type = "gemma9"
    with pytest.raises(BadModel, match="gemma9 reads token_type_ids"):
        medlens.load(module, processor)
