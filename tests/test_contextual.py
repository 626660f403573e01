"""Contextualisation: against brute force and numpy, known answers, what merges, and what chance gives."""

import itertools
import math

import numpy as np
import pytest
import torch

import medlens
from medlens._instruments import instruments_for
from medlens._prepare import _gather
from medlens.data import open_image
from medlens.data.grouping import distinct
from medlens.errors import BadInput, NotFinite
from medlens.instruments.contextualization import Contextualization
from medlens.plan import Plan
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, steps
from medlens.walk.layout import Layout, layout_of
from medlens.walk.room import Room
from medlens.walk.shares import shares


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def oracle_self(v):
    """Ethayarajh 2019, definition 1: over all pairs of contexts."""
    return np.mean([cosine(a, b) for a, b in itertools.combinations(v, 2)])


def oracle_intra(x, sample):
    """Definition 2: of each sentence, words with the sentence's mean; over sentences."""
    found = []
    for name in dict.fromkeys(sample):
        rows = x[[s == name for s in sample]]
        found.append(np.mean([cosine(row, rows.mean(0)) for row in rows]))
    return np.mean(found)


def oracle_mev(v):
    """Definition 3: from the singular values."""
    squares = np.linalg.svd(v, compute_uv=False) ** 2
    return squares[0] / squares.sum()


def random_rows(n, d, seed=0, mean=1.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


@pytest.mark.parametrize(("n", "d"), [(2, 5), (7, 5), (30, 12), (12, 30)])
@pytest.mark.parametrize("mean", [0.0, 1.0, 3e5])
def test_measures_are_what_the_paper_says(n, d, mean):
    v = random_rows(n, d, n, mean)
    sample = [k % 3 for k in range(n)]
    assert medlens.self_similarity(v) == pytest.approx(oracle_self(v.numpy()), abs=1e-9)
    assert medlens.intra_similarity(v, sample) == pytest.approx(oracle_intra(v.numpy(), sample), abs=1e-9)
    assert medlens.mev(v) == pytest.approx(oracle_mev(v.numpy()), abs=1e-9)
    if n > 2:
        centred = v.numpy() - v.numpy().mean(0)
        assert medlens.mev_centred(v) == pytest.approx(oracle_mev(centred - centred.mean(0)), abs=1e-7)


def test_known_answers():
    same, orthogonal = torch.ones(4, 6), torch.eye(4, 6)
    assert medlens.self_similarity(same) == pytest.approx(1)
    assert medlens.self_similarity(orthogonal) == pytest.approx(0)
    assert medlens.intra_similarity(same) == pytest.approx(1)
    assert medlens.intra_similarity(orthogonal) == pytest.approx(0.5)  # of each with the mean of four
    assert medlens.mev(same) == pytest.approx(1)
    assert medlens.mev(orthogonal) == pytest.approx(1 / 4)
    assert medlens.mev_centred(orthogonal) == pytest.approx(1 / 3)


def test_centred_is_another_number():
    """A common direction makes one, and not the other."""
    v = random_rows(40, 20, mean=10.0)
    assert medlens.mev(v) > 0.9
    assert medlens.mev_centred(v) < 0.3


def test_each_sample_counts_once():
    many, one = torch.ones(100, 3), torch.eye(2, 3)
    both, sample = torch.cat([many, one]), [0] * 100 + [1] * 2
    assert medlens.intra_similarity(both, sample) == pytest.approx((1 + math.sqrt(0.5)) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_float_comes_in(dtype):
    v = random_rows(9, 7).to(dtype)
    for measure in (medlens.self_similarity, medlens.intra_similarity, medlens.mev, medlens.mev_centred):
        assert float(measure(v)) == pytest.approx(float(measure(v.double())), abs=1e-12)


def test_large_rows_do_not_overflow():
    v = random_rows(5, 4)
    for measure in (medlens.self_similarity, medlens.intra_similarity, medlens.mev, medlens.mev_centred):
        assert float(measure(v * 1e200)) == pytest.approx(float(measure(v)), rel=1e-12)


def test_undefined_says_why():
    one = torch.ones(1, 3)
    assert "rows" in medlens.self_similarity(one).note
    assert "one row scores 1" in medlens.mev(one).note
    assert "two score 1" in medlens.mev_centred(torch.eye(2)).note
    assert medlens.mev(torch.zeros(3, 2)).note == "all rows are zero"
    assert medlens.mev_centred(torch.full((3, 2), 0.1)).note == "the rows do not vary"
    assert medlens.intra_similarity(torch.tensor([[1.0], [-1.0]])).note.startswith("no sample")
    assert medlens.intra_similarity(torch.zeros(0, 3)).note == "no rows"
    left = medlens.intra_similarity(torch.tensor([[1.0, 0], [-1.0, 0], [0, 2.0]]), [0, 0, 1])
    assert float(left) == pytest.approx(1)
    assert left.note == "1 samples whose mean row is zero left out"
    for found in (medlens.self_similarity(one), medlens.mev(one), medlens.mev_centred(one)):
        assert math.isnan(found)
        assert found.n == 1


def test_a_tie_is_noted():
    assert "within 10 %" in medlens.mev(torch.eye(3)).note
    assert medlens.mev(torch.diag(torch.tensor([2.0, 1.0, 1.0]))).note == ""


def test_wrong_input():
    with pytest.raises(BadInput, match="2 rows but 3 sample names"):
        medlens.intra_similarity(torch.ones(2, 2), [1, 2, 3])
    for measure in (medlens.self_similarity, medlens.intra_similarity, medlens.mev, medlens.mev_centred):
        with pytest.raises(NotFinite):
            measure(torch.tensor([[1.0, math.nan]] * 3))
        with pytest.raises(BadInput):
            measure(torch.ones(3))


# ---- the instrument

PLAN = Plan(instruments=("contextualization",), folds=3)


@pytest.fixture(scope="module")
def laid(phantom):
    """One question of 12 images, and others."""
    drawn = {s.image_id: s for s in medlens.phantom.samples(80)}
    asked = [medlens.Sample(image=s.image, question="is there a lesion ?", id=f"q{i}", image_id=i) for i, s in drawn.items()]
    return cases(phantom, [prepare(phantom, s) for s in [*asked, *medlens.phantom.samples(30)]])


def walked(phantom, laid, instruments):
    for passed in steps(phantom, laid, [instruments], lambda: None, Room()):
        (instruments.leave if passed < phantom.depth else instruments.conclude)(passed)
    return {row[1:6]: row for row in instruments.findings.rows}


def test_rows_are_the_measures_of_the_states(phantom, laid):
    found = walked(phantom, laid, instruments_for(PLAN, layout_of(laid, 3)))
    v, x, sample, image = {}, [], [], []

    class Keep:
        def visit(self, block, case, before, after):
            if block == 4:
                for branch, prompt in enumerate(case.prompts):
                    places = [p for p in case.pack.rows(branch) if case.groups[p] == "text"]
                    if prompt.sample.id.startswith("q"):
                        v[case.image] = before[places].double()
                    x.append(before[places].double())
                    sample.extend([prompt.sample.id] * len(places))
                    image.extend([case.image] * len(places))

        def leave(self, block): ...
        def finish(self, case, raw, normed): ...

    keep = Keep()
    for _ in steps(phantom, laid, [keep], lambda: None, Room()):
        pass
    there = torch.stack([rows[1] for rows in v.values()]).numpy()
    at = ("text:1:there", "all", "raw")
    assert found["self_similarity", 4, *at].value == pytest.approx(oracle_self(there), abs=1e-9)
    assert found["mev", 4, *at].value == pytest.approx(oracle_mev(there), abs=1e-9)
    assert found["mev_centred", 4, *at].value == pytest.approx(oracle_mev(there - there.mean(0)), abs=1e-7)
    rows = torch.cat(x)
    intra, base = oracle_intra(rows.numpy(), sample), medlens.mean_cosine_between(rows, image)
    assert found["intra_similarity", 4, "text", "all", "raw"].value == pytest.approx(intra, abs=1e-9)
    assert found["adjusted_intra_similarity", 4, "text", "all", "raw"].value == pytest.approx(intra - base, abs=1e-9)
    assert found["self_similarity", 0, *at].value == pytest.approx(1, abs=1e-9)  # the embedding knows no context
    assert found["self_similarity", 4, *at].low < found["self_similarity", 4, *at].value < found["self_similarity", 4, *at].high


def test_two_shares_are_one(phantom, laid):
    layout = layout_of(laid, 3)
    whole, merged = walked(phantom, laid, instruments_for(PLAN, layout)), instruments_for(PLAN, Layout(3))
    halves = [instruments_for(PLAN, layout) for _ in range(2)]
    walks = [steps(phantom, share, [g], lambda: None, Room()) for share, g in zip(shares(laid, layout, 2), halves, strict=True)]
    for passed in range(phantom.depth + 1):
        for half, walking in zip(halves, walks, strict=True):
            next(walking)
            merged.take(half.hand_over() if passed < phantom.depth else half.hand_over_last())
        (merged.leave if passed < phantom.depth else merged.conclude)(passed)
    assert len(merged.findings.rows) == len(whole)
    for row in merged.findings.rows:
        other = whole[row[1:6]]
        assert (row.n, row.note) == (other.n, other.note)
        for a, b in zip(row[6:9], other[6:9], strict=True):
            assert (a is None) == (b is None)
            assert a is None or a == pytest.approx(b, rel=1e-6, abs=1e-6, nan_ok=True)


def test_one_image_is_undefined(phantom, laid):
    found = walked(phantom, laid[:1], instruments_for(PLAN, layout_of(laid[:1], 3)))
    row = found["self_similarity", 2, "text", "all", "raw"]
    assert math.isnan(row.value)
    assert row.note.startswith("one image")


def test_random_states_are_not_contextual(laid):
    """Negative control: where nothing depends on the token, the adjusted values are about 0."""
    instrument = Contextualization(PLAN, layout_of(laid, 3))
    for k, case in enumerate(laid):
        state = random_rows(len(case.pack.ids), 64, k, mean=0.5)
        instrument.visit(0, case, state, state)
    instrument.leave(0)
    adjusted = {
        row[1:4:2]: row.value for row in instrument.findings.rows if row.measure in ("adjusted_self_similarity", "adjusted_mev")
    }
    assert all(abs(value) < 0.1 for value in adjusted.values()), adjusted


def test_the_same_picture_is_asked_once(tmp_path):
    drawn = list({s.image_id: s for s in medlens.phantom.samples(40)}.values())[:3]
    for k, s in enumerate(drawn):
        open_image(s.image, s.id).save(tmp_path / f"{k}.png")
    open_image(drawn[0].image, "0").save(tmp_path / "again.png")
    found, _, left = _gather(tmp_path, Plan(question="is there a lesion ?"))
    assert [s.id for s in found] == ["0.png", "1.png", "2.png"]
    assert left == ("again.png: same picture as 0.png",)


@pytest.mark.real
def test_real_pictures_are_asked_once(real_data):
    """No two of the 315 are the same, though five pairs share their average hash; halved copies of 20 are found, all of them."""
    samples = medlens.read(real_data / "vqa_rad" / "images", question="what ?")
    halves = [i.resize((i.width // 2, i.height // 2)) for i in (open_image(s.image, s.id) for s in samples[:20])]
    found, same = distinct([*samples, *(medlens.Sample(i, "what ?", id=f"half {k}") for k, i in enumerate(halves))])
    assert found == samples
    assert same == [f"half {k}: same picture as {s.id}" for k, s in enumerate(samples[:20])]
