"""Answers to many prompts together are what transformers generates for each: the same ids, whatever the family."""

from collections import Counter
from itertools import takewhile

import pytest
import torch
import transformers as hf
from PIL import Image

import bare
import medlens
import tiny
from medlens.errors import BadModel, NotFinite
from medlens.models import load
from medlens.models.base import Model
from medlens.walk import generate, speak
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare
from medlens.walk.generate import Decoding, answer_prompt, answers
from medlens.walk.room import Spill
from test_golden import CHECKPOINT, CLIP, TURNS, golden
from test_walk import DECODERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # paligemma's own processor

ONE, TWO = (make("L").resize((80, 56)) for make in (Image.radial_gradient, Image.linear_gradient))
QUESTIONS = ("is there a lesion on the image?", "which modality is this?", "a lesion")
SAMPLES = [
    *(medlens.Sample(picture, q, image_id=name) for name, picture in (("one", ONE), ("two", TWO)) for q in QUESTIONS),
    medlens.Sample(question=QUESTIONS[0]),
    medlens.Sample(images=[ONE, TWO], question=QUESTIONS[1]),
]
LONG = Decoding(12)
DRAWN = Decoding(6, temperature=2.0, top_p=0.9, seed=4)


def asked(model, samples=SAMPLES):
    return [prepare(model, sample) for sample in samples]


def alone(model, prompts, decoding):
    return [answer_prompt(model, prompt, decoding) for prompt in prompts]


def worst(some, others):
    """The largest difference of log-probabilities; infinite if the ids, or whether they ended, are not the same."""
    if [(a, a.ids, a.ended) for a in some] != [(b, b.ids, b.ended) for b in others]:
        return float("inf")
    return max(abs(p - q) for a, b in zip(some, others, strict=True) for p, q in zip(a.logprobs, b.logprobs, strict=True))


def saved(module, processor, folder):
    module.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def on_meta(model):
    return all(p.is_meta for p in model.module.parameters())


# ---- every family

WINDOWS = {"gemma3": 5, "paligemma2": 5, "aya_vision": 5, "llava": 5}  # much shorter than the prefix
FAMILIES = [*((f, {}) for f in tiny.FAMILIES), *((f, {"sliding_window": w}) for f, w in WINDOWS.items())]


@pytest.mark.parametrize(("family", "changes"), FAMILIES, ids=lambda x: x if isinstance(x, str) else x and "window")
def test_every_family(family, changes, tmp_path):
    module, processor = tiny.build(family, **changes)
    model = load(module, processor)
    prompts = asked(model)
    said = alone(model, prompts, LONG)
    assert worst(answers(model, prompts, LONG), said) < 1e-4
    assert worst(answers(model, prompts[2:5], DRAWN), alone(model, prompts[2:5], DRAWN)) < 1e-4
    streamed = load(saved(module, processor, tmp_path / "model"), memory=1000)
    assert worst(answers(streamed, prompts, LONG, spill=tmp_path), said) < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert on_meta(streamed)


@pytest.mark.parametrize("family", bare.FAMILIES)
def test_families_without_processors(family):
    model, look = bare.build(family)
    prompts = [bare.prompt(model, look, question) for question in QUESTIONS]
    for decoding in (LONG, DRAWN):
        assert worst(answers(model, prompts, decoding), alone(model, prompts, decoding)) < 1e-4


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(tiny_llava, name):
    """Each token is what the whole forward of all before it says, computed without anything kept. (transformers' own generation is
    another where a configuration has a window that its code never looks at: its cache forgets all the same.)"""
    model = tiny_llava(**DECODERS[name])
    prompts = asked(model, medlens.phantom.samples(6, seed=11))
    for prompt, said in zip(prompts, answers(model, prompts, Decoding(12)), strict=True):
        called = arguments(model, cases(model, [prompt])[0])
        words = list(takewhile(lambda i: i != model.image_token_id, said.ids))  # for that, the forward would want an image
        called["input_ids"] = torch.tensor([[*prompt.tokens.ids, *words]])
        with torch.no_grad():
            best = model.module(**called, use_cache=False).logits[0, -1 - len(words) : -1].log_softmax(-1).max(-1)
        assert best.indices.tolist() == words
        assert best.values.tolist() == pytest.approx(said.logprobs[: len(words)], abs=1e-4)
    assert name.startswith("llama, whose") or worst(answers(model, prompts, LONG), alone(model, prompts, LONG)) < 1e-4


# ---- negative controls: the comparison notices


def differs(model, prompts):
    return worst(answers(model, prompts, LONG), alone(model, prompts, LONG)) > 1e-2


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_were_new_tokens_to_see_other_branches(family, monkeypatch):
    model = load(*tiny.build(family))
    monkeypatch.setattr(speak, "_rows", lambda mask, new: None)
    assert differs(model, asked(model))


def test_were_windows_not_minded(monkeypatch):
    model = load(*tiny.build("gemma3", sliding_window=5))
    masks = speak.arguments

    def unminded(model, case):
        called = masks(model, case)
        mask = called.get("attention_mask")
        return called | ({"attention_mask": dict.fromkeys(mask, mask["full_attention"])} if mask else {})

    monkeypatch.setattr(speak, "arguments", unminded)
    assert differs(model, asked(model))


@pytest.mark.parametrize("family", ["paligemma", "qwen2_vl"])
def test_were_positions_guessed(family, monkeypatch):
    """One counts from 1, the other in three dimensions."""
    module = tiny if family in tiny.FAMILIES else bare
    built = module.build(family)
    model = load(*built) if module is tiny else built[0]
    prompts = asked(model) if module is tiny else [bare.prompt(*built, QUESTIONS[0])]
    first = speak._prompts

    def guess(model, speaker):
        entered = first(model, speaker)
        speaker.positions = torch.tensor([[len(speaker.case.pack.ids) - 1]])
        return entered

    monkeypatch.setattr(speak, "_prompts", guess)
    assert differs(model, prompts)


# ---- how answers are written


@pytest.mark.slow
def test_the_phantom(phantom):
    prompts = asked(phantom, medlens.phantom.samples(200))
    done = []
    together = answers(phantom, [*prompts, prompts[0]], Decoding(8), lambda: done.append(1))
    one_by_one = alone(phantom, prompts, Decoding(8))
    assert worst(together, [*one_by_one, one_by_one[0]]) < 1e-4
    assert len(done) == 201
    assert len({len(a.ids) for a in together}) > 1  # some end before others


def test_draws_are_each_prompts_own():
    """Whatever it is packed with; and by the seed, which is not left in the caller's generator."""
    model = load(*tiny.build("llava"))
    prompts = asked(model)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    drawn = answers(model, prompts, DRAWN)
    assert torch.equal(torch.get_rng_state(), before)
    assert answers(model, prompts[2:4], DRAWN) == drawn[2:4]
    assert answers(model, prompts, Decoding(6, 2.0, 0.9, seed=5)) != drawn


def test_stop_words_and_the_cap(phantom):
    prompts = asked(phantom, [s for s in medlens.phantom.samples(200) if s.question_type == "place"][:20])
    whole = answers(phantom, prompts, Decoding(8))
    for decoding in (Decoding(8, stop=("left", "right")), Decoding(1)):
        cut = answers(phantom, prompts, decoding)
        assert cut != whole
        assert worst(cut, alone(phantom, prompts, decoding)) < 1e-4


def test_the_models_own_rules_hold():
    """What its generation configuration asks for, which `generate` minds."""
    model = load(*tiny.build("llava"))
    prompts = asked(model)
    before = answers(model, prompts, LONG)
    model.module.generation_config.update(repetition_penalty=1.7, min_new_tokens=3, suppress_tokens=[before[0].ids[0]])
    after = answers(model, prompts, LONG)
    assert after[0].ids[0] != before[0].ids[0]
    assert worst(after, alone(model, prompts, LONG)) < 1e-4


def test_a_token_whose_row_is_all_zeros():
    """As padding's is: its state is zero, and so is what leaves the blocks; it can be read on from there."""
    module, processor = tiny.build("llava")
    assert not module.get_input_embeddings().weight[processor.tokenizer.pad_token_id].any()
    model, seen = load(module, processor), []

    def say(_prompt, logits):
        seen.append(logits)
        return processor.tokenizer.pad_token_id if len(seen) < 3 else None

    (prompt,) = asked(model, SAMPLES[:1])
    speak.speak(model, cases(model, [prompt]), say)
    called = arguments(model, cases(model, [prompt])[0])
    called["input_ids"] = torch.tensor([[*prompt.tokens.ids, *[processor.tokenizer.pad_token_id] * 2]])
    with torch.no_grad():
        assert torch.allclose(torch.stack(seen), model.module(**called).logits[0, -3:], atol=1e-4)


def test_nothing_to_answer(phantom):
    assert answers(phantom, [], LONG) == []
    assert answers(load("phantom", memory="100kB"), [], LONG) == []


# ---- streamed


@pytest.fixture(scope="module")
def streamed():
    return load("phantom", memory="100kB")


def test_golden_prompts_streamed(tmp_path):
    resident = load(CHECKPOINT, vision_tower=str(CLIP))
    model = load(CHECKPOINT, vision_tower=str(CLIP), memory=1000)
    rows = [row for case in TURNS for row in golden("external", case)]
    prompts = asked(model, [sample.named(str(k)) for k, (sample, _) in enumerate(rows)])
    said = answers(model, prompts, LONG, spill=tmp_path)
    assert worst(said, alone(resident, prompts, LONG)) < 1e-4
    written = [(a, r["generated_ids"].tolist()[1:]) for a, (_, r) in zip(said, rows, strict=True) if "generated_ids" in r]
    assert len(written) > 1
    for mine, original in written:
        n = min(len(mine.ids), len(original))
        assert list(mine.ids[:n]) == original[:n]


def test_the_price(streamed, monkeypatch, tmp_path):
    """Weights are read once for each token, the vision tower's once, and what is kept is what was said."""
    read, kept = Counter(), []
    reading, filing = type(streamed.weights).read, speak._Filed.update

    def note_kept(self, keys, values, *rest):
        kept.append(keys.nbytes + values.nbytes)
        return filing(self, keys, values, *rest)

    monkeypatch.setattr(type(streamed.weights), "read", lambda self, name: read.update([name]) or reading(self, name))
    monkeypatch.setattr(speak._Filed, "update", note_kept)
    streamed.module.generation_config.eos_token_id, before = -1, streamed.module.generation_config.eos_token_id
    prompts = asked(streamed, medlens.phantom.samples(12))
    try:
        said = answers(streamed, prompts, Decoding(4), spill=tmp_path)
    finally:
        streamed.module.generation_config.eos_token_id = before
    foreseen = speak.price(streamed, cases(streamed, prompts), 4)
    assert {len(a.ids) for a in said} == {4}
    assert foreseen == (4, sum(kept))
    blocks = [name for b in range(streamed.depth) for name in streamed.names_of[b]]
    assert {read[name] for name in blocks} == {4}
    tower = [name for name in streamed.names_of["around"] if "vision_tower" in name]
    assert {read[name] for name in tower} == {1}


def test_one_block_is_in_memory(streamed, monkeypatch):
    """And only while it works; of the rest, what is needed around it."""
    seen, passing = [], speak.through

    def look(block, step, state):
        seen.append({n for n, p in streamed.module.named_parameters() if not p.is_meta})
        return passing(block, step, state)

    monkeypatch.setattr(speak, "through", look)
    answers(streamed, asked(streamed, medlens.phantom.samples(7)), Decoding(3))
    assert len(seen) > 2 * streamed.depth
    assert all(here in [set(streamed.names_of[b]) for b in range(streamed.depth)] for here in seen)


def test_a_failure_leaves_nothing_behind(streamed, tmp_path):
    blocks, heard = streamed.decoder.layers, []

    def say(_prompt, logits):
        heard.append(1)
        if len(heard) > 9:
            raise KeyError("in the middle")
        return int(logits.argmax())

    with pytest.raises(KeyError, match="in the middle"):
        speak.speak(streamed, cases(streamed, asked(streamed, medlens.phantom.samples(6))), say, tmp_path)
    assert on_meta(streamed)
    assert streamed.decoder.layers is blocks
    assert list(tmp_path.iterdir()) == []
    hooked = [f for m in streamed.module.modules() for f in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert not [f for f in hooked if f.__module__.startswith("medlens")]


def test_keys_wait_in_files(tmp_path):
    """Half types too, and what is read is all that was written, in its order."""
    layer, plain = speak._Filed(Spill(tmp_path)), hf.cache_utils.DynamicLayer()
    for n in (5, 1, 2):
        keys, values = torch.randn(2, 1, 2, n, 4).bfloat16()
        for mine, theirs in zip(layer.update(keys, values), plain.update(keys, values), strict=True):
            assert torch.equal(mine, theirs)
        assert layer.get_seq_length() == plain.get_seq_length()


# ---- what cannot go on


def recurrent():
    """A LLaVA whose decoder has recurrent blocks."""
    module, processor = tiny.build("llava")
    config, linear = module.config, {f"linear_{x}_head_dim": 8 for x in ("key", "value")}
    heads = {f"linear_num_{x}_heads": 2 for x in ("key", "value")}
    config.text_config = tiny._text(hf.Qwen3NextConfig, processor.tokenizer, num_experts=0, **linear, **heads)
    torch.manual_seed(0)
    return Model("recurrent", hf.LlavaForConditionalGeneration(config).eval(), processor)


def test_a_recurrent_decoder_answers_one_by_one(monkeypatch):
    model = recurrent()
    prompts, done = asked(model, SAMPLES[:2]), []
    assert not speak.can_speak(model)
    assert worst(answers(model, prompts, LONG, lambda: done.append(1)), alone(model, prompts, LONG)) == 0
    assert len(done) == 2
    monkeypatch.setattr(generate, "can_speak", lambda model: True)  # negative control
    with pytest.raises(IndexError):
        answers(model, prompts, LONG)


def test_blocks_that_share_their_keys_are_refused():
    """Were they not found out, all that is said would be wrong."""
    model = load(*tiny.build("llava"))
    model.blocks[1].self_attn.layer_idx = 0
    with pytest.raises(BadModel, match="block 1 does not keep one key for each token"):
        answers(model, asked(model, SAMPLES[:1]), LONG)


def test_a_nan_is_named():
    model = load("phantom")
    with torch.no_grad():
        model.blocks[3].mlp.down_proj.weight *= 3e38
    with pytest.raises(NotFinite, match="NaN in the logits of sample s11-0000"):
        answers(model, asked(model, medlens.phantom.samples(1, seed=11)), LONG)
