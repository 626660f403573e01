"""Numbers one can publish: held-out scores, floors and intervals on hidden states whose truth is known."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.special import stdtrit

import medlens
from medlens.measures import MEASURES
from medlens.measures.floor import adjusted, in_rings, linearity_floor, linearity_of_update_floor
from medlens.measures.held_out import held_out_linearity, held_out_linearity_from_folds, held_out_linearity_of_update
from medlens.phantom.scanner import draw
from medlens.phantom.train import CELLS, MEAN, STD, words
from medlens.stats import CosineSums, Folds, PairSums
from medlens.stats.intervals import Interval, jackknife, subsampled
from medlens.types import Value
from medlens.walk.layout import partners

IMAGES, K, SETS = 50, 10, 140
WALKED = 80  # sets that pass through the phantom's tower, which takes most of the time


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussians(n, d, seed):
    return torch.randn(2, n, d, generator=generator(seed), dtype=torch.float64)


def within_images(images, each, d, correlation, g):
    """Rows whose images' own means make up `correlation` of their variance; and of each the image."""
    image = torch.arange(images).repeat_interleave(each)
    own = torch.randn(images * each, d, generator=g, dtype=torch.float64)
    shared = torch.randn(images, d, generator=g, dtype=torch.float64)[image]
    return math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own, image


# Held-out scores against their expectations.


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "noise"), [(3000, 256, 0.1), (3000, 256, 0.4), (4000, 512, 0.2)])
@pytest.mark.parametrize("folds", [5, 10])
def test_a_linear_map_plus_noise(n, d, noise, folds):
    x, rest = gaussians(n, d, n + d)
    turn = torch.linalg.qr(gaussians(d, d, 1)[0])[0]
    y = math.sqrt(1 - noise) * x @ turn + math.sqrt(noise) * rest
    fitted, fold = n * (1 - 1 / folds), torch.arange(n) % folds
    want = 1 - noise * (fitted - 2) / (fitted - d - 2)
    assert held_out_linearity(x, y, fold) == pytest.approx(want, abs=0.01)
    assert held_out_linearity_of_update(x, x + y, fold) == pytest.approx(want, abs=0.01)
    # In-sample it scores above the truth by as much as chance explains of the noise; adjusted it does not.
    assert medlens.linearity(x, y) == pytest.approx(1 - noise * (1 - d / (n - 1)), abs=0.01)
    assert adjusted(medlens.linearity(x, y), linearity_floor(x, y, range(n))) == pytest.approx(1 - noise, abs=0.01)


@pytest.mark.parametrize(("n", "d"), [(1500, 256), (3000, 256)])
def test_unrelated_gaussians(n, d):
    x, y = gaussians(n, d, n)
    want = -d / (n * (1 - 1 / 5) - d - 2)
    fold = torch.arange(n) % 5
    assert held_out_linearity(x, y, fold) == pytest.approx(want, abs=0.02)
    assert held_out_linearity_of_update(x, x + y, fold) == pytest.approx(want, abs=0.02)
    assert medlens.linearity(x, y) == pytest.approx(d / (n - 1), abs=0.01)  # which says nothing, and says it with confidence
    assert medlens.linearity_of_update(x, x + y) == pytest.approx(d / (n - 1), abs=0.01)


@pytest.mark.parametrize("n", [100, 256, 257])
def test_no_more_rows_than_columns(n):
    x, y = gaussians(n, 256, n)
    for value in (medlens.linearity(x, y), medlens.linearity_of_update(x, y), held_out_linearity(x, y, torch.arange(n) % 5)):
        assert math.isnan(value)
        assert "256" in value.note or "score 1" in value.note


# The floor: whole images permuted against each other.


def test_the_floor_of_patches_is_far_above_that_of_rows():
    floors = []
    for seed in range(8):
        g = generator(seed)
        (x, image), (y, _) = within_images(50, 40, 32, 0.7, g), within_images(50, 40, 32, 0.7, g)
        floors.append(linearity_floor(x, y, image, seed))
        assert floors[-1] == linearity_of_update_floor(x, x + y, image, seed) or floors[-1] == pytest.approx(
            linearity_of_update_floor(x, x + y, image, seed), rel=1e-9
        )
        assert medlens.linearity(x, y) == pytest.approx(floors[-1], abs=0.06)  # unrelated: it scores its floor
    rows = linearity_floor(x[torch.randperm(2000, generator=g)], y, range(2000))  # rows dealt one by one
    assert rows == pytest.approx(32 / 1999, abs=0.006)
    assert np.mean(floors) == pytest.approx(0.27, abs=0.06)  # of MEASURES: 0.27, where rank/(n - 1) says 0.016
    assert min(floors) > 5 * rows


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_adjusted_scores_are_the_truth(noise):
    g, d = generator(5), 256
    (x, image), (rest, _) = within_images(1500, 4, d, 0.5, g), within_images(1500, 4, d, 0.5, g)
    turn = torch.linalg.qr(gaussians(d, d, 1)[0])[0]
    y = math.sqrt(1 - noise) * x @ turn + math.sqrt(noise) * rest
    raw, floor = medlens.linearity(x, y), linearity_floor(x, y, image)
    assert adjusted(raw, floor) == pytest.approx(1 - noise, abs=0.01)
    update = adjusted(medlens.linearity_of_update(x, x + y), linearity_of_update_floor(x, x + y, image))
    assert update == pytest.approx(1 - noise, abs=0.01)
    assert adjusted(linearity_floor(x, y, image, 1), floor) == pytest.approx(0, abs=0.01)


def test_the_floor_pairs_as_the_walk_does():
    for count in range(1, 8):
        names = [f"i{k}" for k in range(count)]
        pairs = {image: ring[k - 1] for ring in in_rings(names) for k, image in enumerate(ring) if len(ring) > 1}
        assert pairs == partners(dict.fromkeys(names, 0))
        assert all(image != other for image, other in pairs.items())
        assert set(pairs.values()) == set(pairs)


def test_the_floor_by_hand():
    # Three images are one ring; their rows are cut to the shorter of each two.
    x, y = gaussians(70, 3, 0)
    image = ["a"] * 30 + ["b"] * 25 + ["c"] * 15
    order = [["a", "b", "c"][k] for k in torch.randperm(3, generator=generator(4)).tolist()]
    mine, others = [], []
    for k, name in enumerate(order):
        own, other = ([i for i, other in enumerate(image) if other == who] for who in (name, order[k - 1]))
        for i, j in zip(own, other, strict=False):
            mine.append(i)
            others.append(j)
    assert len(mine) == 25 + 15 + 15
    assert linearity_floor(x, y, image, seed=4) == medlens.linearity(x[mine], y[others])
    assert linearity_of_update_floor(x, y, image, seed=4) == pytest.approx(medlens.linearity(x[mine], (y - x)[others]), rel=1e-9)


def test_floors_that_there_are_none_of():
    x, y = gaussians(70, 3, 0)
    assert "1 image:" in linearity_floor(x, y, [0] * 70).note
    for bad in (lambda: linearity_floor(x, y, [0] * 69), lambda: linearity_floor(x, y[:, :2], [0] * 70)):
        with pytest.raises(medlens.errors.BadInput, match="image names"):
            bad()
    for value, floor, why in (
        (Value(0.3, 5), Value.undefined(5, "1 image"), "1 image"),
        (Value.undefined(5, "few"), Value(0.1), "few"),
        (Value(1.0, 5), Value(1.0, 5), "floor is 1"),
    ):
        assert math.isnan(adjusted(value, floor))
        assert why in adjusted(value, floor).note
    assert adjusted(Value(0.6, 9, "so"), Value(0.2)) == pytest.approx(0.5)
    assert adjusted(Value(0.6, 9, "so"), Value(0.2)).n == 9


# Coverage of the intervals: of the mean of many independent data sets' estimates.

SMOOTH = (
    "linearity", "linearity_of_update", "cka", "participation_ratio", "mean_cosine", "mean_cosine_between", "anisotropy",
)  # fmt: skip


class Folded:
    """One data set, its sums by fold, and every smooth measure of it: of all folds, and without each."""

    def __init__(self, x, y, image, fold):
        self.pairs, self.cosines = Folds(PairSums, K), Folds(CosineSums, K)
        count = 1 + int(fold.max())
        for k in range(count):
            self.pairs[k].update(x[fold == k], y[fold == k])
            for name in image[fold == k].unique().tolist():
                self.cosines[k].update(x[(fold == k) & (image == name)], name)

    def estimates(self, held_out=True):
        found = {name: self._jackknifed(name) for name in SMOOTH}
        if held_out:
            of = held_out_linearity_from_folds
            found["held_out_linearity"] = of(self.pairs), [of(self.pairs, k) for k in self.pairs.filled]
        return found

    def _jackknifed(self, name):
        return self._value(name, None), [self._value(name, k) for k in self.pairs.filled]

    def _value(self, name, without):
        needs = MEASURES[name].needs
        folds = self.cosines if needs == "cosines" else self.pairs
        sums = folds.remember(("without", without), lambda: folds.without(without))
        return MEASURES[name].of_sums(sums.x if needs == "moments" else sums)


def coverage(found, interval=jackknife):
    """found: of each data set the value and those without a fold."""
    truth = np.mean([value for value, _ in found])
    inside = [interval(value, left_out) for value, left_out in found]
    return np.mean([low <= truth <= high for low, high, _ in inside])


def with_z(full, left_out):
    """What the jackknife must not be: the normal distribution for t."""
    low, high, _ = jackknife(full, left_out)
    narrow = NormalDist().inv_cdf(0.975) / float(stdtrit(len(left_out) - 1, 0.975))
    return Interval(full - narrow * (full - low), full + narrow * (high - full))


def synthetic(g, each=12, d=8):
    """A block on patches: a residual stream with one strong direction, an update that is neither linear nor unrelated."""
    x, image = within_images(IMAGES, each, d, 0.5, g)
    x = x * torch.tensor([3.0, *[1.0] * (d - 1)]) + 0.5
    bend, _ = within_images(IMAGES, each, d, 0.3, g)
    return x, x + 0.4 * torch.tanh(x.roll(1, 1)) + 0.3 * bend, image


@pytest.fixture(scope="module")
def drawn():
    g = generator(0)
    sets = [synthetic(g) for _ in range(SETS)]
    return [(x, y, image, image % K) for x, y, image in sets]


def gathered(sets):
    every = [Folded(*one).estimates() for one in sets]
    return {name: [found[name] for found in every] for name in every[0]}


@pytest.mark.slow
def test_intervals_cover(drawn):
    shares = {name: coverage(found) for name, found in gathered(drawn).items()}
    assert set(shares) == {*SMOOTH, "held_out_linearity"}
    assert all(0.90 <= share <= 0.99 for share in shares.values()), shares


@pytest.mark.slow
def test_z_in_place_of_t_covers_too_little(drawn):
    few = {}
    for x, y, image, _ in drawn:
        for name, found in Folded(x, y, image, image % 5).estimates(held_out=False).items():
            few.setdefault(name, []).append(found)
    narrow, right = ([coverage(found, how) for found in few.values()] for how in (with_z, jackknife))
    assert np.mean(narrow) < 0.91
    assert np.mean(right) > 0.92
    assert all(a < b for a, b in zip(narrow, right, strict=True))


@pytest.mark.slow
def test_folds_that_cut_through_images_cover_too_little(drawn):
    g, found = generator(1), []
    for x, y, image, _ in drawn:
        rows = Folded(x, y, image, torch.randperm(len(x), generator=g) % K)
        found.append({name: rows._jackknifed(name) for name in ("participation_ratio", "mean_cosine", "anisotropy")})
    for name in found[0]:
        assert coverage([each[name] for each in found]) < 0.85, name


@pytest.mark.slow
def test_subsets_of_images_agree_with_the_jackknife(drawn):
    # A second opinion that shares nothing with the first: 200 subsets of 40 of the 50 images.
    ratios, subsets = {}, 200
    for x, y, image, fold in drawn[:6]:
        g, folded = generator(2), Folded(x, y, image, fold)
        chosen = [torch.isin(image, torch.randperm(IMAGES, generator=g)[:40]) for _ in range(subsets)]
        for name in ("linearity", "participation_ratio", "mean_cosine_between"):
            full, left_out = folded._jackknifed(name)
            first = jackknife(full, left_out)
            if name == "linearity":
                values = [medlens.linearity(x[rows], y[rows]) for rows in chosen]
            elif name == "participation_ratio":
                values = [medlens.participation_ratio(x[rows]) for rows in chosen]
            else:
                values = [medlens.mean_cosine_between(x[rows], image[rows]) for rows in chosen]
            second = subsampled(full, values, 40 / IMAGES)
            ratios.setdefault(name, []).append((second.high - second.low) / (first.high - first.low))
    for name, found in ratios.items():  # t with 9 degrees of freedom is 1.15 times as wide as the normal distribution
        assert 0.6 < np.mean(found) < 1.2, (name, found)


def test_subsampling_a_mean_is_the_known_interval():
    rng = np.random.default_rng(0)
    inside, widths = [], []
    for _ in range(300):
        values = rng.standard_normal(60)
        means = [Value(rng.choice(values, 45, replace=False).mean()) for _ in range(200)]
        low, high, _ = subsampled(Value(values.mean()), means, 0.75)
        inside.append(low <= 0 <= high)
        widths.append((high - low) / (2 * 1.96 * values.std(ddof=1) / math.sqrt(60)))
    assert 0.9 < np.mean(inside) < 0.98
    assert np.mean(widths) == pytest.approx(1, abs=0.06)


def test_subsampling_says_why_there_is_none():
    some = [Value(float(v)) for v in range(40)]
    assert "39 subsets, 40" in subsampled(Value(1.0), some[:39], 0.5).note
    assert subsampled(Value(1.0), some, 0.5).low is not None
    assert "few" in subsampled(Value.undefined(3, "few"), some, 0.5).note
    assert "few" in subsampled(Value(1.0), [*some, Value.undefined(3, "few")], 0.5).note
    for share in (0.0, 1.0):
        with pytest.raises(medlens.errors.BadInput, match="share"):
            subsampled(Value(1.0), some, share)


# The same on the phantom: 200 x 50 slices that were never seen, through the first blocks.

BLOCK = 4


class _Stop(Exception):
    """The walk is over."""


def passing(model, slices):
    """The image rows of every slice before and after BLOCK, (slices, 64, d): the image comes first, so nothing else need walk."""
    names = words()
    prefix = [names.index("<s>"), names.index("[INST]"), *[names.index("<image>")] * CELLS]
    pixels = torch.from_numpy(np.stack([one.pixels for one in slices])).float() / 255
    pixels = ((pixels - MEAN) / STD)[:, None].expand(-1, 3, -1, -1)
    states = []

    def note(_, given, result):
        states.extend((given[0], result[0] if isinstance(result, tuple) else result))
        raise _Stop

    hook = model.blocks[BLOCK].register_forward_hook(note)
    try:
        with torch.no_grad(), pytest.raises(_Stop):
            model.module(input_ids=torch.tensor([prefix] * len(slices)), pixel_values=pixels, use_cache=False)
    finally:
        hook.remove()
    return [state[:, 2:] for state in states]


def test_the_short_walk_is_the_walk(phantom):
    sample = medlens.phantom.samples(1, seed=5)[0]
    walked = medlens.forward(phantom, sample)
    image = walked.tokens.where("image")

    class Slice:
        pixels = np.asarray(sample.image.convert("L"))

    for state, b in zip(passing(phantom, [Slice]), (BLOCK, BLOCK + 1), strict=True):
        torch.testing.assert_close(state[0], walked.hidden_states[b][image], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_intervals_cover_on_the_phantom(phantom):
    image, found = torch.arange(IMAGES).repeat_interleave(CELLS), {}
    for k in range(WALKED):
        x, y = passing(phantom, [draw(np.random.default_rng([20261123, k, i])) for i in range(IMAGES)])
        for name, estimate in Folded(x.flatten(0, 1), y.flatten(0, 1), image, image % K).estimates().items():
            found.setdefault(name, []).append(estimate)
    shares = {name: coverage(each) for name, each in found.items()}
    assert all(0.90 <= share <= 0.99 for share in shares.values()), shares
