"""Token occurrence of units: against plain transformers autograd over the whole graph, and against counting by hand."""

from collections import Counter
from pathlib import Path

import pytest
import torch

import medlens
from medlens import hooks
from medlens._units import QUESTION
from medlens.errors import BadInput, BadModel
from medlens.estimates.unit_words import Vocabulary
from medlens.instruments.units import CONVENTIONS, Units
from medlens.measures.units import NONE, decode, strongest, varies
from medlens.models.unembedding import Unembedding
from medlens.plan import Plan
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare
from medlens.walk.reverse import Traced, reverse
from medlens.walk.room import Room
from medlens.walk.target import EveryLogit, Target, Word
from medlens.walk.units import Names

GOLDEN = Path(__file__).parent / "golden" / "llava_med"
IMAGES = ("wide_rgb.png", "square_rgb.png", "wide_gray.png")


@pytest.fixture(scope="module")
def golden():
    return medlens.load(GOLDEN / "seed0" / "checkpoint", vision_tower=str(GOLDEN / "seed0" / "clip"))


@pytest.fixture(scope="module")
def slices():
    return medlens.phantom.samples(30, seed=1)


def golden_samples():
    return [medlens.Sample(GOLDEN / "images" / name, "What modality was used?", id=name, image_id=name) for name in IMAGES]


# ---- the oracle: the whole graph, nothing shared but the prompt's making


def asked(model, sample, protocol):
    if protocol == "published":
        return prepare(model, medlens.Sample(images=sample.images, question=QUESTION, id="x"), "The image is a")
    return prepare(model, sample)


def oracle(model, sample, block, protocol):
    """Of each image token the ten units, by autograd through transformers' own forward."""
    prompt = asked(model, sample, protocol)
    mlp = model.blocks[block].mlp
    kept = []
    if protocol == "published":
        handle = mlp.gate_proj.register_forward_hook(lambda m, i, out: kept.append(out))
    else:
        handle = mlp.down_proj.register_forward_pre_hook(lambda m, i: kept.append(i[0]))
    with torch.enable_grad():
        logits = model.module(**arguments(model, cases(model, [prompt])[0])).logits
        y = logits[0, -1].sum() if protocol == "published" else logits[0, -1].double().log_softmax(-1).max()
        (gradient,) = torch.autograd.grad(y, kept)
    handle.remove()
    product = (kept[0] * gradient)[0, prompt.tokens.where("image")].detach()
    return product, product.topk(10, dim=1).indices


def decoded(model, block, protocol):
    """The arg-max word of every unit; the phantom and LLaVA-Med have an RMSNorm, whose weight is what it stores."""
    columns = model.blocks[block].mlp.down_proj.weight.detach()
    if protocol == "sound":
        columns = model.norm.weight.detach()[:, None] * columns
    return (model.head.weight.detach() @ columns).argmax(0)


def texts_of(model):
    return model.tokenizer.convert_ids_to_tokens(list(range(len(model.head.weight))))


def counted(model, words):
    texts = model.tokenizer.convert_ids_to_tokens(words.flatten().tolist())
    marked = any("▁" in t for t in texts_of(model))
    return Counter(t for t in texts if "▁" in t or not marked)


def of_image(found, layer, image, protocol):
    rows = found.occurrence.filter((found.occurrence["layer"] == layer) & (found.occurrence["protocol"] == protocol))
    return {r["word"]: r["count"] for r in rows.to_dicts() if r["image"] == image}


@pytest.mark.parametrize("protocol", ["published", "sound"])
@pytest.mark.parametrize("which", ["phantom", "golden"])
def test_words_are_those_of_autograd_over_the_whole_model(request, which, protocol, slices):
    model = request.getfixturevalue(which)
    samples = golden_samples() if which == "golden" else slices
    layers = [1, 2] if which == "golden" else [1, 5]
    found = medlens.occurrence_of_units(model, samples, layers, protocol, images=3)
    first = {}
    for sample in samples:
        first.setdefault(sample.image_id, sample)
    for image, sample in list(first.items())[:3]:
        for layer in layers:
            _, units = oracle(model, sample, layer, protocol)
            expected = counted(model, decoded(model, layer, protocol)[units])
            assert len(expected) > 2
            assert of_image(found, layer, image, protocol) == dict(expected), (image, layer)
    other = "sound" if protocol == "published" else "published"
    _, units = oracle(model, sample, layer, other)
    assert of_image(found, layer, image, protocol) != dict(counted(model, decoded(model, layer, other)[units]))


@pytest.mark.parametrize("protocol", ["published", "sound"])
def test_products_are_those_of_autograd_too(phantom, slices, protocol):
    """The same ten units, and not only the same words; the signed products, and not their sizes."""
    prompt = asked(phantom, slices[0], protocol)
    case = cases(phantom, [prompt])[0]
    last = len(prompt.tokens) - 1
    product, units = oracle(phantom, slices[0], 4, protocol)
    word = int(medlens.forward(phantom, slices[0]).logits[-1].argmax())
    traced = []

    class Tracer(Units):
        def visit(self, block, case, target, state, gradient, inner):
            if block == 4:
                traced.extend(inner)

    tracer = Tracer(phantom, [4], CONVENTIONS[protocol])
    aim = EveryLogit(last) if protocol == "published" else Target((Word(last, word),))
    reverse(phantom, [case], [[aim]], [tracer], Room(kept_from=4))
    shown = case.where("image")
    value, gradient = traced[0].value[0][shown], traced[0].gradient[0][shown]
    ours = value * gradient
    assert float((ours - product).abs().max()) <= 1e-5 * float(product.abs().max())
    same = strongest(value, gradient)
    assert (same == units).float().mean() > 0.99
    assert not torch.equal(same, ours.abs().topk(10, dim=1).indices)


def test_every_logit_is_what_it_says(phantom, slices):
    prompt = asked(phantom, slices[0], "published")
    assert prompt.tokens.texts[-1] == "</s>"  # the template closes what was begun
    case = cases(phantom, [prompt])[0]
    values = []

    class Begin(Units):
        def begin(self, case, target, value, state, gradient):
            values.append(value)

    last = len(prompt.tokens) - 1
    reverse(phantom, [case], [[EveryLogit(last)]], [Begin(phantom, [], CONVENTIONS["published"])], Room(kept_from=8))
    with hooks.evaluation(phantom.module):
        logits = phantom.module(**arguments(phantom, case)).logits[0, -1]
    assert values[0] == pytest.approx(float(logits.sum()), rel=1e-5)
    with pytest.raises(BadInput, match=f"behind position {last + 1} of {last + 1}"):
        reverse(phantom, [case], [[EveryLogit(last + 1)]], [], Room(kept_from=8))


# ---- decode


@pytest.mark.parametrize("block", [7, 70, 1000])
def test_decode_in_blocks_is_the_argmax(phantom, golden, block):
    for model in (phantom, golden):
        columns = model.blocks[2].mlp.down_proj.weight.detach()
        unembedding = Unembedding(model, block)
        assert torch.equal(decode(columns.T, unembedding.rows()), (model.head.weight.detach() @ columns).argmax(0))
        folded = (model.head.weight.detach() @ (model.norm.weight.detach()[:, None] * columns)).argmax(0)
        assert torch.equal(decode(columns.T, unembedding.rows(folded=True)), folded)


def test_folding_knows_other_norms(phantom):
    """Gemma's RMSNorm stores its weight less 1; a LayerNorm centres as well."""

    class Gemma(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(128, generator=torch.Generator().manual_seed(1)) / 3)

        def forward(self, x):
            return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + self.weight)

    layer = torch.nn.LayerNorm(128)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(2))
    torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(3))

    class Other(medlens.Model):
        norm = None

    rows = phantom.head.weight.detach()
    for norm, expected in (
        (Gemma(), lambda n: rows * (1 + n.weight.detach())),
        (layer, lambda n: (rows * n.weight.detach()) - (rows * n.weight.detach()).mean(1, keepdim=True)),
    ):
        model = Other(phantom.name, phantom.module, phantom.processor)
        object.__setattr__(model, "norm", norm)
        found = torch.cat([r for _, r in Unembedding(model, 16).rows(folded=True)])
        assert torch.allclose(found, expected(norm), atol=1e-5)


# ---- counts, nulls, intervals


def test_null_of_all_units_is_a_count_of_them(golden):
    found = medlens.occurrence_of_units(golden, golden_samples(), [2], images=3)
    everywhere = decoded(golden, 2, "published")
    null = of_image(found, 2, None, "null: all units, published")
    assert null == dict(counted(golden, everywhere))
    assert set(null) < set(golden.tokenizer.convert_ids_to_tokens(everywhere.tolist()))  # words without the mark are left out
    by_image = [of_image(found, 2, name, "published") for name in IMAGES]
    chosen = 16 * 10  # image tokens x units
    for row in found.words.to_dicts():
        of_each = [counts.get(row["word"], 0) for counts in by_image]
        assert row["count"] == pytest.approx(sum(of_each) / 3)
        assert row["expected"] == pytest.approx(null.get(row["word"], 0) / len(everywhere) * chosen)
        spread = torch.tensor(of_each, dtype=torch.float64).std() / 3**0.5  # the jackknife of a mean is its standard error
        assert row["high"] - row["count"] == pytest.approx(4.302653 * float(spread), rel=1e-5, abs=1e-9)
    totals = sum(map(Counter, by_image), Counter())
    assert sorted((r["count"] for r in found.words.to_dicts()), reverse=True) == pytest.approx(
        [n / 3 for _, n in totals.most_common(10)]
    )
    assert all("▁" in word for word in found.occurrence["word"])


def test_shuffled_images_by_brute_force():
    """All 2 ** 4 ways to exchange two images' places; and by the generator, as many draws as are needed to see it."""
    counts = torch.tensor([[[3, 0, 2, 5], [1, 1, 0, 0]]])
    observed, as_much, total = (10 - 2) ** 2 / 2, 0, 0.0
    for way in range(16):
        swapped = sum((1 if way >> p & 1 else -1) * int(counts[0, 0, p] - counts[0, 1, p]) for p in range(4))
        total += swapped**2 / 2 / 16
        as_much += swapped**2 / 2 >= observed
    (found,) = varies(counts, seed=0, draws=4000)
    assert float(found.p) == pytest.approx(as_much / 16, abs=0.03)
    assert float(found.ratio) == pytest.approx(observed / total, rel=0.05)


def test_shuffled_images_find_what_there_is_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    nothing = torch.randint(0, 4, (200, 6, 30), generator=generator)
    p = torch.tensor([float(v.p) for v in varies(nothing, draws=199)])
    assert 0.01 <= float((p <= 0.05).float().mean()) <= 0.10
    place = nothing + 50 * torch.arange(30)  # a word that has its place: that is no matter of images
    assert [float(v.p) for v in varies(place[:20], draws=199)] == [float(v.p) for v in varies(nothing[:20], draws=199)]
    image = nothing + torch.tensor([0, 0, 0, 0, 0, 2])[None, :, None]
    assert all(float(v.p) < 0.01 for v in varies(image[:20], draws=199))
    (same,) = varies(torch.ones(1, 4, 9))
    assert float(same.p) == 1
    assert same.ratio != same.ratio
    (alone,) = varies(torch.ones(1, 1, 9))
    assert alone.p != alone.p


def test_one_picture_twice_does_not_vary(phantom, slices):
    """Negative control: two names for one image. And patients, not images, are left out together."""
    copies = [medlens.Sample(slices[0].image, "what ?", id=f"{k}", image_id=f"{k}", patient_id=f"{k // 2}") for k in range(4)]
    found = medlens.occurrence_of_units(phantom, copies, [5])
    assert found.words["p"].to_list() == [1.0] * 10
    assert found.words["ratio"].is_nan().all()
    assert found.words["high"].to_list() == found.words["count"].to_list()
    other = next(s for s in slices if s.image_id != slices[0].image_id)
    mixed = [*copies[:2], medlens.Sample(other.image, "what ?", id="o", image_id="o")]
    assert medlens.occurrence_of_units(phantom, mixed, [5]).words["p"].max() < 1
    alone = medlens.occurrence_of_units(phantom, copies, [5], images=1).words
    assert alone["low"].is_null().all()
    assert "no interval" in alone["note"][0]


def of_right_modality(model, samples, block, protocol):
    """How much more often the word of an image's modality is counted in it than in other images, over the modalities."""
    modality = {sample.image_id: sample.tags["modality"] for sample in samples}
    found = medlens.occurrence_of_units(model, samples, [block], protocol)
    differences = []
    for word in set(modality.values()):
        counts = {image: of_image(found, block, image, protocol).get(word, 0) for image in modality}
        own = [n for image, n in counts.items() if modality[image] == word]
        others = [n for image, n in counts.items() if modality[image] != word]
        differences.append(sum(own) / len(own) - sum(others) / len(others))
    return sum(differences) / len(differences)


@pytest.mark.parametrize("protocol", ["published", "sound"])
def test_words_are_of_the_image_and_a_random_model_shows_none(phantom, protocol):
    """Block 5, by the pictures of seed 1; here on others."""
    samples = medlens.phantom.samples(24, seed=2, questions=("modality",))
    trained = of_right_modality(phantom, samples, 5, protocol)
    drawn = of_right_modality(medlens.load("phantom:random"), samples, 5, protocol)
    assert trained > 5
    assert drawn < trained - 3


def test_where_no_gradient_comes_back_nothing_is_counted(phantom, slices):
    """The last block: topk of nothing but zeros would name the first ten units."""
    prompt = asked(phantom, slices[0], "published")
    case = cases(phantom, [prompt])[0]
    product, _ = oracle(phantom, slices[0], 7, "published")
    assert not product.any()
    tracer = Units(phantom, [7], CONVENTIONS["published"])
    with pytest.raises(BadModel, match="no gradient comes back to the image's tokens in block 7"):
        reverse(phantom, [case], [[EveryLogit(len(prompt.tokens) - 1)]], [tracer], Room(kept_from=7))
    half = torch.zeros(1, len(case.pack.ids), 352)
    half[0, case.where("image")[:32]] = 1
    tracer.visit(7, case, EveryLogit(0), half, half, [Traced(half, half)])
    assert (tracer.words[7, case.image] == NONE).sum() == 320
    vocabulary = Vocabulary(texts_of(phantom))
    assert vocabulary.counts(tracer.words[7, case.image]).total() == 320


def test_streamed_is_resident(golden, tmp_path):
    path, tower = GOLDEN / "seed0" / "checkpoint", str(GOLDEN / "seed0" / "clip")
    streamed = medlens.load(path, vision_tower=tower, memory=1)
    assert streamed.weights is not None
    for protocol in CONVENTIONS:
        a = medlens.occurrence_of_units(golden, golden_samples(), [1, 2], protocol)
        b = medlens.occurrence_of_units(streamed, golden_samples(), [1, 2], protocol, scratch=tmp_path)
        assert a.occurrence.equals(b.occurrence)
        assert a.words.equals(b.words)
    assert not list(tmp_path.iterdir())


# ---- a study


def test_a_published_study_has_the_tables(phantom, slices, tmp_path):
    run = medlens.study(phantom, slices, Plan(protocol="published", unit_images=2, seed=0), tmp_path / "run")
    images = list(dict.fromkeys(sample.image_id for sample in slices))[:2]
    alone = medlens.occurrence_of_units(phantom, slices, images=2)
    assert set(run.occurrence["layer"]) == {5}
    assert set(run.occurrence["protocol"]) == {"published", "sound", "null: all units, published", "null: all units, sound"}
    for image in images:
        assert of_image(run, 5, image, "published") == of_image(alone, 5, image, "published")
    assert run.unit_words.filter(run.unit_words["protocol"] == "published").equals(alone.words)
    report = run.report.read_text()
    assert 'id="units"' in report
    assert all(word in report for word in ("&lt;/s&gt;", "drawn at random"))
    assert "unit" in "".join(run.manifest["seconds"])


def test_a_study_without_them(phantom, slices, tmp_path):
    for name, plan in (("none", Plan(protocol="published", unit_images=0)), ("sound", Plan(limit=4, folds=2))):
        run = medlens.study(phantom, slices[:4], plan, tmp_path / name)
        assert run.occurrence.is_empty()
        assert run.unit_words.is_empty()
        assert 'id="units"' not in run.report.read_text()


# ---- bad input


@pytest.mark.parametrize("layers", [[8], [-1], [5, 99], [7]])
def test_layers_that_are_none(phantom, slices, layers):
    with pytest.raises(BadInput, match=rf"blocks 0 to 6 of phantom \(.*\); got {layers[-1]}$"):
        medlens.occurrence_of_units(phantom, slices, layers)


def test_other_bad_input(phantom, golden, slices):
    with pytest.raises(BadInput, match="begin at 5; name some"):
        medlens.occurrence_of_units(golden, golden_samples())
    with pytest.raises(BadInput, match="no layers"):
        medlens.occurrence_of_units(phantom, slices, [])
    with pytest.raises(BadInput, match="expected 'published' or 'sound'"):
        medlens.occurrence_of_units(phantom, slices, protocol="both")
    with pytest.raises(BadInput, match="none of 1 samples has an image"):
        medlens.occurrence_of_units(golden, [medlens.Sample(question="What are the findings?", id="t")], [1])
    with pytest.raises(BadInput, match="unit_images"):
        Plan(unit_images=-1)


def test_an_mlp_of_other_names(phantom, slices, tmp_path, monkeypatch):
    with pytest.raises(BadModel, match=r"looked for in mlp\.fc1 of a MistralDecoderLayer.*mlp\.gate_proj.*names=.*--unit-images 0"):
        medlens.occurrence_of_units(phantom, slices, [5], names=("mlp.fc1", "mlp.fc2"))
    # By another name the same part is found: that is what the names are for.
    for block in phantom.blocks:
        monkeypatch.setattr(block.mlp, "w2", block.mlp.down_proj, raising=False)
    renamed = medlens.occurrence_of_units(phantom, slices, [5], names=("mlp.gate_proj", "mlp.w2"), images=2)
    assert renamed.words.equals(medlens.occurrence_of_units(phantom, slices, [5], images=2).words)
    monkeypatch.setattr("medlens.instruments.units.Names.__new__.__defaults__", ("mlp.fc1", "mlp.fc2"))
    monkeypatch.undo()
    assert Names() == ("mlp.gate_proj", "mlp.down_proj")


def test_words_without_a_space_mark_all_count(phantom, golden):
    assert Vocabulary(texts_of(phantom)).counted == set(phantom.tokenizer.get_vocab())
    assert Vocabulary(["Ġa", "b", "cĠ"]).counted == {"Ġa", "cĠ"}
    assert Vocabulary(texts_of(golden)).counted == {t for t in golden.tokenizer.get_vocab() if "▁" in t}
