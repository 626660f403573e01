"""Protocol "published": its rows against what transformers' states give one sample at a time, its arithmetic, its figures."""

import math
import random
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

import medlens
from medlens import published
from medlens._instruments import instruments_for
from medlens.errors import BadInput
from medlens.measures.published import (
    cosine_to_mean,
    published_dimension,
    published_linearity,
    published_linearity_of_update,
    uncentred_mev,
)
from medlens.plan import Plan
from medlens.stats.numbered import Numbered
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, walk
from medlens.walk.layout import layout_of
from medlens.walk.shares import shares

PLAN = Plan(limit=66, protocol="published", seed=3)
CLOSING = 1  # tokens of the phantom's [/INST]
GROUPS = ("image", "text", "all")


# ---- oracles, from the study's description; numpy, nothing shared with the package


def dimension_oracle(x):
    x = np.asarray(x, dtype=np.float64)
    x = x - x.mean(axis=0)
    x = x / np.mean([math.sqrt(row @ row) for row in x])
    mu = []
    for i in range(len(x)):
        r1, r2 = np.sort(np.sqrt(((np.delete(x, i, axis=0) - x[i]) ** 2).sum(axis=1)))[:2]
        mu.append(-1.0 if r1 < 1e-8 else r2 / r1)
    n = len(mu)
    kept = [(i, m) for i, m in enumerate(sorted(mu), start=1) if m > 1 + 1e-8]  # i and n count the dropped ones as well
    points = [(math.log(m), -math.log(1 - i / n)) for i, m in kept[: len(kept) // 5]]
    return sum(a * b for a, b in points) / sum(a * a for a, _ in points)


def linearity_oracle(x, y):
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return 1 - np.linalg.norm(x @ np.linalg.lstsq(x, y, rcond=1e-10)[0] - y) ** 2


def cosine(a, b):
    return a @ b / math.sqrt((a @ a) * (b @ b))


def pairwise_oracle(v):
    v = np.asarray(v, dtype=np.float64)
    return np.mean([cosine(v[i], v[j]) for i in range(len(v)) for j in range(i)])


def mev_oracle(v):
    v = np.asarray(v, dtype=np.float64)
    values = np.linalg.eigvalsh(v @ v.T)
    return values[-1] / values.sum()


def intra_oracle(x):
    x = np.asarray(x, dtype=np.float64)
    return np.mean([cosine(row, x.mean(axis=0)) for row in x])


# ---- the arithmetic


def cube(n, dimension, seed=0):
    flat = np.random.default_rng(seed).random((n, dimension))
    return torch.from_numpy(flat @ np.linalg.qr(np.random.default_rng(1).standard_normal((12, dimension)))[0].T)


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_dimension_of_known_data(dimension):
    assert float(published_dimension(cube(3000, dimension))) == pytest.approx(dimension, rel=0.12)


def test_dimension_is_the_definition_with_repeats_counted():
    x = cube(300, 3)
    for rows in (x, 50 * x + 7, torch.cat([x, x[:60]])):
        assert float(published_dimension(rows)) == pytest.approx(dimension_oracle(rows), rel=1e-9)
    repeated = published_dimension(torch.cat([x, x[:60]]))
    assert int(repeated.note.split()[0]) > 120  # the repeated rows, and whoever has one and its repeat as neighbours: mu = 1
    assert repeated > 1.5 * published_dimension(x)  # counting what was dropped lifts the first points: that is the study's way
    assert not math.isclose(repeated, medlens.intrinsic_dimension(torch.cat([x, x[:60]]), 0.2), rel_tol=0.1)


@pytest.mark.parametrize(
    ("rows", "why"), [(torch.zeros(2, 3), "2 rows"), (torch.ones(9, 3), "vary"), (cube(4, 2)[[0, 0, 1, 1]], "0 ratios")]
)
def test_dimension_undefined(rows, why):
    value = published_dimension(rows)
    assert math.isnan(value)
    assert why in value.note


def test_linearity_in_sample():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 20, generator=rng), torch.randn(90, 20, generator=rng)
    assert float(published_linearity(x, y)) == pytest.approx(linearity_oracle(x, y), rel=1e-9)
    assert float(published_linearity_of_update(x, y)) == pytest.approx(linearity_oracle(x, y - x), rel=1e-9)
    twice = torch.cat([x[:15], x[:15]]), torch.cat([y[:15], y[:15]])
    assert float(published_linearity(*twice)) == pytest.approx(1.0)  # more rows than columns, and no more distinct ones
    for n in (19, 20):
        value = published_linearity(x[:n], y[:n])
        assert (float(value), value.n) == (1.0, n)
        assert value.note == f"{n} rows <= 20 columns: exactly 1 for any data; the published 0.999x is float noise"
        assert math.isnan(medlens.linearity(x[:n], y[:n]))
    assert published_linearity(x[:21], y[:21]).note == ""
    assert math.isnan(published_linearity(x, torch.ones(90, 20)))
    assert math.isnan(published_linearity_of_update(x[:9], x[:9]))


def test_contextual_arithmetic():
    v = torch.randn(12, 7, generator=torch.Generator().manual_seed(1)) + 1
    assert float(uncentred_mev(v)) == pytest.approx(mev_oracle(v), rel=1e-9)
    assert float(cosine_to_mean(v)) == pytest.approx(intra_oracle(v), rel=1e-9)
    assert math.isnan(uncentred_mev(v[:1]))
    assert math.isnan(uncentred_mev(torch.zeros(3, 2)))
    assert math.isnan(cosine_to_mean(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])))


# ---- the rows of a run, on several samples an image


@pytest.fixture(scope="module")
def prompts(phantom):
    return [prepare(phantom, sample) for sample in medlens.phantom.samples(PLAN.limit, PLAN.seed)]


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory):
    return medlens.study(phantom, "phantom", PLAN, tmp_path_factory.mktemp("published") / "run")


@pytest.fixture(scope="module")
def found(run):
    return {(r["measure"], r["tokens"], r["layer"]): r for r in run.rows.to_dicts()}


@pytest.fixture(scope="module")
def states(phantom):
    """Of every sample, one at a time: its states 0..8 (the last one normed) and its tokens."""
    out = [medlens.forward(phantom, sample) for sample in medlens.phantom.samples(PLAN.limit, PLAN.seed)]
    return [(torch.stack(o.hidden_states), o.tokens) for o in out]


def after_image(tokens):
    """The study's text: all behind the newline that follows the image."""
    return list(range(max(tokens.where("image")) + 2, len(tokens)))


def chosen_rows(states, group, layer):
    if group == "image":
        return torch.cat([s[layer][tokens.where("image")] for s, tokens in states[::3]])
    if group == "text":
        return torch.cat([s[layer][after_image(tokens)] for s, tokens in states])
    random.seed(42)
    return torch.cat([states[i][0][layer] for i in random.sample(range(len(states)), 64)])


def test_which_rows_there_are(run):
    assert set(run.rows["protocol"]) == {"published"}
    layers = {name: sorted(set(of["layer"])) for (name,), of in run.rows.group_by("measure")}
    for measure in ("linearity", "linearity_of_update"):
        assert layers.pop(measure) == list(range(7))  # never through the last block
    for measure in ("anisotropy", "intrinsic_dimension"):
        assert layers.pop(measure) == list(range(8))
    assert set(layers) == {
        "self_similarity", "intra_similarity", "mev", "baseline_cosine", "baseline_mev",
        "adjusted_self_similarity", "adjusted_intra_similarity", "adjusted_mev",
    }  # fmt: skip
    for own in layers.values():
        assert own == list(range(9))
    normed = run.rows.filter(pl.col("variant") == "normed")
    assert set(normed["layer"]) == {8}
    assert run.rows.filter(pl.col("layer") == 8).height == normed.height == 8
    assert run.answers.height == 0


def test_rows_are_counted_as_the_study_counts_them(found, states):
    assert found["anisotropy", "image", 3]["n"] == 22 * 64  # every third of 66 samples, an image as often as it was chosen
    assert found["anisotropy", "text", 3]["n"] == sum(len(tokens.where("text")) + CLOSING for _, tokens in states)
    assert found["anisotropy", "all", 3]["n"] == len(chosen_rows(states, "all", 0))
    images = {s.image_id for s in medlens.phantom.samples(PLAN.limit, PLAN.seed)[::3]}
    assert f"every third sample: 22; {64 * (22 - len(images))} rows repeat" in found["linearity", "image", 3]["note"]
    assert "64 samples drawn" in found["linearity", "all", 3]["note"]
    assert found["intrinsic_dimension", "all", 3]["n"] == 4096
    assert "the first 4096 of" in found["intrinsic_dimension", "all", 3]["note"]


@pytest.mark.parametrize("group", GROUPS)
def test_geometry_is_that_of_the_chosen_rows(found, states, group):
    for layer in (0, 3, 6):
        x, y = chosen_rows(states, group, layer), chosen_rows(states, group, layer + 1)
        assert found["linearity", group, layer]["value"] == pytest.approx(linearity_oracle(x, y), rel=1e-4)
        assert found["linearity_of_update", group, layer]["value"] == pytest.approx(linearity_oracle(x, y - x), rel=1e-4)
        top = np.linalg.svd((x - x.mean(0)).double().numpy(), compute_uv=False) ** 2
        assert found["anisotropy", group, layer]["value"] == pytest.approx(top[0] / top.sum(), rel=1e-4)


def test_it_is_not_what_the_sound_protocol_measures(found, states):
    """Negative control: the user's own words alone, or each image once, give other numbers."""
    words = torch.cat([s[3][tokens.where("text")] for s, tokens in states])
    got = found["anisotropy", "text", 3]["value"]
    assert abs(float(medlens.anisotropy(words)) - got) > 1e-3
    assert got == pytest.approx(float(medlens.anisotropy(chosen_rows(states, "text", 3))), rel=1e-4)
    once = torch.cat([s[3][tokens.where("image")] for s, tokens in states[1::3]])
    assert abs(float(medlens.anisotropy(once)) - found["anisotropy", "image", 3]["value"]) > 1e-4


def test_contextualisation_is_that_of_the_states(found, states):
    samples = medlens.phantom.samples(PLAN.limit, PLAN.seed)
    images = {}
    for k, sample in enumerate(samples):
        images.setdefault(sample.question, {}).setdefault(sample.image_id, k)
    contexts = list(max(images.values(), key=len).values())
    assert len(contexts) > 1
    for layer in (0, 4, 8):
        text = [s[layer][after_image(tokens)] for s, tokens in states]
        word = torch.stack([text[k][1] for k in contexts])
        expected = {
            "self_similarity": pairwise_oracle(word),
            "mev": mev_oracle(word),
            "intra_similarity": np.mean([intra_oracle(x) for x in text]),
        }
        for measure, value in expected.items():
            assert found[measure, "text", layer]["value"] == pytest.approx(value, rel=1e-4), (measure, layer)
            base = found["baseline_mev" if measure == "mev" else "baseline_cosine", "text", layer]["value"]
            assert found[f"adjusted_{measure}", "text", layer]["value"] == pytest.approx(value - base, rel=1e-3)
        unit = torch.nn.functional.normalize(torch.cat(text).double(), dim=1)
        everything = float((unit @ unit.T).mean())
        drawn = found["baseline_cosine", "text", layer]
        assert drawn["n"] == 64
        assert drawn["value"] == pytest.approx(everything, abs=0.12)
    assert found["self_similarity", "text", 0]["value"] == pytest.approx(1.0, abs=1e-6)  # one word, before any block
    draws = {
        round(found["baseline_cosine", "text", layer]["value"] / found["baseline_mev", "text", layer]["value"], 6)
        for layer in range(9)
    }
    assert len(draws) == 9


def test_baselines_are_drawn_by_the_seed(phantom, prompts, found):
    again = read(phantom, PLAN, prompts)
    other = read(phantom, Plan(limit=66, protocol="published", seed=4), prompts)
    key = ("baseline_cosine", "text", 4)
    assert again[key] == pytest.approx(found[key]["value"], rel=1e-5)
    assert abs(other[key] - again[key]) > 1e-4


def read(phantom, plan, prompts):
    laid = cases(phantom, prompts)
    reading = instruments_for(plan, layout_of(laid, plan.folds), prompts)
    walk(phantom, laid, [reading])
    reading.conclude(phantom.depth)
    return {(r.measure, r.tokens, r.layer): r.value for r in reading.findings.rows}


def test_shares_merge_to_the_same(phantom, prompts, found):
    laid = cases(phantom, prompts)
    layout = layout_of(laid, PLAN.folds)

    class Sender:
        def __init__(self, of):
            self.reading, self.parts = instruments_for(PLAN, layout, prompts), []
            self.visit, self.finish = self.reading.visit, self.reading.finish
            walk(phantom, of, [self])
            self.parts.append(self.reading.hand_over_last())

        def leave(self, block):
            self.parts.append(self.reading.hand_over())

    senders = [Sender(of) for of in shares(laid, layout, 2)]
    merged = instruments_for(PLAN, layout)
    for block in range(phantom.depth + 1):
        for sender in senders:
            merged.take(sender.parts[block])
        (merged.leave if block < phantom.depth else merged.conclude)(block)
    rows = {(r.measure, r.tokens, r.layer): r for r in merged.findings.rows}
    assert rows.keys() == found.keys()
    for key, row in rows.items():
        assert row.value == pytest.approx(found[key]["value"], rel=1e-5, nan_ok=True), key
        assert (row.n, row.note) == (found[key]["n"], found[key]["note"])


def test_few_samples(phantom, prompts):
    """One image and few rows: exactly 1 where any data would be, undefined where there is one context."""
    laid = cases(phantom, prompts[:4])
    reading = instruments_for(PLAN, layout_of(laid, 1), prompts[:4])
    walk(phantom, laid, [reading])
    reading.conclude(phantom.depth)
    rows = {(r.measure, r.tokens, r.layer): r for r in reading.findings.rows}
    assert rows["linearity", "text", 2].value == 1.0
    assert "exactly 1 for any data" in rows["linearity", "text", 2].note
    assert "of all 4 samples: fewer than 64" in rows["anisotropy", "all", 2].note
    assert math.isnan(rows["adjusted_mev", "text", 2].value)
    assert "no question is asked of more than 1 image" in rows["self_similarity", "text", 2].note


def test_numbered_rows():
    rows = Numbered()
    rows.update(torch.tensor([[3.0], [1.0]]), [3, 1])
    rows.update(torch.zeros(0, 1), [])
    other = Numbered()
    other.update(torch.tensor([[2.0]]), [2])
    assert Numbered.from_tensors(rows.merge(other).tensors()).rows().flatten().tolist() == [1, 2, 3]
    with pytest.raises(BadInput, match="2 rows but 1 numbers"):
        rows.update(torch.zeros(2, 1), [0])


# ---- the figures


def curve(measure, tokens):
    own = published.curves().filter(pl.col("measure") == measure, pl.col("tokens") == tokens)
    return dict(zip(own["layer"], own["value"], strict=True))


def peak(values):
    return max(values, key=values.get)


def test_published_figures_are_where_the_protocol_says():
    """Layers are ours; x is the place on the study's plots, which begin at hidden state 1."""
    update = curve("linearity_of_update", "all")
    assert list(update) == list(range(1, 31))
    assert peak(update) == 0 + 1  # the true maximum is x = 0
    assert peak({b: v for b, v in update.items() if b > 1}) == 26  # the peak "at layer 25": 26 -> 27
    assert peak(curve("intrinsic_dimension", "all")) == 24 + 1
    assert peak(curve("intrinsic_dimension", "image")) == 28 + 1
    assert list(curve("anisotropy", "text")) == list(range(1, 32))
    assert list(curve("intrinsic_dimension", "text")) == list(range(1, 31))  # state 31 could not be read
    intra = curve("intra_similarity", "text")
    assert list(intra) == list(range(33))
    assert (round(intra[31], 3), round(intra[32], 3)) == (0.666, 0.524)
    assert curve("self_similarity", "text")[0] == 0.99951
    assert curve("adjusted_mev", "text")[5] == pytest.approx(0.97308 - 0.26763)
    normed = published.curves().filter(pl.col("variant") == "normed")
    assert set(normed["layer"]) == {32}
    assert published.words().filter(pl.col("image") == "image 2", pl.col("layer") == 30)["count"][0] == 1012


def test_figures_are_drawn_for_the_studied_model_alone(run):
    assert published.for_run(run) is None
    studied = {"origin": {"layout": "llava_mistral"}, "blocks": 32, "width": 4096}
    assert published.for_run(SimpleNamespace(manifest={"model": studied})).equals(published.curves())
    for other in ({"origin": {}}, {"blocks": 8}, {"width": 128}):
        assert published.for_run(SimpleNamespace(manifest={"model": studied | other})) is None
