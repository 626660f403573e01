"""Every measure of geometry, as a function of arrays: against oracles, known answers, invariances, and where it must refuse."""

import math

import numpy as np
import pytest
import torch

import medlens
import oracles
from medlens.errors import BadInput, NotFinite

PAIRS = ["linearity", "linearity_of_update", "cka"]
SPECTRA = ["anisotropy", "participation_ratio", "effective_rank"]
SINGLES = [*SPECTRA, "mean_cosine", "intrinsic_dimension"]
EVERY = [*PAIRS, *SINGLES, "mean_cosine_between"]

# 1e-7 for linearity (a projection, within 0..1); 1e-8 relative for the rest. The absolute floor is for CKA and mean cosine, which
# pass through zero: it is a hundredth of what the relative one allows at the 1 they can reach.
REL, ABS = {"linearity": 0.0, "linearity_of_update": 0.0}, {"linearity": 1e-7, "linearity_of_update": 1e-7}


def agrees(name, got, want):
    if math.isnan(got) or math.isnan(want):
        return math.isnan(got) and math.isnan(want)
    return math.isclose(got, want, rel_tol=REL.get(name, 1e-8), abs_tol=ABS.get(name, 1e-10))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def states(n=60, d=8, seed=0, dtype=torch.float32):
    """Correlated rows with a mean, and what a block could make of them: neither linear nor unrelated."""
    g = generator(seed)
    x = torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + torch.randn(d, generator=g)
    y = x + 0.5 * torch.tanh(x @ torch.randn(d, d, generator=g)) + 0.3 * torch.randn(n, d, generator=g)
    return x.to(dtype), y.to(dtype)


def changed(change, **kwargs):
    """The same change made to x and to y."""
    x, y = states(**kwargs)
    return change(x.clone()), change(y.clone())


def large_column(x):
    x[:, 2] *= 1e4
    return x


def far_column(x):
    x[:, 2] += 3e5
    return x


def massive(*rows):
    def change(x):
        x[list(rows), 1] += 2000
        return x

    return change


def constant_column(value):
    def change(x):
        x[:, 3] = value
        return x

    return change


def some_duplicates(x):
    return torch.cat([x, x[:15], x[:5]])


def rank_one(dtype):
    g = generator(3)
    a, b, c = torch.randn(60, 1, generator=g), torch.randn(1, 8, generator=g), torch.randn(60, 1, generator=g)
    return (a @ b).to(dtype), (torch.tanh(a + c) @ b.flip(1)).to(dtype)


CASES = {
    "40 x 6": lambda: states(40, 6, 1),
    "25 x 3": lambda: states(25, 3, 2),
    "120 x 16": lambda: states(120, 16, 3, torch.float64),
    "30 x 12": lambda: states(30, 12, 4),
    "one column": lambda: states(30, 1, 5),
    "large column": lambda: changed(large_column),
    "large column, double": lambda: changed(large_column, dtype=torch.float64),
    "large column in x": lambda: (large_column(states()[0]), states()[1]),
    "far column": lambda: changed(far_column),
    "far column, double": lambda: changed(far_column, dtype=torch.float64),
    "massive in five rows": lambda: changed(massive(3, 11, 17, 40, 58)),
    "massive in the first row": lambda: changed(massive(0)),
    "massive in x alone": lambda: (massive(3, 11, 17, 40, 58)(states()[0]), states()[1]),
    "massive in y alone": lambda: (states()[0], massive(3, 11, 17, 40, 58)(states()[1])),
    "constant column": lambda: changed(constant_column(0.1)),
    "large constant column": lambda: changed(constant_column(12345.678)),
    "constant zero column": lambda: changed(constant_column(0.0)),
    "duplicated rows": lambda: changed(some_duplicates),
    "every row twice": lambda: changed(lambda x: x.repeat(2, 1)),
    "too few distinct rows": lambda: changed(lambda x: x.repeat(8, 1), n=8, d=8),
    "n = d - 1": lambda: states(9, 10, 6),
    "n = d": lambda: states(10, 10, 7),
    "n = d + 1": lambda: states(11, 10, 8),
    "n = d + 2": lambda: states(12, 10, 9),
    "n = 4": lambda: states(4, 3, 10),
    "rank 1": lambda: rank_one(torch.float64),
    "rank 1, float32": lambda: rank_one(torch.float32),
    "rank 1, float16": lambda: rank_one(torch.float16),
    "float16": lambda: states(dtype=torch.float16),
    "bfloat16": lambda: states(dtype=torch.bfloat16),
    "float16, massive": lambda: changed(massive(3, 11, 17, 40, 58), dtype=torch.float16),
    "float16, near its largest": lambda: changed(lambda x: (x * (60000 / x.abs().max())).half()),
    "bfloat16, massive": lambda: changed(massive(3, 11, 17, 40, 58), dtype=torch.bfloat16),
    "bfloat16, large column": lambda: changed(large_column, dtype=torch.bfloat16),
    "bfloat16, near its largest": lambda: changed(lambda x: (x * (2e38 / x.abs().max())).bfloat16()),
    "tiny": lambda: changed(lambda x: x * 1e-6),
    "huge": lambda: changed(lambda x: x * 1e6),
    "a zero row": lambda: changed(lambda x: x * (torch.arange(60) != 7)[:, None]),
}


def images(n):
    return [f"image {i % 4}" for i in range(n)]


def arguments(name, x, y):
    return {**dict.fromkeys(PAIRS, (x, y)), "mean_cosine_between": (x, images(len(x)))}.get(name, (x,))


def measured(name, x, y):
    return getattr(medlens, name)(*arguments(name, x, y))


def expected(name, x, y):
    return getattr(oracles, name)(*arguments(name, x.double().numpy(), y.double().numpy()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", EVERY)
def test_agrees_with_the_oracle(name, case):
    x, y = CASES[case]()
    before = x.clone(), y.clone()
    got, want = measured(name, x, y), expected(name, x, y)
    assert agrees(name, got, want), (got, want)
    assert isinstance(got, medlens.Value)
    assert isinstance(got, float)
    assert bool(got.note) or not math.isnan(got)  # NaN never comes without its reason
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("name", PAIRS)
def test_nearly_collinear_columns(name):
    # An eigenvalue of 1e-8 relative: kept by the stated tolerance, hard on normal equations. 1e-6 is what MEASURES.md asks.
    x, _ = states(200, 6, 11, torch.float64)
    hidden = torch.randn(200, generator=generator(12), dtype=torch.float64)
    x[:, 1] = x[:, 0] + 1e-4 * hidden
    y = x + hidden[:, None] * torch.ones(6, dtype=torch.float64)
    assert abs(measured(name, x, y) - expected(name, x, y)) < 1e-6


@pytest.mark.parametrize("name", EVERY)
def test_n_counts_the_rows(name):
    x, y = states()
    assert measured(name, x, y).n == 60


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.75, 0.9, 0.95])
def test_intrinsic_dimension_at_every_keep(keep):
    x, _ = states(150, 5)
    want = oracles.intrinsic_dimension(x.double().numpy(), keep)
    assert agrees("intrinsic_dimension", medlens.intrinsic_dimension(x, keep), want)


@pytest.mark.filterwarnings("ignore:Dropping")
@pytest.mark.parametrize("keep", [0.9, 0.5])
@pytest.mark.parametrize(("n", "d"), [(500, 3), (400, 10), (300, 40)])
@pytest.mark.parametrize("copies", [0, 30])
def test_intrinsic_dimension_agrees_with_scikit_dimension(keep, n, d, copies):
    skdim = pytest.importorskip("skdim")
    x = torch.randn(n, d, generator=generator(n), dtype=torch.float64)
    x = torch.cat([x, x[:copies]])
    # Above 25 dimensions scikit-dimension takes distances from inner products, where a copy's distance is about 1e-8 and not 0.
    # So there it is given the two distances of each row.
    if copies and d > 25:
        distance = np.sort(((x[:, None] - x[None]) ** 2).sum(-1).sqrt().numpy(), axis=1)[:, 1:3]
        theirs = skdim.id.TwoNN(discard_fraction=1 - keep, dist=True).fit(distance).dimension_
    else:
        theirs = skdim.id.TwoNN(discard_fraction=1 - keep).fit(x.numpy()).dimension_
    assert medlens.intrinsic_dimension(x, keep) == pytest.approx(theirs, rel=1e-6)


# Negative controls: what a plausible slip would give. Each must miss the tolerance that the library passes, on the same data.


def uncentred_linearity(x, y):
    u, _, _ = np.linalg.svd(x, full_matrices=False)
    return np.linalg.norm(u.T @ y) ** 2 / np.linalg.norm(y) ** 2


def linearity_unscaled(x, y):
    # Rank tolerance on columns as they come: one column x 1e4 hides directions once the tolerance is loose.
    u, s, _ = np.linalg.svd(oracles.centred(x), full_matrices=False)
    return np.linalg.norm(u[:, s > 1e-3 * s[0]].T @ oracles.centred(y)) ** 2 / np.linalg.norm(oracles.centred(y)) ** 2


def update_in_half(x, y):
    return oracles.linearity(x, (y.astype(np.float16) - x.astype(np.float16)).astype(np.float64))


def two_nn(x, first=1, beyond=0, keep_duplicates=False):
    if keep_duplicates:  # a copy then lies 1e-9 off, and its ratio is huge
        x = x + 1e-9 * np.random.default_rng(0).standard_normal(x.shape)
    mu = oracles.neighbour_ratios(x)
    n = len(mu)
    i = np.arange(first, first + math.floor(0.9 * n))
    y, log_mu = -np.log(1 - i / (n + beyond)), np.log(mu[: len(i)])
    return log_mu @ y / (log_mu @ log_mu)


def spectrum_uncentred(x):
    return np.linalg.eigvalsh(x.T @ x)


def roy_vetterli(x):
    p = np.sqrt(oracles.eigenvalues(x))
    p = p[p > 0] / p.sum()
    return math.exp(-(p * np.log(p)).sum())


def with_the_diagonal(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (unit @ unit.T).mean()


WRONG = {
    "uncentred linearity": ("linearity", "40 x 6", uncentred_linearity),
    "rank tolerance on unscaled columns": ("linearity", "large column in x", linearity_unscaled),
    "linearity of y for that of the update": ("linearity_of_update", "40 x 6", oracles.linearity),
    "update in float16": ("linearity_of_update", "float16", update_in_half),
    "biased CKA": ("cka", "40 x 6", oracles.cka_biased),
    "biased CKA, many rows": ("cka", "120 x 16", oracles.cka_biased),
    "uncentred anisotropy": ("anisotropy", "40 x 6", lambda x: spectrum_uncentred(x).max() / spectrum_uncentred(x).sum()),
    "participation of singular values": (
        "participation_ratio",
        "40 x 6",
        lambda x: np.sqrt(oracles.eigenvalues(x)).sum() ** 2 / oracles.eigenvalues(x).sum(),
    ),
    "effective rank of singular values": ("effective_rank", "40 x 6", roy_vetterli),
    "cosines with the diagonal": ("mean_cosine", "40 x 6", with_the_diagonal),
    "cosines of all images": ("mean_cosine_between", "40 x 6", lambda x, image: oracles.mean_cosine(x)),
    "i from 0": ("intrinsic_dimension", "40 x 6", lambda x: two_nn(x, first=0)),
    "i / (n + 1)": ("intrinsic_dimension", "120 x 16", lambda x: two_nn(x, beyond=1)),
    "duplicates kept": ("intrinsic_dimension", "duplicated rows", lambda x: two_nn(x, keep_duplicates=True)),
}


@pytest.mark.parametrize("slip", WRONG)
def test_the_tolerance_tells_a_wrong_variant(slip):
    name, case, variant = WRONG[slip]
    x, y = CASES[case]()
    wrong = variant(*arguments(name, x.double().numpy(), y.double().numpy()))
    assert agrees(name, measured(name, x, y), expected(name, x, y))
    assert not agrees(name, wrong, expected(name, x, y))


# Known answers.


def orthonormal(n, d, seed=0):
    """Columns of length 1, orthogonal to each other and to a constant."""
    rows = torch.randn(n, d + 1, generator=generator(seed), dtype=torch.float64)
    rows[:, 0] = 1
    return torch.linalg.qr(rows)[0][:, 1:]


def test_a_linear_map_scores_one():
    x, _ = states(100, 8, 20, torch.float64)
    y = x @ torch.randn(8, 8, generator=generator(21), dtype=torch.float64) + 5
    assert medlens.linearity(x, y) == pytest.approx(1, abs=1e-12)
    assert medlens.linearity_of_update(x, y) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.0, math.pi / 2])
def test_linearity_is_the_squared_cosine_of_an_angle(angle):
    q = orthonormal(50, 12)
    x, y = q[:, :6], math.cos(angle) * q[:, :6] + math.sin(angle) * q[:, 6:]
    assert medlens.linearity(x, y) == pytest.approx(math.cos(angle) ** 2, abs=1e-12)
    if angle:
        kept = (math.cos(angle) - 1) ** 2
        assert medlens.linearity_of_update(x, y) == pytest.approx(kept / (kept + math.sin(angle) ** 2), abs=1e-12)


def test_the_update_of_a_far_column_keeps_its_digits():
    # MEASURES.md: sums of x'y lose 2e-5 of this score. Here the update is built, so its score is known.
    q = orthonormal(64, 12, 1)
    x, u = q[:, :6] * 8, 0.6 * q[:, :6] + 0.8 * q[:, 6:]
    x = x + 3e5
    # What y - x holds after rounding at 3e5 is still u to 1e-10.
    assert medlens.linearity_of_update(x, x + u) == pytest.approx(0.36, abs=1e-8)


def test_unrelated_gaussians_score_rank_over_n_less_one():
    # Mean of 20 draws; one draw's standard deviation is about 0.0035, so 0.004 is five standard errors.
    g = generator(22)
    scores = [medlens.linearity(torch.randn(400, 40, generator=g), torch.randn(400, 40, generator=g)) for _ in range(20)]
    assert np.mean(scores) == pytest.approx(40 / 399, abs=0.004)


def test_debiased_cka_of_unrelated_gaussians_is_near_zero():
    x, y = torch.randn(2, 200, 300, generator=generator(23), dtype=torch.float64)
    assert abs(medlens.cka(x, y)) < 0.02
    assert oracles.cka_biased(x.numpy(), y.numpy()) == pytest.approx(300 / 500, abs=0.02)


def test_cka_of_a_thing_with_itself_is_one():
    x, _ = states()
    assert medlens.cka(x, x) == pytest.approx(1, abs=1e-12)


def signed_axes(*lengths):
    """Rows +-length along each axis: centred, eigenvalues in proportion to the squares."""
    axes = torch.diag(torch.tensor(lengths, dtype=torch.float64))
    return torch.cat([axes, -axes])


def test_spectrum_of_known_eigenvalues():
    x = signed_axes(2, 1, 1) + 7  # eigenvalues 4, 1, 1
    assert medlens.anisotropy(x) == pytest.approx(4 / 6, rel=1e-12)
    assert medlens.participation_ratio(x) == pytest.approx(36 / 18, rel=1e-12)
    assert medlens.effective_rank(x) == pytest.approx(6 / 4 ** (4 / 6), rel=1e-12)


def test_spectrum_of_a_ball_and_of_a_line():
    ball, line = signed_axes(*[3] * 16), rank_one(torch.float64)[0]
    assert medlens.anisotropy(ball) == pytest.approx(1 / 16, rel=1e-12)
    assert medlens.participation_ratio(ball) == pytest.approx(16, rel=1e-12)
    assert medlens.effective_rank(ball) == pytest.approx(16, rel=1e-12)
    assert medlens.anisotropy(line) == pytest.approx(1, rel=1e-12)
    assert medlens.participation_ratio(line) == pytest.approx(1, rel=1e-12)
    assert medlens.effective_rank(line) == pytest.approx(1, rel=1e-9)


def test_participation_ratio_is_biased_by_n():
    x = torch.randn(2747, 1024, generator=generator(24))
    assert medlens.participation_ratio(x) == pytest.approx(746, abs=3)


def test_mean_cosine_known():
    row = torch.randn(1, 9, generator=generator(25))
    assert medlens.mean_cosine(row.repeat(30, 1)) == pytest.approx(1, abs=1e-12)
    assert medlens.mean_cosine(torch.cat([row, -row])) == pytest.approx(-1, abs=1e-12)
    assert medlens.mean_cosine(torch.eye(7)) == pytest.approx(0, abs=1e-12)
    assert medlens.mean_cosine(signed_axes(1, 1, 1)) == pytest.approx(-1 / 5, abs=1e-12)


def test_mean_cosine_between_known():
    x = torch.eye(2)[[0, 0, 1, 1, 0]]  # image a: two rows along the first axis; b: two along the second; c: one along the first
    assert medlens.mean_cosine_between(x, ["a", "a", "b", "b", "c"]) == pytest.approx(2 / 8, abs=1e-12)
    rows, _ = states()
    assert medlens.mean_cosine_between(rows, range(60)) == pytest.approx(medlens.mean_cosine(rows), rel=1e-12)


@pytest.mark.parametrize(
    "image",
    [
        np.arange(60) // 15,
        tuple(i // 15 for i in range(60)),
        [("patient", i // 15) for i in range(60)],
    ],
)
def test_images_may_have_any_name(image):
    x, _ = states()
    assert medlens.mean_cosine_between(x, image) == pytest.approx(
        oracles.mean_cosine_between(x.numpy(), [i // 15 for i in range(60)]), rel=1e-8
    )


def test_images_named_by_a_tensor_are_never_taken_for_distinct():
    # Elements of a tensor hash by identity: each row would be its own image. The right answer or a refusal, not another number.
    x, _ = states()
    try:
        got = medlens.mean_cosine_between(x, torch.arange(60) // 15)
    except (BadInput, TypeError):
        return
    assert got == pytest.approx(oracles.mean_cosine_between(x.numpy(), [i // 15 for i in range(60)]), rel=1e-8)


@pytest.mark.parametrize(("d", "want"), [(5, 4.8), (10, 8.8)])
def test_intrinsic_dimension_of_a_cube(d, want):
    g = generator(26)
    turn = torch.linalg.qr(torch.randn(40, 40, generator=g))[0][:d]
    x = torch.rand(4000, d, generator=g) @ turn
    assert medlens.intrinsic_dimension(x) == pytest.approx(want, abs=0.3)


# Invariances.


def rotation(d=8):
    return torch.linalg.qr(torch.randn(d, d, generator=generator(30), dtype=torch.float64))[0]


def mixing(d=8):
    return torch.randn(d, d, generator=generator(31), dtype=torch.float64)


def order(n=60):
    return torch.randperm(n, generator=generator(32))


INVARIANT = {
    "linearity: x by any affine map": ("linearity", lambda x, y: (x @ mixing() - 40, y)),
    "linearity: y turned, scaled, shifted": ("linearity", lambda x, y: (x, 3 * y @ rotation() + 70)),
    "linearity: rows in another order": ("linearity", lambda x, y: (x[order()], y[order()])),
    "update: both turned, scaled": ("linearity_of_update", lambda x, y: (0.01 * x @ rotation(), 0.01 * y @ rotation())),
    "update: each shifted": ("linearity_of_update", lambda x, y: (x + 50, y - 9)),
    "update: rows in another order": ("linearity_of_update", lambda x, y: (x[order()], y[order()])),
    "cka: each turned, scaled, shifted": ("cka", lambda x, y: (5 * x @ rotation() + 30, 0.1 * y @ rotation().T - 2)),
    "cka: swapped": ("cka", lambda x, y: (y, x)),
    "cka: rows in another order": ("cka", lambda x, y: (x[order()], y[order()])),
    **{
        f"{name}: turned, scaled, shifted": (name, lambda x, y: (5 * x @ rotation() + 30, y))
        for name in [*SPECTRA, "intrinsic_dimension"]
    },
    **{f"{name}: rows in another order": (name, lambda x, y: (x[order()], y)) for name in SINGLES},
    "mean_cosine: turned, rows scaled": ("mean_cosine", lambda x, y: (x @ rotation() * torch.arange(1, 61)[:, None], y)),
    "mean_cosine_between: turned, rows scaled": (
        "mean_cosine_between",
        lambda x, y: (x @ rotation() * torch.arange(1, 61)[:, None], y),
    ),
}
# What is not promised: these must move, or the tests above prove nothing.
MOVED = {
    "linearity: y's columns mixed": ("linearity", lambda x, y: (x, y @ mixing())),
    "linearity: x and y swapped": ("linearity", lambda x, y: (y, x)),
    "linearity: rows of y alone in another order": ("linearity", lambda x, y: (x, y[order()])),
    "update: y alone scaled": ("linearity_of_update", lambda x, y: (x, 2 * y)),
    "cka: x's columns mixed": ("cka", lambda x, y: (x @ mixing(), y)),
    **{f"{name}: columns mixed": (name, lambda x, y: (x @ mixing(), y)) for name in [*SPECTRA, "intrinsic_dimension"]},
    "mean_cosine: shifted": ("mean_cosine", lambda x, y: (x + 1, y)),
    "mean_cosine_between: rows in another order": ("mean_cosine_between", lambda x, y: (x[order()], y)),
}


@pytest.mark.parametrize("what", INVARIANT)
def test_invariant(what):
    name, change = INVARIANT[what]
    x, y = states(dtype=torch.float64)
    assert agrees(name, measured(name, *change(x, y)), measured(name, x, y))


@pytest.mark.parametrize("what", MOVED)
def test_not_invariant(what):
    name, change = MOVED[what]
    x, y = states(dtype=torch.float64)
    assert not agrees(name, measured(name, *change(x, y)), measured(name, x, y))


# Undefined, with the reason.


def is_undefined(value, *words):
    assert math.isnan(value)
    assert value.note
    for word in words:
        assert word in value.note, value.note
    return True


@pytest.mark.parametrize("name", ["linearity", "linearity_of_update"])
@pytest.mark.parametrize("n", [2, 5, 9, 10, 11])
def test_linearity_is_undefined_up_to_d_plus_one_rows(name, n):
    # After centring, n rows have rank n - 1 and fit anything: the "1" of too few rows is what MEASURES.md forbids.
    assert is_undefined(measured(name, *states(n, 10)), "distinct rows", "rank")


@pytest.mark.parametrize("name", ["linearity", "linearity_of_update"])
def test_copies_of_rows_do_not_make_linearity_defined(name):
    x, y = states(9, 8)
    x = x.repeat(20, 1)
    assert is_undefined(measured(name, x, y.repeat(20, 1)), "distinct rows", "rank")
    assert is_undefined(measured(name, x, states(180, 8, 1)[1]), "distinct rows", "rank")  # y of its own


def test_minus_zero_does_not_make_a_row_distinct():
    x, y = states(10, 8)
    x[0, 0] = 0.0
    x[9] = x[0]
    x[9, 0] = -0.0
    assert is_undefined(medlens.linearity(x, y), "distinct rows", "rank")


@pytest.mark.parametrize("name", ["linearity", "linearity_of_update"])
def test_one_row_more_than_needed_is_defined_and_below_one(name):
    assert 0 < measured(name, *states(12, 10, 9)) < 1


@pytest.mark.parametrize("name", ["linearity", "linearity_of_update"])
def test_linearity_of_rank_one_rows_needs_three_of_them(name):
    x, y = rank_one(torch.float64)
    assert is_undefined(measured(name, x[:2], y[:2]), "distinct rows", "rank")
    assert 0 <= measured(name, x[:3], y[:3]) < 1


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 / 3, 1e-7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*SPECTRA, "linearity", "linearity_of_update", "cka"])
def test_constant_rows(name, value, dtype):
    constant = torch.full((50, 8), value, dtype=dtype)
    assert is_undefined(measured(name, constant, states(50, 8)[1].to(dtype)))


@pytest.mark.parametrize(("n", "d"), [(50, 8), (20, 3), (30, 12), (100, 2)])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 / 3])
@pytest.mark.parametrize("name", ["linearity", "cka"])
def test_constant_rows_of_y(name, value, n, d):
    # Y is divided by its Frobenius norm, which is 0: neither 0 nor 1 is its share. Several shapes: rounding may leave a rest.
    assert is_undefined(measured(name, states(n, d)[0], torch.full((n, d), value)))


def test_no_update():
    x, _ = states(50, 8)
    assert is_undefined(medlens.linearity_of_update(x, x))
    whole = (x * 64).round()
    assert is_undefined(medlens.linearity_of_update(whole, whole + 3))


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("cka", 4),
        ("anisotropy", 2),
        ("participation_ratio", 2),
        ("effective_rank", 2),
        ("mean_cosine", 2),
        ("mean_cosine_between", 2),
        ("intrinsic_dimension", 3),
    ],
)
def test_too_few_rows(name, least):
    x, y = states(6, 3)
    for n in range(least):
        assert is_undefined(measured(name, x[:n], y[:n]))
    assert not math.isnan(measured(name, x[:least], y[:least]))


def test_intrinsic_dimension_without_ratios():
    assert is_undefined(medlens.intrinsic_dimension(states(20, 4)[0].repeat(2, 1)))  # every row has a copy
    assert is_undefined(medlens.intrinsic_dimension(torch.arange(50.0)[:, None]))  # all ratios but the ends' are 1
    assert is_undefined(medlens.intrinsic_dimension(states(20, 4)[0], keep=0.05))  # one ratio


def test_intrinsic_dimension_counts_the_duplicates():
    x, _ = states(60, 6)
    value = medlens.intrinsic_dimension(torch.cat([x, x[:7]]))
    assert value.n == 53
    assert "14" in value.note  # seven rows and their seven copies


def test_one_image():
    assert is_undefined(medlens.mean_cosine_between(states()[0], ["a"] * 60), "image")


def test_rows_of_length_zero_are_left_out_and_counted():
    x, _ = states(40, 6)
    padded = torch.cat([x, torch.zeros(3, 6)])
    value = medlens.mean_cosine(padded)
    assert agrees("mean_cosine", value, medlens.mean_cosine(x))
    assert value.n == 40
    assert "3" in value.note
    only = medlens.mean_cosine_between(padded, ["a"] * 40 + ["b"] * 3)
    assert is_undefined(only, "image")


# Refusals.


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", EVERY)
def test_not_finite(name, bad, dtype):
    x, y = states(dtype=dtype)
    x[13, 5] = bad
    with pytest.raises(NotFinite, match="13"):
        measured(name, x, y)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", PAIRS)
def test_not_finite_in_y(name, bad):
    x, y = states()
    y[59, 0] = bad
    with pytest.raises(NotFinite, match="59"):
        measured(name, x, y)


@pytest.mark.parametrize("name", EVERY)
def test_not_finite_comes_before_undefined(name):
    with pytest.raises(NotFinite):
        measured(name, torch.full((2, 8), math.nan), torch.zeros(2, 8))


@pytest.mark.parametrize("keep", [0, 1, -0.1, 1.5, math.nan])
def test_keep_is_a_share(keep):
    with pytest.raises(BadInput, match="keep"):
        medlens.intrinsic_dimension(states()[0], keep)


@pytest.mark.parametrize("name", EVERY)
def test_rows_are_two_dimensional(name):
    x, y = states(6, 3)
    for change in (lambda z: z[0], lambda z: z[None]):
        with pytest.raises(BadInput):
            measured(name, change(x), change(y))


@pytest.mark.parametrize("name", EVERY)
def test_no_columns_is_undefined_or_refused(name):
    x = torch.zeros(6, 0)
    try:
        value = measured(name, x, x)
    except BadInput:
        return
    assert is_undefined(value)


@pytest.mark.parametrize("name", PAIRS)
def test_x_and_y_are_of_the_same_tokens(name):
    x, y = states(10, 3)
    for other in (y[:9], y[:1], y[:, :2]):
        with pytest.raises(BadInput):
            measured(name, x, other)


def test_one_name_of_an_image_per_row():
    x, _ = states(10, 3)
    for image in (["a"] * 9, ["a"] * 11, []):
        with pytest.raises(BadInput):
            medlens.mean_cosine_between(x, image)
