"""Attention knockout and flow curves: against plain transformers, and on models that see nothing or know nothing."""

import copy
import math
import re

import jinja2
import polars as pl
import pytest
import torch
from PIL import Image

import medlens
import tiny
from medlens import hooks, store
from medlens._flow import flow, log_probability, one_of_each, width_of, windows
from medlens.errors import BadInput, BadModel
from medlens.report.charts import as_svg
from medlens.report.flow import flow_chart, flow_section, reads_image, said_of
from medlens.walk import knockout
from medlens.walk.again import Again, unchanged
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare
from medlens.walk.knockout import PATHS, Knockout, predicting

CHARTS = True  # are drawn
READS = "image to all"


def prompts_of(model, n=6, seed=3, answers=False):
    """Questions, two or more on an image."""
    asked = medlens.phantom.samples(n, seed, ("presence", "type", "side"))
    return [prepare(model, sample, sample.answer if answers else None) for sample in asked]


@pytest.fixture(scope="module")
def prompts(phantom):
    return prompts_of(phantom)


def logits_with(model, laid, folder, changed=unchanged, begin=0):
    """Of each case (T, V), its blocks called as `changed` says."""
    again, found = Again(model, laid, folder), []
    again.walk(lambda case, normed: found.append(normed), begin, changed=changed)
    with torch.no_grad():
        return [model.unembed(normed) for normed in found]


def with_image_keys_masked(model, prompt):
    """Plain transformers: the same ids and positions, and a padding mask over the image."""
    seen = torch.tensor([[group != "image" for group in prompt.tokens.groups]])
    called = arguments(model, cases(model, [prompt])[0])
    called |= {"attention_mask": seen.long(), "position_ids": torch.arange(len(prompt.tokens))[None]}
    with hooks.attention(model.module, "eager"), torch.no_grad():
        return model.module(**called, use_cache=False).logits[0]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_all_ways_blocked_is_the_image_keys_masked_everywhere(phantom, prompts, tmp_path, implementation):
    laid = cases(phantom, prompts)
    assert any(len(case.prompts) > 1 for case in laid)
    with hooks.attention(phantom.module, implementation):
        found = logits_with(phantom, laid, tmp_path, Knockout(phantom, (READS,), range(phantom.depth)))
    for case, logits in zip(laid, found, strict=True):
        for k, prompt in enumerate(case.prompts):
            own = [i for i, group in enumerate(prompt.tokens.groups) if group != "image"]
            expected = with_image_keys_masked(phantom, prompt)[own]
            torch.testing.assert_close(logits[case.pack.rows(k)][own], expected, atol=2e-5, rtol=1e-5)


def test_the_template_carries_the_image_on_where_it_is_forgotten(phantom, prompts, tmp_path):
    case = cases(phantom, prompts[:1])[0]
    place = predicting(case, 0)[0]
    expected = with_image_keys_masked(phantom, prompts[0])[place]
    forgotten = Knockout(phantom, ("image to question", "image to last"), range(phantom.depth))
    (logits,) = logits_with(phantom, [case], tmp_path, forgotten)
    assert (logits[place] - expected).abs().max() > 0.01


@pytest.mark.parametrize("window", [None, 40])
def test_a_sliding_window_is_kept(tiny_llava, tmp_path, window):
    model = tiny_llava(sliding_window=window)
    laid = cases(model, prompts_of(model))
    found = logits_with(model, laid, tmp_path, Knockout(model, (READS,), range(model.depth)))
    for case, logits in zip(laid, found, strict=True):
        for k, prompt in enumerate(case.prompts):
            at, own = case.pack.rows(k), len(prompt.tokens) - 1
            torch.testing.assert_close(logits[at[own]], with_image_keys_masked(model, prompt)[own], atol=2e-5, rtol=1e-5)


FAMILIES = [(family, 64) for family in ("gemma3", "idefics3", "llava_next")] + [("gemma3", 5), ("paligemma", None)]


@pytest.mark.parametrize(("family", "window"), FAMILIES)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # paligemma's own processor
def test_in_every_family(family, window, tmp_path):
    """Masks by kind, tokens that see each other both ways, questions that cannot be packed."""
    model = medlens.load(*tiny.build(family, **({} if window is None else {"sliding_window": window})))
    picture = Image.radial_gradient("L").convert("RGB").resize((80, 56))
    asked = [
        medlens.Sample(picture, q, id=q, image_id="one") for q in ("is there a lesion on the image?", "which modality is this?")
    ]
    laid = cases(model, [prepare(model, sample) for sample in asked])
    found = logits_with(model, laid, tmp_path, Knockout(model, (READS,), range(model.depth)))
    for case, logits in zip(laid, found, strict=True):
        for k, prompt in enumerate(case.prompts):
            last = predicting(case, k)[-1]
            torch.testing.assert_close(logits[last], with_image_keys_masked(model, prompt)[-1], atol=2e-5, rtol=1e-5)


def test_streamed_is_resident(phantom, prompts, tmp_path):
    streamed = medlens.load("phantom", memory="100kB")
    assert streamed.weights is not None
    with_paths = {"paths": (READS,), "width": 1}
    ours = flow(phantom, prompts[:4], tmp_path / "resident", **with_paths)
    assert flow(streamed, prompts[:4], tmp_path / "streamed", **with_paths) == ours


def test_only_the_blocks_of_the_window_are_changed(phantom, prompts, tmp_path):
    """Against a hook on the blocks, one prompt at a time."""
    laid = cases(phantom, prompts[:3])
    with hooks.attention(phantom.module, "eager"):
        found = logits_with(phantom, laid, tmp_path, Knockout(phantom, ("image to last",), range(2, 4)), begin=2)
    for case, logits in zip(laid, found, strict=True):
        for k, prompt in enumerate(case.prompts):
            last = len(prompt.tokens) - 1
            expected = hooked(phantom, prompt, range(2, 4), [(last, i) for i in prompt.tokens.where("image")])
            torch.testing.assert_close(logits[case.pack.rows(k)[last]], expected[last], atol=2e-5, rtol=1e-5)


def hooked(model, prompt, blocks, pairs):
    def blocked(_module, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        for row, column in pairs:
            mask[..., row, column] = torch.finfo(mask.dtype).min
        return args, kwargs | {"attention_mask": mask}

    handles = [model.blocks[b].register_forward_pre_hook(blocked, with_kwargs=True) for b in blocks]
    try:
        with hooks.attention(model.module, "eager"), torch.no_grad():
            return model.module(**arguments(model, cases(model, [prompt])[0]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def test_blocked_weights_are_looked_at(phantom, prompts, tmp_path, monkeypatch):
    again = Again(phantom, cases(phantom, prompts[:2]), tmp_path)
    for path in PATHS:
        Knockout(phantom, (path,), range(2)).verify(again, 0)
    monkeypatch.setattr(knockout, "_blocked", lambda model, case, mask, cut: _blocked(model, case, mask, cut & False))
    with pytest.raises(BadModel, match="block 0 still attends along image to last"):
        Knockout(phantom, ("image to last",), range(2)).verify(again, 0)


_blocked = knockout._blocked


def test_nothing_is_left_behind_by_a_walk_that_failed(phantom, prompts, tmp_path):
    laid = cases(phantom, prompts[:2])
    again, weights, hooked_before = Again(phantom, laid, tmp_path), copy.deepcopy(phantom.module.state_dict()), hooks_of(phantom)

    def kept():
        found = []
        again.walk(lambda case, normed: found.append(normed), 0)
        return found

    before = kept()
    with pytest.raises(ZeroDivisionError):
        again.walk(lambda case, normed: 1 / 0, 0, changed=Knockout(phantom, (READS,), range(8)))
    assert all(torch.equal(*pair) for pair in zip(before, kept(), strict=True))
    assert all(torch.equal(weight, weights[name]) for name, weight in phantom.module.state_dict().items())
    assert hooks_of(phantom) == hooked_before


def hooks_of(model):
    return [[*module._forward_pre_hooks, *module._forward_hooks] for module in model.module.modules()]


def test_what_cannot_be_blocked(phantom, prompts, tmp_path):
    case = cases(phantom, prompts[:1])[0]
    with pytest.raises(BadInput, match=r"attention can be blocked along image to question, .*; got 'image to moon'"):
        Knockout(phantom, ("image to moon",), range(8)).cut(case)
    blind = cases(phantom, [prepare(phantom, medlens.Sample(images=(), question="is there a lesion ?", id="blind"))])[0]
    with pytest.raises(BadInput, match=r"sample blind.*nothing to block on the path image to last"):
        Knockout(phantom, ("image to last",), range(8)).cut(blind)
    with pytest.raises(BadInput, match="a window holds 1 to 8 blocks of this model; got 9"):
        flow(phantom, prompts, tmp_path / "1", width=9)
    with pytest.raises(BadInput, match="give two or more images"):
        flow(phantom, prompts[:1], tmp_path / "2")


# ---- flow


SHOWN = (READS, "image to template")


def flowing(name, folder, paths=(READS,), images=26):
    """One question on each of so many images, with its true answer."""
    model = medlens.load(name)
    return flow(model, prompts_of(model, 6 * images, answers=True)[::6], folder, paths=paths)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return flowing("phantom", tmp_path_factory.mktemp("flow") / "states", SHOWN)


def everywhere(rows, path=READS):
    (row,) = (r for r in rows if r["path"] == path and (r["begin"], r["end"]) == (0, 8))
    return row


def test_the_phantom_reads_its_image(rows):
    assert reads_image(rows)
    assert everywhere(rows)["high"] < -3
    assert everywhere(rows)["relative_value"] < -0.3
    assert everywhere(rows)["own_high"] < -3
    assert abs(everywhere(rows, "image to template")["value"]) < 1
    table = pl.DataFrame(rows, schema=store.TABLES["flow"])
    assert table.height == len(SHOWN) * (9 + 1)
    assert table.filter(pl.col("low") > pl.col("value")).is_empty()


@pytest.mark.parametrize("name", ["phantom:textonly", "phantom:random"])
def test_nothing_is_read_where_there_is_nothing(name, tmp_path):
    found = flowing(name, tmp_path / "states", images=12)
    assert reads_image(found) == []
    if name == "phantom:textonly":
        assert all(abs(row["own_value"]) < 1e-3 for row in found)
        assert any(abs(row["value"]) > 0.02 for row in found)  # blocking disturbs it all the same


def test_a_row_is_what_transformers_says_prompt_by_prompt(tmp_path):
    model = medlens.load("phantom")
    prompts = prompts_of(model, 4)
    found = flow(model, prompts, tmp_path / "states", paths=["image to last"], width=3)
    (row,) = (r for r in found if (r["begin"], r["end"]) == (3, 6))
    changes, shares = [], []
    for prompt in prompts:
        last = len(prompt.tokens) - 1
        plain = hooked(model, prompt, [], [])[last].double().softmax(-1)
        blocked = hooked(model, prompt, range(3, 6), [(last, i) for i in prompt.tokens.where("image")])[last].double().softmax(-1)
        word = int(plain.argmax())
        p, q = (float(of[word]) for of in (plain, blocked))
        rest = [float(torch.cat([of[:word], of[word + 1 :]]).sum()) for of in (plain, blocked)]
        changes.append(torch.tensor(q / rest[1]).log() - torch.tensor(p / rest[0]).log())
        shares.append(q / p - 1)
    assert row["value"] == pytest.approx(float(sum(changes)) / len(changes), abs=2e-4)
    assert row["relative_value"] == pytest.approx(sum(shares) / len(shares), abs=1e-5)


def test_the_log_probability_of_a_sure_answer_has_digits():
    logits = torch.tensor([[2.0, 1.0, 0.0], [90.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert log_probability(logits, [0]) == pytest.approx(float(logits[0].log_softmax(0)[0]))
    assert log_probability(logits, [1, 0]) == pytest.approx(float(logits[0].log_softmax(0)[1]))
    assert log_probability(logits[1:], [0]) == pytest.approx(-2 * math.exp(-90), rel=1e-12)


def test_one_question_is_taken_of_each_image(prompts):
    found = one_of_each(prompts)
    assert [p.image for p in found] == list(dict.fromkeys(p.image for p in prompts))
    assert one_of_each(prompts, 1) == prompts[:1]


def test_every_block_lies_in_as_many_windows():
    for depth, width in ((8, 2), (5, 3), (4, 4), (3, 1)):
        found = windows(depth, width)
        assert [sum(b in window for window in found) for b in range(depth)] == [width] * depth
    assert (width_of(1), width_of(8), width_of(32)) == (1, 2, 4)


def test_a_block_reads_where_every_window_with_it_is_hurt():
    def row(begin, end, most, path=READS):
        return {"path": path, "begin": begin, "end": end, "own_most": most}

    hurt = [row(0, 1, 0.1), row(0, 2, -0.5), row(1, 3, -0.3), row(2, 4, -0.05), row(3, 4, None), row(0, 4, -3.0)]
    assert reads_image(hurt) == [1]
    assert reads_image(hurt, 0.01) == [1, 2]
    assert reads_image([r | {"path": "image to last"} for r in hurt]) == []
    assert reads_image([]) == []


def test_it_is_drawn_and_said(rows):
    table = pl.DataFrame(rows, schema=store.TABLES["flow"])
    texts = re.findall(r">([^<>]+)</text>", as_svg(flow_chart(table)))
    assert [texts.count(path) for path in SHOWN] == [2, 2]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medlens.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = "{:.3g}".format
    page = environment.get_template("flow.html.j2").render(flow=flow_section(table))
    assert page.count("<svg") == 2
    assert said_of(reads_image(rows)) in page
    assert f"<td>{everywhere(rows)['value']:.3g}</td>" in page
    assert said_of([]) == "Of no single block is it sure that the image is read there."
    assert said_of([3]) == "The image is read in block 3."
    assert said_of([0, 1, 4, 6, 7]) == "The image is read in blocks 0 to 1, 4, 6 to 7."
