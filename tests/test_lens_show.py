"""One sample under the lens: its numbers against plain softmax, its pictures and page, and what the phantom's patches say."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import medlens
from medlens.cli import app
from medlens.errors import BadInput, BadModel, BadRun
from medlens.measures.beside import covered, more_often
from medlens.models.values import handed_on
from medlens.phantom.scanner import LESIONS, MODALITIES
from medlens.stats.intervals import jackknife
from medlens.svg import colour, plain, short
from medlens.types import Value

CHARTS = True


@pytest.fixture(scope="module")
def sample():
    return medlens.phantom.samples(40, seed=1, questions="type")[4]


@pytest.fixture(scope="module")
def reading(phantom, sample):
    return medlens.lens(phantom, sample)


# ---- the numbers


@torch.no_grad()
def shares(model, state, normed=False):
    """Of every word, for rows of a state: the whole head, the whole softmax."""
    return (model.head(state if normed else model.norm(state)).double()).softmax(-1)


def test_every_state_says_what_the_norm_and_the_head_say(phantom, sample, reading):
    passed = medlens.forward(phantom, sample, reading.answer)
    assert reading.words.height == len(passed.tokens) * 9
    for layer, state in enumerate(passed.hidden_states):
        p = shares(phantom, state, normed=layer == 8)
        lines = reading.words.filter(layer=layer).sort("position")
        best, ids = p.topk(5)
        assert lines["words"].to_list() == [phantom.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
        assert np.allclose(lines["p"].to_list(), best, atol=1e-5)
        assert np.allclose(lines["entropy"], -(p * p.log()).sum(-1), atol=1e-4)
        assert set(lines["variant"]) == {"normed" if layer == 8 else "raw"}


def test_how_the_answer_comes_about(phantom, sample, reading):
    passed = medlens.forward(phantom, sample, reading.answer)
    at = passed.tokens.where("answer")[0]
    word = passed.tokens.ids[at]
    final = shares(phantom, passed.hidden_states[-1], normed=True)[at - 1]
    for layer, line in enumerate(reading.decisions.iter_rows(named=True)):
        p = shares(phantom, passed.hidden_states[layer], normed=layer == 8)[at - 1]
        assert (line["layer"], line["word"]) == (layer, passed.tokens.texts[at])
        assert line["p"] == pytest.approx(float(p[word]), abs=1e-5)
        assert line["rank"] == 1 + int((p > p[word]).sum())
        assert line["log_odds"] == pytest.approx(float(torch.logit(p[word])), abs=1e-3)
        assert line["kl"] == pytest.approx(float((final * (final.log() - p.log())).sum()), abs=1e-4)
        for rival in reading.rivals.filter(layer=layer).iter_rows(named=True):
            assert rival["p"] == pytest.approx(float(p[phantom.tokenizer.get_vocab()[rival["word"]]]), abs=1e-5)
    assert reading.target not in set(reading.rivals["word"])


def test_tokens_are_named_by_their_group_and_patches_by_their_place(reading):
    one = reading.words.filter(layer=3)
    assert one["tokens"].to_list() == list(reading.tokens.groups)
    assert one.filter(tokens="image")["patch"].to_list() == list(range(64))
    assert one.filter(tokens="image")["token"].unique().to_list() == [""]
    assert one.filter(tokens="text")["patch"].null_count() == one.filter(tokens="text").height > 0


def test_a_streamed_model_reads_the_same(phantom, sample, reading):
    streamed = medlens.load("phantom", memory="2MiB")
    assert streamed.weights is not None
    found = medlens.lens(streamed, sample)
    for name in ("words", "decisions", "rivals"):
        assert getattr(found, name).equals(getattr(reading, name))
    assert medlens.lens(streamed, sample, of="values").words.equals(medlens.lens(phantom, sample, of="values").words)


def test_an_answer_and_a_word_of_ones_own(phantom, sample):
    found = medlens.lens(phantom, sample, answer="cyst", target="mass", layers=[6, 2, 2], words=2)
    assert (found.given, found.answer, found.target, found.states) == (True, "cyst", "mass", (2, 6))
    assert found.words["layer"].unique().to_list() == [2, 6]
    assert set(found.words["words"].list.len()) == {2}
    assert found.decisions.height == 9
    assert set(found.decisions["word"]) == {"mass"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"layers": [9]}, "states of phantom are 0 to 8; got layer 9"),
        ({"layers": [-1]}, "states of phantom are 0 to 8; got layer -1"),
        ({"layers": []}, "got layer none"),
        ({"layers": [8], "of": "values"}, "blocks of phantom are 0 to 7; got layer 8"),
        ({"of": "units"}, "states or values"),
        ({"target": "nodul"}, "no token of phantom says 'nodul' alone; nearest words: nodule"),
        ({"answer": " "}, "the answer is empty"),
        ({"words": 0}, "at least 1 word"),
    ],
)
def test_what_is_refused(phantom, sample, asked, said):
    with pytest.raises(BadInput, match=said):
        medlens.lens(phantom, sample, **asked)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_answer_is_predicted_where_the_model_began_it(sample, seed):
    """Also where its text is written with other tokens than it was said with."""
    found = medlens.lens(f"phantom:random:{seed}", sample, layers=[8])
    assert found.decisions["rank"][-1] == 1
    assert found.decisions["kl"][-1] < 1e-9
    assert found.tokens.texts[found.predicting] == "[/INST]"


# ---- values


@torch.no_grad()
@pytest.mark.parametrize("block", [0, 5])
def test_a_value_is_what_attention_gives_where_a_token_is_alone(phantom, block):
    torch.manual_seed(0)
    state, layer = torch.randn(5, phantom.width), phantom.blocks[block]
    at = torch.zeros(1, 1, dtype=torch.int64)
    found = handed_on(phantom, block, state)
    for row, expected in zip(state, found, strict=True):
        normed = layer.input_layernorm(row[None, None])
        turned = phantom.decoder.rotary_emb(normed, at)
        alone = layer.self_attn(hidden_states=normed, position_embeddings=turned, attention_mask=None)[0]
        assert torch.allclose(alone[0, 0], expected, atol=1e-6)


def test_heads_that_share_values(tiny_llava):
    model = tiny_llava()  # 4 heads, 2 of values
    torch.manual_seed(0)
    state, layer, at = torch.randn(3, model.width), model.blocks[1], torch.zeros(1, 1, dtype=torch.int64)
    with torch.no_grad():
        normed = layer.input_layernorm(state[:, None])
        turned = model.decoder.rotary_emb(normed, at)
        alone = layer.self_attn(hidden_states=normed, position_embeddings=turned, attention_mask=None)[0][:, 0]
        assert torch.allclose(handed_on(model, 1, state), alone, atol=1e-6)


def test_a_block_of_another_make(phantom, monkeypatch):
    monkeypatch.setattr(type(phantom), "blocks", property(lambda _: [torch.nn.Linear(2, 2)]))
    with pytest.raises(BadModel, match=r"block 0 has no self_attn\.v_proj"):
        handed_on(phantom, 0, torch.zeros(1, 2))


# ---- pictures and page


def test_the_page_and_its_pictures(reading, tmp_path):
    out = tmp_path / "L"
    page = reading.write(out, (2, 3))
    names = {p.name for p in out.iterdir()}
    assert names == {"index.html", "lens.json", "answer.png", "answer.svg", "tokens.png", "patch-2-3.png"} | {
        f"patches-0{b}.png" for b in range(9)
    }
    told = json.loads((out / "lens.json").read_text())
    assert told["words"] == reading.words.to_dicts()
    assert told["decisions"] == reading.decisions.to_dicts()
    html = page.read_text()
    assert "<script" not in html
    assert "default-src 'none'" in html
    assert html.count('type="radio"') == 9
    for name in names - {"index.html", "lens.json", "answer.svg"}:
        drawn = Image.open(out / name)
        assert min(drawn.size) > 500
        assert len(np.unique(drawn.convert("L"))) > 10, f"{name} is blank"


def test_an_earlier_page_is_replaced_and_nothing_else(reading, tmp_path):
    out = tmp_path / "L"
    out.mkdir()
    (out / "patches-77.png").write_bytes(b"old")
    assert reading.write(out).exists()
    assert not (out / "patches-77.png").exists()
    (out / "diary.txt").write_text("mine")
    with pytest.raises(BadRun, match=r"holds something else than a lens's page \(diary\.txt\)"):
        reading.write(out)
    assert (out / "diary.txt").read_text() == "mine"
    with pytest.raises(BadInput, match="8 rows of 8, counted from 0; got patch 8,0"):
        reading.write(tmp_path / "M", (8, 0))
    assert not (tmp_path / "M").exists()


def test_what_comes_from_outside_is_escaped(phantom, sample, tmp_path):
    bad = '<img src=x onerror=alert(1)> & "lesion" ?'
    found = medlens.lens(phantom, medlens.Sample(image=sample.image, question=bad, id="<b>id</b>"), layers=[8])
    html = found.write(tmp_path / "L").read_text()
    assert "<img" not in html
    assert "<b>id" not in html
    assert "&lt;img src=x" in html


def test_what_no_picture_can_hold_is_written_out(phantom, sample, tmp_path):
    odd = medlens.Sample(image=sample.image, question="what is \x06 the lesion \u202e ?\x00", id="\x1b[1m")
    found = medlens.lens(phantom, odd, answer="mass \x07", layers=[8])
    assert "\\x06" in found.write(tmp_path / "L").read_text()


def test_two_images_are_a_list_and_no_grid(phantom, sample, tmp_path):
    two = medlens.Sample(images=[sample.image, sample.image], question="what is the lesion ?")
    found = medlens.lens(phantom, two, layers=[4, 8])
    assert found.grid is None
    assert found.words["patch"].null_count() == found.words.height
    with pytest.raises(BadInput, match="have no row and column: 2 images were shown"):
        found.write(tmp_path / "L", (0, 0))
    html = found.write(tmp_path / "L").read_text()
    assert "2 images were shown; their tokens are 128 places in a list" in html
    assert not list((tmp_path / "L").glob("patches-*"))


def test_no_image_at_all(phantom, tmp_path):
    found = medlens.lens(phantom, medlens.Sample(question="is there a lesion on the image ?"), layers=[8])
    assert (found.grid, found.picture) == (None, None)
    assert "the model was shown no image" in found.write(tmp_path / "L").read_text().lower()


def test_the_picture_is_what_the_model_sees(reading, sample):
    assert np.array_equal(np.asarray(reading.picture), np.asarray(sample.image.convert("RGB")))


def test_words_for_a_reader():
    assert [plain(w) for w in ("▁mass", "Ġlung", "▁", "\n", "a\u202eb")] == ["mass", "lung", "' '", "\\n", "a\\u202eb"]
    assert short("pneumothorax", 40, 10) == "pneum…"
    assert (colour(0), colour(1), colour(7)) == ("#440154", "#fde725", "#fde725")


# ---- the command


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, ["lens", *args])


def test_the_command(run, tmp_path):
    done = run("phantom", "--sample", "3", "--out", "L", "--layer", "7", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["states"] == [7]
    assert (tmp_path / told["page"]).exists()


def test_an_image_of_ones_own(run, sample, tmp_path):
    sample.image.save(tmp_path / "slice.png")
    done = run("--image", "slice.png", "--question", "what is the lesion ?", "--out", "L", "--layer", "0", "--of", "values")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == "lens: L/index.html"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "give either --sample N, or --image FILE"),
        (("--sample", "1", "--image", "x.png"), "give either --sample N, or --image FILE"),
        (("--image", "x.png"), "what is asked of x.png"),
        (("--sample", "1", "--patch", "a"), "ROW,COLUMN"),
    ],
)
def test_what_the_command_refuses(run, args, said):
    done = run(*args)
    assert isinstance(done.exception, BadInput)
    assert said in str(done.exception)


def test_help_is_of_reading_and_names_the_others(run):
    done = run("--help")
    assert "--sample" in done.output
    assert "--of" in done.output


# ---- what patches say


def test_more_often_than_beside_by_hand():
    cover = [np.array([1.0, 0.5, 0.2, 0.0, 0.0]), np.array([0.0, 0.9, 0.0, 0.0, 0.0]), np.array([0.1, 0.0, 0.0, 0.0, 0.0])]
    said = [np.array([1, 0, 1, 0, 0]), np.array([1, 1, 0, 0, 0]), np.array([1, 1, 1, 1, 1])]
    value, interval = more_often(said, cover)
    assert float(value) == pytest.approx((0.5 + 0.75) / 2)
    assert value.n == 2  # the third has no patch that is covered by half
    assert interval.low < value < interval.high
    nothing, none = more_often(said[2:], cover[2:])
    assert np.isnan(nothing)
    assert none.low is None


def test_how_much_of_a_patch_is_covered():
    mask = np.zeros((4, 6), bool)
    mask[0:2, 0:3] = True
    assert covered(mask, 2, 3).tolist() == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="do not divide"):
        covered(mask, 3, 3)


def one_lesion(n, seed):
    return [s for s in medlens.phantom.samples(5 * n, seed, questions="type") if s.tags["count"] == 1][:n]


def patches_of(model, samples, of):
    """Of each sample: how much of each patch its lesion covers, and the words of each patch, by layer."""
    found = []
    for s in samples:
        lines = medlens.lens(model, s, answer=s.answer, of=of).patches
        mask = next(region for region in s.regions if region.name in LESIONS).array()
        found.append((s, covered(mask, 8, 8), {b: g["words"].to_list() for (b,), g in lines.group_by("layer")}))
    return found


def of_type(found, layer, k):
    return more_often([np.array([s.answer in w[:k] for w in said[layer]]) for s, _, said in found], [c for _, c, _ in found])


def of_modality(found, layer):
    """Of each image: how much oftener its patches say its own modality than another one."""
    each = []
    for s, _, said in found:
        share = {m: np.mean([m in words[:5] for words in said[layer]]) for m in MODALITIES}
        each.append(share.pop(s.tags["modality"]) - np.mean(list(share.values())))
    return each


def interval_of(values):
    mean = Value(float(np.mean(values)), len(values))
    return jackknife(mean, [Value(float(np.mean(np.delete(values, k)))) for k in range(len(values))])


@pytest.mark.slow
def test_patches_on_the_lesion_hand_on_its_type(phantom):
    """The layer is chosen on other images."""
    chosen, tested = (patches_of(phantom, one_lesion(n, seed), "values") for n, seed in ((60, 11), (100, 12)))
    layer = max(chosen[0][2], key=lambda b: of_type(chosen, b, 1)[0])
    value, interval = of_type(tested, layer, 1)
    assert value > 0.3
    assert interval.low > 0.3
    layer = max(chosen[0][2], key=lambda b: np.mean(of_modality(chosen, b)))
    assert interval_of(of_modality(tested, layer)).low > 0.1


@pytest.mark.slow
def test_patches_on_the_lesion_do_not_say_its_type(phantom):
    """At places of the image the model is never asked to say anything in training: the states speak, but not of what is there."""
    chosen, tested = (patches_of(phantom, one_lesion(n, seed), "states") for n, seed in ((60, 11), (60, 12)))
    layer = max(chosen[0][2], key=lambda b: of_type(chosen, b, 1)[0])
    assert of_type(tested, layer, 1)[0] < 0.05


@pytest.mark.slow
def test_patches_of_random_models_hand_on_nothing():
    """The unit is the model: to one of them each modality looks like one word or another, in all of its images."""
    kind, modality = [], []
    for seed in range(12):
        found = patches_of(medlens.load(f"phantom:random:{seed}"), one_lesion(24, 12), "values")
        kind.append(max(float(of_type(found, b, 1)[0]) for b in range(8)))
        modality.append(np.mean([np.mean(of_modality(found, b)) for b in range(8)]))
    assert max(kind) < 0.2  # even at the best layer, chosen on the very images
    low, high, _ = interval_of(modality)
    assert -0.05 < low < 0 < high < 0.05  # the sound model: 0.3
