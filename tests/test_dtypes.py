"""Half precision: loads, passes its self-test, and is the float32 model to rounding; packed or one by one."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from PIL import Image

import medlens
import tiny
from medlens.errors import BadModel
from medlens.models.selftest import TOLERANCE
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, walk

GOLDEN = Path(__file__).parent / "golden" / "llava_med"
CHECKPOINT, CLIP = GOLDEN / "seed0" / "checkpoint", GOLDEN / "seed0" / "clip"
SAMPLE = medlens.Sample(GOLDEN / "images" / "wide_rgb.png", "What is shown in this image?")
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module", params=HALVES)
def half(request):
    return request.param, medlens.load(CHECKPOINT, vision_tower=CLIP, dtype=request.param)


@pytest.fixture(scope="module")
def whole():
    return medlens.load(CHECKPOINT, vision_tower=CLIP)


def relative(a, b):
    return float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp_min(1))


def test_the_original_layout_in_half(half, whole):
    name, model = half
    assert {p.dtype for p in model.module.parameters()} == {HALVES[name]} == {model.dtype}
    assert 0 <= model.checks["logits"] <= TOLERANCE[model.dtype]
    assert model.checks["image_effect"] > 0
    ours, exact = medlens.forward(model, SAMPLE), medlens.forward(whole, SAMPLE)
    assert ours.tokens.ids == exact.tokens.ids
    for a, b in zip(ours.hidden_states, exact.hidden_states, strict=True):
        assert a.dtype == HALVES[name]
        assert relative(a, b) < 2 * TOLERANCE[model.dtype]
    assert 0 < relative(ours.logits, exact.logits) < 2 * TOLERANCE[model.dtype]


def test_answers_in_half(half):
    _, model = half
    said = medlens.answer(model, SAMPLE, max_new_tokens=3)
    assert len(said.ids) <= 3
    assert all(p <= 0 for p in said.logprobs)


def test_the_self_test_still_finds_faults_in_half(half):
    """Negative control: its wider tolerance is not wide enough for this."""
    _, model = half
    module = deepcopy(model.module)

    def scale(_module, _inputs, output):
        output.logits = 0.8 * output.logits
        return output

    module.register_forward_hook(scale)
    with pytest.raises(BadModel, match="failed its self-test: logits"):
        medlens.load(module, model.processor)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_families_in_half(family, dtype):
    module, processor = tiny.build(family)
    model = medlens.load(module.to(HALVES[dtype]), processor)
    picture = Image.radial_gradient("L").convert("RGB").resize((80, 56))
    samples = [medlens.Sample(picture, q, id=q, image_id="one") for q in ("is there a lesion?", "a lesion")]
    ends = {}

    class Keep:
        def visit(self, block, case, before, after): ...
        def leave(self, block): ...
        def finish(self, case, raw, normed):
            for k, prompt in enumerate(case.prompts):
                ends[prompt.sample.id] = normed[case.pack.rows(k)]

    walk(model, cases(model, [prepare(model, sample) for sample in samples]), [Keep()])
    for sample in samples:
        assert relative(ends[sample.id], medlens.forward(model, sample).hidden_states[-1]) < 5 * TOLERANCE[model.dtype]
