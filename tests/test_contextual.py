"""Contextualisation: against brute force and numpy, known answers, what merges, and what chance gives."""

import itertools
import math

import numpy as np
import pytest
import torch

import medlens
from medlens.errors import BadInput, NotFinite


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
