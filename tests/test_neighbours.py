"""Intrinsic dimension across images, at scales and without folds: against the single estimate, brute force and scikit-dimension."""

import math

import numpy as np
import pytest
import torch

import medlens
import oracles
from medlens.errors import BadInput, NotFinite
from medlens.measures import neighbours
from medlens.measures.neighbours import dimensions
from medlens.stats import RowSample

FOLDS = 5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def patches(images=20, each=12, d=6, seed=0, dtype=torch.float64):
    """Rows of one image lie about its own place; and of each the image."""
    g = generator(seed)
    image = torch.arange(images * each) % images
    x = torch.randn(images, d, generator=g, dtype=torch.float64)[image] + 0.3 * torch.randn(len(image), d, generator=g)
    return x.to(dtype), image


def sample_of(x, image, cap=10**6, folds=FOLDS):
    """Priorities in the order of the rows, so that parts are seen from outside."""
    sample = RowSample(cap)
    sample.update(x, torch.arange(len(x)), torch.stack([image, image % folds], 1))
    return sample


def cube(n, dimension, width=256, seed=0):
    g = generator(seed)
    turn = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64))[0][:dimension]
    return torch.rand(n, dimension, generator=g, dtype=torch.float64) @ turn + 3


def between_by_hand(x, image, keep=0.9):
    """TwoNN with each row's distances to the rows of other images, one by one."""
    x, image, ratios = np.asarray(x, dtype=np.float64), np.asarray(image), []
    for i in range(len(x)):
        r1, r2 = np.sort(np.sqrt(((x[image != image[i]] - x[i]) ** 2).sum(1)))[:2]
        if r1 > 0:
            ratios.append(r2 / r1)
    log_mu, n = np.log(np.sort(ratios)), len(ratios)
    log_mu = log_mu[: math.floor(keep * n)]
    return log_mu @ -np.log(1 - np.arange(1, len(log_mu) + 1) / n) / (log_mu @ log_mu)


@pytest.mark.parametrize("keep", [0.2, 0.9])
@pytest.mark.parametrize(("images", "each", "d"), [(20, 12, 6), (2, 40, 3), (130, 10, 12)])
def test_between_is_brute_force(images, each, d, keep):
    x, image = patches(images, each, d)
    got = medlens.intrinsic_dimension_between(x, image, keep)
    assert got == pytest.approx(between_by_hand(x, image, keep), rel=1e-9)
    assert got.n == len(x)
    assert medlens.intrinsic_dimension_between(x, [f"image {k}" for k in image.tolist()], keep) == got
    assert got != pytest.approx(medlens.intrinsic_dimension(x, keep), rel=0.02)  # neighbours of one image are others


def test_between_is_the_whole_where_every_row_is_an_image():
    x, _ = patches()
    assert medlens.intrinsic_dimension_between(x, range(len(x))) == medlens.intrinsic_dimension(x)


def test_between_does_not_see_the_shape_of_an_image():
    # Each image is a thread of one dimension; the threads begin anywhere in a cube of three.
    g = generator(1)
    image = torch.arange(3000) % 100
    x = torch.rand(100, 3, generator=g)[image] + 0.002 * torch.rand(3000, 1, generator=g) * torch.tensor([1.0, 0, 0])
    assert medlens.intrinsic_dimension(x) == pytest.approx(1, abs=0.1)
    once = x[:100]  # one row of each
    assert medlens.intrinsic_dimension_between(once, range(100)) == pytest.approx(3, abs=0.8)


def test_rows_with_one_neighbour_are_left_out_and_counted():
    x, _ = patches(2, 20)
    image = torch.tensor([0] * 39 + [1])
    value = medlens.intrinsic_dimension_between(x, image)
    assert math.isnan(value)  # one row with 39 others, and 39 with one
    image = torch.tensor([0] * 30 + [1] * 9 + [2])
    value = medlens.intrinsic_dimension_between(x, image)
    assert math.isfinite(value)
    assert value.n == 40
    for image in ([0] * 40, torch.zeros(40, dtype=torch.int64)):
        value = medlens.intrinsic_dimension_between(x, image)
        assert math.isnan(value)
        assert "two images" in value.note


def test_between_drops_and_counts_duplicates_in_other_images():
    x, image = patches()
    x[1] = x[0]
    x[40] = x[20]  # of the same image: no neighbours, so no duplicates
    value = medlens.intrinsic_dimension_between(x, image)
    assert (value.n, value.note) == (238, "2 duplicate rows dropped")
    assert value == pytest.approx(between_by_hand(x, image), rel=1e-9)
    x[2] = x[3] + 1e-7
    assert medlens.intrinsic_dimension_between(x, image, resolution=1e-5).n == 236
    assert medlens.intrinsic_dimension_between(x, image).n == 238


def test_refusals():
    x, image = patches()
    with pytest.raises(BadInput, match="image names"):
        medlens.intrinsic_dimension_between(x, image[1:])
    for keep in (0, 1):
        with pytest.raises(BadInput, match="keep"):
            medlens.intrinsic_dimension_between(x, image, keep)
        with pytest.raises(BadInput, match="keep"):
            dimensions(sample_of(x, image), keep)
    x[3, 3] = math.nan
    with pytest.raises(NotFinite):
        medlens.intrinsic_dimension_between(x, image)
    with pytest.raises(NotFinite):
        dimensions(sample_of(x, image))


# All from one pass.


def everything_by_itself(x, image, keep, resolution):
    """Every number of `dimensions`, each from its own rows alone."""
    fold, n = image % FOLDS, len(x)
    single, between = medlens.intrinsic_dimension, medlens.intrinsic_dimension_between
    found = {"whole": single(x, keep, resolution), "between": between(x, image, keep, resolution)}
    for f in fold.unique().tolist():
        rest = fold != f
        found["whole", f] = single(x[rest], keep, resolution)
        found["between", f] = between(x[rest], image[rest], keep, resolution)
    for name, k in (("half", 2), ("quarter", 4), ("eighth", 8)):
        parts = [single(x[n * i // k : n * (i + 1) // k], keep, resolution) for i in range(k)]
        found[name] = sum(parts) / k
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("images", "each", "d"), [(20, 12, 6), (33, 9, 3), (40, 61, 5), (7, 23, 40)])
@pytest.mark.parametrize(("keep", "resolution"), [(0.9, 0.0), (0.3, 1e-5), (0.9, 3e-2)])
def test_dimensions_are_those_of_the_rows_themselves(images, each, d, dtype, keep, resolution):
    x, image = patches(images, each, d, dtype=dtype)
    x[5:60:11] = x[4:59:11]  # duplicates, in other images
    got, want = dimensions(sample_of(x, image), keep, resolution), everything_by_itself(x, image, keep, resolution)
    for name in got._fields:
        assert getattr(got, name).value == pytest.approx(want[name], rel=1e-9, nan_ok=True), name
    for name in ("whole", "between"):
        assert getattr(got, name).value.n == want[name].n
        assert getattr(got, name).value.note == want[name].note
        without = getattr(got, name).without
        assert list(without) == list(range(FOLDS))
        for f, value in without.items():
            assert value == pytest.approx(want[name, f], rel=1e-9), (name, f)
            assert (value.n, value.note) == (want[name, f].n, want[name, f].note)
    assert not any(getattr(got, name).without for name in ("half", "quarter", "eighth"))


def test_it_matters_what_is_left_out():
    # The harness above would not see values that were all the same.
    x, image = patches()
    got = dimensions(sample_of(x, image))
    numbers = [*got.whole.without.values(), *got.between.without.values(), *(estimate.value for estimate in got)]
    assert len({round(float(value), 6) for value in numbers}) == len(numbers)


def test_chunks_do_not_matter(monkeypatch):
    x, image = patches(40, 30)
    want = dimensions(sample_of(x, image))
    monkeypatch.setattr(neighbours, "CHUNK", 37)
    for got, whole in zip(dimensions(sample_of(x, image)), want, strict=True):
        assert got.value == pytest.approx(whole.value, rel=1e-9)
        assert got.without == pytest.approx(whole.without, rel=1e-9)


@pytest.mark.parametrize("keep", [0.25, 0.75])  # exact in binary: theirs takes 1 - (1 - keep)
def test_dimensions_agree_with_scikit_dimension(keep):
    skdim = pytest.importorskip("skdim")
    x, image = patches(50, 20, 8)

    def theirs(rows):
        return skdim.id.TwoNN(discard_fraction=1 - keep).fit(rows.numpy()).dimension_

    got = dimensions(sample_of(x, image), keep)
    assert got.whole.value == pytest.approx(theirs(x), rel=1e-6)
    for f, value in got.whole.without.items():
        assert value == pytest.approx(theirs(x[image % FOLDS != f]), rel=1e-6)
    assert got.quarter.value == pytest.approx(np.mean([theirs(part) for part in x.split(250)]), rel=1e-6)


def test_a_sample_of_many_rows_says_so():
    x, image = patches()
    got = dimensions(sample_of(x, image, cap=200))
    assert got.whole.value == medlens.measures.neighbours.intrinsic_dimension_from_sums(sample_of(x, image, cap=200))
    assert all("200 of 240 rows" in estimate.value.note for estimate in got)
    assert got.eighth.value.n == 25


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 20])
def test_few_rows(n):
    x, image = patches()
    got = dimensions(sample_of(x[:n], image[:n]) if n else RowSample(5))
    assert math.isnan(got.eighth.value)
    assert got.eighth.value.note
    if n < 3:
        assert all(math.isnan(estimate.value) and estimate.value.note for estimate in got)
    if n == 20:
        assert got.whole.value == pytest.approx(oracles.intrinsic_dimension(x[:20]), rel=1e-9)


def test_one_image_and_one_fold():
    x, _ = patches()
    got = dimensions(sample_of(x, torch.zeros(240, dtype=torch.int64)))
    assert math.isfinite(got.whole.value)
    assert "two images" in got.between.value.note
    assert math.isnan(got.whole.without[0])  # nothing is left
    got = dimensions(sample_of(x, torch.arange(240) % 2, folds=2))
    assert all("two images" in value.note for value in got.between.without.values())


# Known answers: cubes in 256 columns.


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_a_cube_of_few_dimensions(dimension):
    x = cube(4000, dimension)
    got = dimensions(sample_of(x, torch.arange(4000)))
    for estimate in got[:3]:
        assert estimate.value == pytest.approx(dimension, rel=0.1)
    assert max(e.value for e in got) < 1.15 * min(e.value for e in got)  # a plateau
    for value in got.whole.without.values():
        assert value == pytest.approx(dimension, rel=0.12)  # of a fifth fewer rows


@pytest.mark.parametrize(("dimension", "said"), [(10, 8.8), (20, 15.4)])
def test_a_cube_of_many_dimensions_is_too_low_as_said(dimension, said):
    value = dimensions(sample_of(cube(4000, dimension), torch.arange(4000))).whole.value
    assert value == pytest.approx(said, rel=0.08)
    assert value < 0.95 * dimension
    assert f"{dimension} -> {said}" in medlens.intrinsic_dimension.__doc__


def test_noise_has_no_plateau():
    # A line with noise in 20 columns: near by it is noise, far off a line.
    g = generator(3)
    x = torch.zeros(4000, 20, dtype=torch.float64)
    x[:, 0] = torch.rand(4000, generator=g) * 40
    x += 0.03 * torch.randn(4000, 20, generator=g)
    got = dimensions(sample_of(x, torch.arange(4000)))
    assert got.whole.value > 1.3 * got.eighth.value
