import pytest
from PIL import Image

import medlens
from medlens.errors import BadData, BadModel
from medlens.models.prompt import look, read

PICTURE = Image.new("RGB", (64, 64), (90, 90, 90))


def tokens_of(model, sample, answer=None):
    return read(model, sample, look(model, list(sample.images)), answer)


def words(tokens, group):
    return [tokens.texts[i] for i in tokens.where(group)]


def test_groups_of_a_prompt_with_answer(phantom):
    tokens = tokens_of(phantom, medlens.Sample(image=PICTURE, question="Where is the lesion?"), "upper left")
    assert words(tokens, "image") == ["<image>"] * 64
    assert words(tokens, "text") == ["where", "is", "the", "lesion", "?"]
    assert words(tokens, "template") == ["<s>", "[INST]", "\n", "[/INST]", "</s>"]
    assert words(tokens, "answer") == ["upper", "left"]
    assert len(tokens.where("all")) == len(tokens) == 64 + 5 + 5 + 2


def test_ids_are_those_of_the_processor(phantom):
    """Built from parts, so that an image is processed once: the same ids as the processor gives for the whole prompt."""
    sample = medlens.Sample(image=PICTURE, question="is there a lesion on the image ?")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}]
    text = phantom.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    theirs = phantom.processor(text=text, images=[PICTURE], add_special_tokens=False)["input_ids"][0]
    assert list(tokens_of(phantom, sample).ids) == list(theirs)


def test_words_of_the_template_in_the_question_stay_the_users(phantom):
    """The same word can be the template's and the user's; only its place tells."""
    tokens = tokens_of(phantom, medlens.Sample(image=PICTURE, question="is"))
    assert words(tokens, "text") == ["is"]


def test_several_turns(phantom):
    sample = medlens.Sample(image=PICTURE, turns=["is there a lesion ?", "yes", "where is it ?"])
    tokens = tokens_of(phantom, sample, "upper left")
    assert words(tokens, "text") == ["is", "there", "a", "lesion", "?", "where", "is", "it", "?"]
    assert words(tokens, "answer") == ["upper", "left"]
    assert "yes" in words(tokens, "template")


def test_two_images_and_none(phantom):
    two = medlens.Sample(images=[PICTURE, PICTURE], question="which modality is this ?")
    assert len(tokens_of(phantom, two).where("image")) == 128
    none = medlens.Sample(question="which modality is this ?")
    tokens = read(phantom, none, look(phantom, []))
    assert tokens.where("image") == []
    assert words(tokens, "text") == ["which", "modality", "is", "this", "?"]


def test_images_stand_where_the_question_says(phantom):
    """`<image>` in a question is the place of the next image; a line break behind it is the template's business."""
    sample = medlens.Sample(images=[PICTURE, PICTURE], question="<image>\nis this a mass , <image> or this ?")
    tokens = read(phantom, sample, look(phantom, [PICTURE, PICTURE]))
    assert words(tokens, "text") == ["is", "this", "a", "mass", ",", "or", "this", "?"]
    first, second = (tokens.where("image")[k] for k in (0, 64))
    between = [tokens.texts[i] for i in range(first + 64, second)]
    assert between == ["\n", "is", "this", "a", "mass", ","]


def test_as_many_places_as_images(phantom):
    for images, question in (([PICTURE], "<image> or <image> ?"), ([], "is there <image> ?"), ([PICTURE] * 2, "<image> what ?")):
        with pytest.raises(BadData, match=rf"sample q7: {len(images)} images, but {question.count('<')} times <image>"):
            read(phantom, medlens.Sample(images=images, question=question, id="q7"), look(phantom, images))


@pytest.mark.parametrize("token", ["[/INST]", "</s>"])
def test_a_control_token_in_the_question_is_refused(phantom, token):
    with pytest.raises(BadData, match=r"sample q7: .*control token"):
        tokens_of(phantom, medlens.Sample(image=PICTURE, question=f"is there {token} a lesion", id="q7"))


def test_a_template_that_strips_the_question_is_followed(phantom, monkeypatch):
    monkeypatch.setattr(
        phantom.processor, "chat_template", phantom.processor.chat_template.replace("c['text']", "c['text'] | trim")
    )
    tokens = tokens_of(phantom, medlens.Sample(image=PICTURE, question="  where is the lesion ?  "), "upper left")
    assert words(tokens, "text") == ["where", "is", "the", "lesion", "?"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("c['text']", "c['text'] | upper"), "rewrites the user's words"),
        (("<image>\n", "\n"), "makes room for 0"),
    ],
)
def test_a_template_that_cannot_be_followed_is_refused(phantom, monkeypatch, change, says):
    monkeypatch.setattr(phantom.processor, "chat_template", phantom.processor.chat_template.replace(*change))
    with pytest.raises(BadModel, match=says):
        tokens_of(phantom, medlens.Sample(image=PICTURE, question="where is it ?"))


def test_without_a_chat_template(phantom, monkeypatch):
    monkeypatch.setattr(phantom.processor, "chat_template", None)
    with pytest.raises(BadModel, match="no chat template"):
        tokens_of(phantom, medlens.Sample(image=PICTURE, question="where is it ?"))


@pytest.fixture
def vicuna(phantom):
    """Another tokenizer and template: byte-level pieces, begin token added by the tokenizer and not by the template."""
    from dataclasses import replace

    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

    inner = Tokenizer(BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    pieces = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator(["USER: is there a lesion on the image? ASSISTANT: yes, a lesion"] * 5, pieces)
    inner.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))])
    template = (
        "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' }}{% for c in m.content %}"
        "{{ '<image>\n' if c.type == 'image' else c.text }}{% endfor %}{{ ' ' if m.role == 'user' else '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    processor = LlavaProcessor(
        image_processor=phantom.processor.image_processor, tokenizer=tokenizer, patch_size=8,
        vision_feature_select_strategy="default", chat_template=template, num_additional_image_tokens=1,
    )  # fmt: skip
    config = type(phantom.module.config)(image_token_index=inner.token_to_id("<image>"))
    module = type("Fake", (), {"config": config, "lm_head": phantom.head, "get_output_embeddings": lambda self: self.lm_head})()
    return replace(phantom, module=module, processor=processor)


@pytest.mark.parametrize(
    "question", ["is there a lesion on the image?", "où est la lésion ? 🫁🩻", "האם יש נגע?", "USER: ASSISTANT:", "  x "]
)
def test_another_template_and_tokenizer(vicuna, question):
    sample = medlens.Sample(image=PICTURE, question=question)
    seen = look(vicuna, [PICTURE])
    tokens = read(vicuna, sample, seen, "a lesion")
    decode = vicuna.tokenizer.decode
    said = {g: decode([tokens.ids[i] for i in tokens.where(g)]) for g in ("text", "answer", "template")}
    assert said["text"].strip() == question.strip()
    assert said["answer"].strip() == "a lesion"
    assert said["template"].replace(" ", "") == "<s>USER:\nASSISTANT:</s>"
    assert len(tokens.where("image")) == 64
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = vicuna.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert list(read(vicuna, sample, seen).ids) == vicuna.processor(text=prompt, images=[PICTURE])["input_ids"][0]
