"""Image tokens that go: as if they had been cut out of the sequence by hand; and units that never matter."""

import polars as pl
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

import bare
import medlens
import tiny
from medlens import hooks, store
from medlens.errors import BadInput
from medlens.walk.cases import cases, folds_of
from medlens.walk.forward import prepare, walk
from medlens.walk.generate import Decoding, answer_prompt, answer_together
from medlens.walk.intervene import units_scaled
from medlens.walk.silent import quietest, units_never, written_at_most
from medlens.walk.thinning import image_tokens_dropped, image_tokens_merged

AFTER = 2
ASKED = medlens.phantom.samples(24, 11, "type")


@pytest.fixture(scope="module")
def model():
    return medlens.load("phantom")


@pytest.fixture(scope="module")
def samples():
    return medlens.phantom.samples(16, seed=3)


def cut_by_hand(model, sample, keep, merge=None):
    """The states (kept, d) behind the last block of a sequence that is cut behind block AFTER, positions as they were."""
    whole = medlens.forward(model, sample)
    state = whole.hidden_states[AFTER + 1][None]
    if merge is not None:
        state = merge(state[0])[None]
    positions = torch.tensor(keep)[None]
    state = state[:, keep]
    causal = torch.full((len(keep),) * 2, torch.finfo(state.dtype).min).triu(1)[None, None]
    turned = model.decoder.rotary_emb(state, positions)
    with torch.no_grad():
        for block in model.blocks[AFTER + 1 :]:
            out = block(state, attention_mask=causal, position_ids=positions, position_embeddings=turned)
            state = out[0] if isinstance(out, tuple) else out
    return state[0]


def least(model, sample, share):
    """By hand: the image tokens that get the least attention from tokens behind the image."""
    seen = medlens.forward(model, sample)
    image = seen.tokens.where("image")
    got = {
        j: sum(float(head[i, j]) for head in seen.attentions[AFTER] for i in range(image[-1] + 1, len(seen.tokens))) for j in image
    }
    return tuple(sorted(sorted(image, key=lambda j: got[j])[: round(share * len(image))]))


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_dropped_is_cut_out(model, samples, share):
    for sample in samples[:3]:
        before = medlens.forward(model, sample)
        with image_tokens_dropped(model, AFTER, share) as gone:
            thin = medlens.forward(model, sample)
        assert gone == [least(model, sample, share)]
        keep = [i for i in range(len(thin.tokens)) if i not in gone[0]]
        assert torch.allclose(thin.raw_last[keep], cut_by_hand(model, sample, keep), atol=2e-4)
        assert (thin.raw_last - before.raw_last)[keep].abs().max() > 1e-2
        assert torch.equal(medlens.forward(model, sample).logits, before.logits)  # nothing is left behind


def test_merged_is_the_mean_of_the_most_alike(model, samples):
    sample = samples[0]

    def by_hand(state):
        new, joined = state.clone(), {k: [k] for k in image if k not in gone[0]}
        for g in gone[0]:
            joined[max(joined, key=lambda k: float(cosine_similarity(state[g], state[k], dim=0)))].append(g)
        for k, members in joined.items():
            new[k] = state[members].mean(0)
        return new

    with image_tokens_merged(model, AFTER, 0.6) as gone:
        thin = medlens.forward(model, sample)
    image = thin.tokens.where("image")
    assert gone == [least(model, sample, 0.6)]
    keep = [i for i in range(len(thin.tokens)) if i not in gone[0]]
    merged, dropped = (cut_by_hand(model, sample, keep, merge) for merge in (by_hand, None))
    assert torch.allclose(thin.raw_last[keep], merged, atol=2e-4)
    assert (merged - dropped).abs().max() > 1e-2


class Last:
    def __init__(self):
        self.states = {}

    def visit(self, block, case, before, after): ...
    def leave(self, block): ...
    def finish(self, case, raw, normed):
        for k, prompt in enumerate(case.prompts):
            self.states[prompt.sample.id] = raw[case.pack.rows(k)]


@pytest.mark.parametrize("by", ["attention", "random"])
def test_packed_generated_and_one_by_one_agree(model, samples, by):
    """Questions on one image are packed by random, and laid out one by one by attention."""
    streamed = medlens.load("phantom", memory=1)
    asked = [prepare(model, sample) for sample in [*samples[:2], *samples[-2:]]]
    assert 1 < len({prompt.image for prompt in asked}) < len(asked)
    with image_tokens_dropped(model, AFTER, 0.7, by) as gone:
        laid = cases(model, asked)
        assert (len(laid) < len(asked)) == (by == "random")
        walk(model, laid, [seen := Last()])
        assert len(gone) == len(laid)
        together = answer_together(model, asked)
        alone = [answer_prompt(model, prompt, Decoding(8)) for prompt in asked]
        for prompt in asked:
            assert torch.allclose(seen.states[prompt.sample.id], medlens.forward(model, prompt.sample).raw_last, atol=2e-4)
    with image_tokens_dropped(streamed, AFTER, 0.7, by):
        of_files = answer_together(streamed, asked)
    assert [a.ids for a in together] == [a.ids for a in alone] == [a.ids for a in of_files]
    for a, b in zip(together, alone, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    before = answer_together(model, asked)
    assert any(a.logprobs != b.logprobs for a, b in zip(together, before, strict=True))


@pytest.mark.parametrize("family", ["gemma3", "qwen2_vl"])
def test_other_families(family):
    """Masks by kind of attention, an image that sees itself both ways, positions in three dimensions."""
    if family == "gemma3":
        model = medlens.load(*tiny.build(family))
        prompt = prepare(model, medlens.Sample(Image.radial_gradient("L").convert("RGB"), "is there a lesion on the image?"))
    else:
        model, seen = bare.build(family)
        prompt = bare.prompt(model, seen, "is there a lesion on the image?")
    for by in ("attention", "random"):
        with image_tokens_dropped(model, 0, 0.5, by) as gone:
            walk(model, cases(model, [prompt]), [thin := Last()])
            together, alone = answer_together(model, [prompt], 3)[0], answer_prompt(model, prompt, Decoding(3))
        walk(model, cases(model, [prompt]), [plain := Last()])
        assert len(gone[0]) == len(prompt.tokens.where("image")) // 2
        assert len(set(gone)) == 1
        assert together.ids == alone.ids
        keep = [i for i in range(len(prompt.tokens)) if i not in gone[0]]
        (before,), (after,) = plain.states.values(), thin.states.values()
        assert (before - after)[keep[-1]].abs().max() > 1e-4
        first = prompt.tokens.where("image")[0]
        assert torch.allclose(before[:first], after[:first], atol=1e-5)  # what comes before the image is as it was


def test_all_of_them_and_none(model, samples):
    with image_tokens_dropped(model, 0, 1.0, "random") as gone:
        medlens.forward(model, samples[0])
    assert len(gone[0]) == len(medlens.forward(model, samples[0]).tokens.where("image"))
    with image_tokens_dropped(model, AFTER, 0.0):
        nothing = medlens.forward(model, samples[0])
    assert torch.allclose(nothing.logits, medlens.forward(model, samples[0]).logits, atol=1e-4)


def test_bad_input(model, samples):
    last = model.depth - 1
    for wrong, said in (
        ({"after": last}, f"blocks 0 to {last - 1} of phantom; got {last}"),
        ({"after": 1, "share": 1.5}, "from 0 to 1; got 1.5"),
        ({"after": 1, "by": "magic"}, "attention or random; got 'magic'"),
    ):
        with pytest.raises(BadInput, match=said), image_tokens_dropped(model, **wrong):
            pass
    with pytest.raises(BadInput, match="drop them"):
        image_tokens_merged(model, 1, 1)
    packed = cases(model, [prepare(model, sample) for sample in samples])
    with image_tokens_dropped(model, 1), pytest.raises(BadInput, match="chooses its own tokens"):
        walk(model, packed, [])


def test_units_by_what_they_write(model, samples):
    laid = cases(model, [prepare(model, sample) for sample in samples[:4]])
    most = written_at_most(model, laid)
    b, u = 3, 17
    down, largest = model.blocks[b].get_submodule("mlp.down_proj"), 0.0
    column = float(down.weight[:, u].detach().norm())
    for sample in samples[:4]:
        with hooks.inputs_of(down) as seen, torch.no_grad():
            states = medlens.forward(model, sample).hidden_states[b + 1]
        for activations, state in zip(seen[0][0], states, strict=True):
            largest = max(largest, abs(float(activations[u])) * column / float(state.norm()))
    assert float(most[b][u]) == pytest.approx(largest, rel=1e-4)
    never = units_never(model, laid, 0.02)
    assert never == quietest(most)[: len(never)]
    assert {(b, u) for b, of in enumerate(most) for u, x in enumerate(of.tolist()) if x <= 0.02} == set(never)
    with pytest.raises(BadInput, match="above 0; got 0"):
        units_never(model, laid, 0)


def test_a_silent_unit_is_found_and_costs_nothing(model, samples):
    """Planted: units that write nothing are found first, and taking them out changes no logit; the loudest ones do."""
    planted = [(1, 5), (6, 300)]
    laid = cases(model, [prepare(model, sample) for sample in samples[:2]])
    kept = {}
    for b, u in planted:
        weight = model.blocks[b].get_submodule("mlp.down_proj").weight
        kept[b, u] = weight[:, u].clone()
        weight.data[:, u] = 0
    try:
        order = quietest(written_at_most(model, laid))
        assert set(order[:2]) == set(planted)
        before = medlens.forward(model, samples[-1]).logits
        with units_scaled(model, order[:2], 0):
            assert torch.allclose(medlens.forward(model, samples[-1]).logits, before, atol=1e-5)
        with units_scaled(model, order[-2:], 0):
            assert not torch.allclose(medlens.forward(model, samples[-1]).logits, before, atol=1e-2)
    finally:
        for (b, u), column in kept.items():
            model.blocks[b].get_submodule("mlp.down_proj").weight.data[:, u] = column


@pytest.fixture(scope="module")
def thinned(model, tmp_path_factory):
    """One question on each of 24 images."""
    plan, out = medlens.Plan(max_new_tokens=5), tmp_path_factory.mktemp("thin") / "run"
    return medlens.thin(model, ASKED, out, plan, what=("dropped", "units"), shares=(0.0, 0.95), draws=1)


def test_the_run_says_how_many_answers_stay(thinned, model):
    table = thinned.thinned
    assert dict(table.schema) == {k: v() if isinstance(v, type) else v for k, v in store.TABLES["thinned"].items()}
    assert set(zip(table["what"], table["by"], strict=True)) == {
        ("dropped", "attention"), ("dropped", "random"), ("units", "written"), ("units", "random"),
    }  # fmt: skip
    assert set(table.filter(pl.col("share") == 0)["kept"]) == {1.0}  # nothing goes
    assert (table["low"] <= table["kept"]).all()
    assert (table["kept"] <= table["high"]).all()
    assert table["correct"].is_between(0, 1).all()
    assert table["worst"].to_list() == table["best"].to_list() == pytest.approx(table["kept"].to_list())  # of one draw
    assert thinned.manifest["thin"] == {"what": ["dropped", "units"], "shares": [0.0, 0.95], "after": 2, "draws": 1}
    page = thinned.report.read_text()
    assert "<script" not in page
    assert "What can <bdi>phantom</bdi> do without?" in page


def test_what_writes_least_can_go_and_as_many_others_cannot(thinned):
    """Of nineteen units in twenty, which go decides; and what is chosen on discovery images holds on test images."""
    row = thinned.thinned.filter(what="units", by="written", share=0.95).row(0, named=True)
    random = thinned.thinned.filter(what="units", by="random", share=0.95).row(0, named=True)
    assert row["kept"] > random["kept"] + 0.2
    assert row["over_low"] > 0
    assert row["over_random"] == pytest.approx(row["kept"] - random["kept"])


def test_the_answers_are_counted_as_by_hand(thinned, model):
    """Oracle: a loop over the test images' questions, one answer at a time."""
    asked = [prepare(model, sample) for sample in ASKED]
    fold = folds_of(cases(model, asked), 2)
    test = [prompt for prompt in asked if fold[prompt.image] == 1]
    before = [answer_prompt(model, prompt, Decoding(5)) for prompt in test]
    with image_tokens_dropped(model, 2, 0.95):
        after = [answer_prompt(model, prompt, Decoding(5)) for prompt in test]
    row = thinned.thinned.filter(what="dropped", by="attention", share=0.95).row(0, named=True)
    assert row["n"] == len(test)
    assert row["kept"] == pytest.approx(sum(str(a) == str(b) for a, b in zip(after, before, strict=True)) / len(test))
    assert row["correct"] == pytest.approx(sum(str(a) == p.sample.answer for a, p in zip(after, test, strict=True)) / len(test))


def test_a_model_that_looks_at_nothing_loses_nothing():
    """Negative control: all image tokens of a model that never looks can go, and no answer changes."""
    blind = medlens.load("phantom:textonly")
    asked = [prepare(blind, sample) for sample in ASKED]
    before = answer_together(blind, asked, 5)
    with image_tokens_dropped(blind, 0, 1.0, "random"):
        assert answer_together(blind, asked, 5) == before


def test_bad_input_to_thin(model, tmp_path):
    for wrong, said in (
        ({"what": ("blocks",)}, "among dropped, merged, units; got 'blocks'"),
        ({"shares": (1.2,)}, "from 0 to 1"),
        ({"draws": 0}, "at least once; got 0"),
    ):
        with pytest.raises(BadInput, match=said):
            medlens.thin(model, "phantom", tmp_path / "run", **wrong)
    with pytest.raises(BadInput, match="four images are needed"):
        medlens.thin(model, medlens.phantom.samples(3), tmp_path / "run")
    assert not (tmp_path / "run").exists()
