import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CohereConfig, Gemma2Config, GemmaConfig, LlamaConfig, Qwen2Config, Qwen3Config, StableLmConfig

import medlens
from medlens import hooks
from medlens.errors import BadModel, NotFinite
from medlens.models import load
from medlens.walk.cases import cases
from medlens.walk.forward import forward, prepare, walk
from medlens.walk.packing import PADDING, pack, visible

SAMPLES = medlens.phantom.samples(10, seed=11, questions=("presence", "type", "place", "side", "modality"))


def close(a, b):
    """The contract's tolerance: 1e-5 x max(1, largest state)."""
    return float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


def plain(model, sample, answer=None):
    """transformers' own forward of one sample, with its own prompt assembly."""
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}]
    if answer:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    text = model.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None)
    inputs = model.processor(text=text, images=[sample.image.convert("RGB")], add_special_tokens=False, return_tensors="pt")
    with torch.no_grad(), hooks.attention(model.module, "eager"):
        return model.module(**inputs, output_hidden_states=True, output_attentions=True)


class Keep:
    """A visitor that keeps every state, by case and layer."""

    def __init__(self):
        self.states, self.normed = {}, {}

    def visit(self, block, case, before, after):
        self.states.setdefault((case.image, block), before)
        self.states[(case.image, block + 1)] = after

    def leave(self, block):
        pass

    def finish(self, case, raw, normed):
        assert torch.equal(raw, self.states[(case.image, max(b for _, b in self.states))])
        self.normed[case.image] = normed


@pytest.mark.parametrize("sample", SAMPLES[:3], ids=lambda s: s.id)
def test_forward_is_transformers_forward(phantom, sample):
    ours, theirs = medlens.forward(phantom, sample), plain(phantom, sample)
    assert len(ours.hidden_states) == phantom.depth + 1
    for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert close(a, b[0])
    assert close(ours.logits, theirs.logits[0])
    for a, b in zip(ours.attentions, theirs.attentions, strict=True):
        assert close(a, b[0])
        assert torch.allclose(a.sum(-1), torch.ones_like(a.sum(-1)), atol=1e-5)
    assert ours.logits.shape == (len(ours.tokens), phantom.text_config.vocab_size)
    with torch.no_grad():
        assert close(phantom.norm(ours.raw_last), ours.hidden_states[-1])


def test_forward_reads_the_image(phantom):
    """Negative control: another image must not pass for this one."""
    one, two = SAMPLES[0], SAMPLES[5]
    swapped = medlens.Sample(image=two.image, question=one.question)
    assert not close(medlens.forward(phantom, one).logits, medlens.forward(phantom, swapped).logits)


DECODERS = {
    "mistral": {},
    "mistral, window shorter than the prefix": {"sliding_window": 16},
    "llama": {"decoder": LlamaConfig},
    "llama, whose code looks at no window": {"decoder": LlamaConfig, "sliding_window": 16},
    "gemma": {"decoder": GemmaConfig},
    "cohere": {"decoder": CohereConfig, "logit_scale": 1.0},
    "qwen2": {"decoder": Qwen2Config},
    "qwen3": {"decoder": Qwen3Config},
    "qwen2, the last layer with a window": {
        "decoder": Qwen2Config,
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 2,
    },
    "gemma2, every second layer with a window": {"decoder": Gemma2Config, "sliding_window": 16, "num_hidden_layers": 4},
}


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_packed_is_one_by_one(tiny_llava, decoder):
    model = tiny_llava(**decoder)
    prompts = [prepare(model, s, s.answer) for s in SAMPLES]
    laid = cases(model, prompts)
    assert [len(c.prompts) for c in laid] == [5, 5]
    assert sum(len(c.pack.ids) for c in laid) < 0.5 * sum(len(p.tokens) for p in prompts)
    kept = Keep()
    walk(model, laid, [kept])
    for case in laid:
        for k, prompt in enumerate(case.prompts):
            theirs, rows = plain(model, prompt.sample, prompt.sample.answer), case.pack.rows(k)
            for layer in range(model.depth):
                assert close(kept.states[(case.image, layer)][rows], theirs.hidden_states[layer][0])
            assert close(kept.normed[case.image][rows], theirs.hidden_states[-1][0])


def test_another_decoder_walks_one_by_one(tiny_llava):
    """Its masks may be of a kind that is not known here."""
    model = tiny_llava(decoder=StableLmConfig)
    assert [len(c.prompts) for c in cases(model, [prepare(model, s) for s in SAMPLES[:3]])] == [1, 1, 1]


def test_packed_without_the_mask_is_not(phantom, monkeypatch):
    """Negative control: were branches to see each other, or positions to run on, the comparison above would notice."""
    prompts = [prepare(phantom, s) for s in SAMPLES[:5]]
    laid = cases(phantom, prompts)
    monkeypatch.setattr("medlens.walk.cases.visible", lambda s, p, w=None, t=None: p.new_ones(1, s.shape[1], s.shape[1]).tril() > 0)
    kept = Keep()
    walk(phantom, laid, [kept])
    theirs = plain(phantom, SAMPLES[4]).hidden_states[-1][0]
    assert not close(kept.normed[laid[0].image][laid[0].pack.rows(4)], theirs)


def test_who_sees_whom():
    """Against the definition, written as loops."""
    segments, positions = [0, 0, 0, 1, 1, 2, 2, PADDING], [0, 1, 2, 3, 4, 3, 4, 0]
    for window in (None, 2):
        got = visible(torch.tensor(segments), torch.tensor(positions), window)
        for i, (si, pi) in enumerate(zip(segments, positions, strict=True)):
            for j, (sj, pj) in enumerate(zip(segments, positions, strict=True)):
                same_sequence = sj == 0 or si == sj
                behind = pi - pj >= 0 and (window is None or pi - pj < window)
                expected = i == j or (PADDING not in (si, sj) and same_sequence and behind)
                assert bool(got[i, j]) == expected, (i, j, window)


def test_a_pack_holds_every_sequence():
    sequences = [[1, 2, 3, 4], [1, 2, 9], [1, 2, 7, 7, 7]]
    packed = pack(sequences, shared=2)
    for k, sequence in enumerate(sequences):
        rows = packed.rows(k)
        assert [packed.ids[r] for r in rows] == sequence
        assert [packed.positions[r] for r in rows] == list(range(len(sequence)))


def test_image_rows_are_counted_once(phantom, monkeypatch):
    """Also when the questions on an image need more than one pack."""
    monkeypatch.setattr("medlens.walk.cases.BRANCH_TOKENS", 20)
    laid = cases(phantom, [prepare(phantom, s, s.answer) for s in SAMPLES[:5]])
    assert len(laid) > 1
    assert sum(len(c.where("image")) for c in laid) == 64
    text = sum(len(prepare(phantom, s).tokens.where("text")) for s in SAMPLES[:5])
    assert sum(len(c.where("text")) for c in laid) == text
    identities = [c.identity(i) for c in laid for i in c.where("all")]
    assert len(set(identities)) == len(identities)


def registered(model):
    """How many of our hooks there are (transformers keeps some of its own)."""
    hooked = [f for m in model.module.modules() for f in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return sum(f.__module__.startswith("medlens") for f in hooked)


def test_nothing_is_left_behind(phantom):
    blocks, attention = phantom.decoder.layers, phantom.text_config._attn_implementation
    medlens.forward(phantom, SAMPLES[0])

    class Fail(Keep):
        def visit(self, *_):
            raise KeyError("broken instrument")

    with pytest.raises(KeyError, match="broken instrument"):
        walk(phantom, cases(phantom, [prepare(phantom, SAMPLES[0])]), [Fail()])
    with pytest.raises(ValueError, match="image size"), hooks.stand_ins(phantom.decoder):
        phantom.module(input_ids=torch.tensor([[1, 4, 2]]), pixel_values=torch.zeros(1, 3, 7, 7))
    with hooks.inputs_of(phantom.norm), hooks.outputs_of_each(phantom.blocks):
        assert registered(phantom) == phantom.depth + 1  # the count does see them
    assert phantom.decoder.layers is blocks
    assert registered(phantom) == 0
    assert phantom.text_config._attn_implementation == attention
    assert torch.is_grad_enabled()


def test_a_model_in_training_stays_in_training(phantom):
    phantom.module.train()
    try:
        medlens.forward(phantom, SAMPLES[0])
        assert phantom.module.training
    finally:
        phantom.module.eval()


def test_a_nan_is_named_by_layer_sample_and_token():
    """A weight that overflows only while running: the file is fine, the states are not."""
    model = load("phantom")
    with torch.no_grad():
        model.blocks[3].mlp.down_proj.weight *= 3e38
    with pytest.raises(NotFinite, match=r"hidden state 4, sample s11-0000-presence, token \d+ \('.+'\)"):
        walk(model, cases(model, [prepare(model, SAMPLES[0])]), [])


def test_a_nan_in_the_weights_is_refused_at_load():
    model = load("phantom")
    with torch.no_grad():
        model.blocks[2].mlp.up_proj.weight[3, 4] = float("nan")
    with pytest.raises(BadModel, match=r"layers\.2\.mlp\.up_proj\.weight holds a NaN"):
        load(model.module, model.processor)


def test_the_self_test_finds_a_model_whose_logits_are_not_what_we_read():
    """Negative control: a family that scales its logits after the head, as some do."""
    model = load("phantom")

    def scale(_module, _inputs, output):
        output.logits = 0.5 * output.logits
        return output

    model.module.register_forward_hook(scale)
    with pytest.raises(BadModel, match="failed its self-test: logits"):
        load(model.module, model.processor)


def test_the_self_test_finds_a_model_that_changes_states_between_blocks():
    """Negative control: what is added there, the walk finds by stand-ins; anything else it could not."""
    model = load("phantom")
    assert model.checks["between_blocks"] == 0
    model.blocks[3].register_forward_pre_hook(lambda _module, inputs: (0.5 * inputs[0], *inputs[1:]), prepend=True)
    with pytest.raises(BadModel, match="failed its self-test: between_blocks"):
        load(model.module, model.processor)


def test_an_image_blind_model_is_named():
    model = load("phantom")
    with torch.no_grad():
        model.module.model.multi_modal_projector.linear_2.weight.zero_()
    assert load(model.module, model.processor).checks["image_effect"] == 0
    assert load("phantom").checks["image_effect"] > 0


def test_answers_know_their_probability(phantom):
    sample = SAMPLES[0]
    said = medlens.answer(phantom, sample)
    assert said == sample.answer
    full = forward(phantom, sample, str(said))
    logprobs = full.logits.log_softmax(-1)
    at = full.tokens.where("answer")
    for k, place in enumerate(at):
        assert abs(float(logprobs[place - 1, full.tokens.ids[place]]) - said.logprobs[k]) < 1e-4
    assert len(medlens.answer(phantom, sample, max_new_tokens=1).ids) == 1


def test_images_in_memory_of_any_kind(phantom):
    grey = Image.fromarray(np.full((50, 80), 7, np.uint8))
    assert medlens.answer(phantom, medlens.Sample(image=grey, question="which modality is this ?"))
