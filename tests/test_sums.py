"""Mergeable sums: any split of the rows into batches or machines, in any order, gives what the arrays give.

For every measure there is. Tolerance: 1e-9 relative; where the data demand otherwise, the reason stands beside the number.
"""

import contextlib
import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medlens.errors import NotFinite
from medlens.measures import MEASURES
from medlens.stats import CosineSums, Moments, PairSums, RowSample
from medlens.stats.gram import Gram
from medlens.stats.scatter import Scatter

N, D, IMAGES = 48, 5, 4
QUICK = settings(max_examples=15, deadline=None, derandomize=True)
KINDS = ["pairs", "moments", "cosines", "rows"]


class Table:
    """Rows of one group: x, y, the image of each and its priority."""

    def __init__(self, x, y):
        self.x, self.y = x, y
        self.image = torch.arange(len(x)) % IMAGES
        self.labels = torch.stack([self.image, self.image % 3], 1)
        self.priority = torch.randperm(len(x), generator=torch.Generator().manual_seed(9))

    def __getitem__(self, rows):
        part = copy.copy(self)
        part.x, part.y, part.image, part.priority = self.x[rows], self.y[rows], self.image[rows], self.priority[rows]
        part.labels = self.labels[rows]
        return part


def table(n=N, d=D, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    rank = d if d < n else D  # else every score of linearity would be undefined
    x = torch.randn(n, rank, generator=g) @ torch.randn(rank, d, generator=g) + torch.randn(d, generator=g)
    y = x + 0.5 * torch.tanh(x @ torch.randn(d, d, generator=g)) + 0.3 * torch.randn(n, d, generator=g)
    return Table(x.to(dtype), y.to(dtype))


def empty(kind, cap=1000):
    return {"pairs": PairSums.empty, "moments": Moments.empty, "cosines": CosineSums.empty, "rows": lambda: RowSample.empty(cap)}[
        kind
    ]()


def feed(sums, part):
    """One batch into sums of any kind."""
    if isinstance(sums, PairSums):
        sums.update(part.x, part.y)
    elif isinstance(sums, Moments):
        sums.update(part.x)
    elif isinstance(sums, CosineSums):
        for image in part.image.unique().tolist():
            sums.update(part.x[part.image == image], image)
    else:
        sums.update(part.x, part.priority, part.labels)
    return sums


def fed(kind, part, cap=1000):
    return feed(empty(kind, cap), part)


def from_sums(measure, sums):
    return measure.of_sums(sums)


def from_arrays(name, part):
    measure = MEASURES[name]
    if measure.needs == "pairs":
        return measure.of_arrays(part.x, part.y)
    if name == "mean_cosine_between":
        return measure.of_arrays(part.x, part.image.tolist())
    return measure.of_arrays(part.x)


def same(got, want, rel=1e-9):
    """Values within `rel` (and 1e-12, for what passes through zero), of the same n; NaN only for NaN."""
    if math.isnan(want):
        assert math.isnan(got), got
        assert got.note == want.note
    else:
        assert got == pytest.approx(want, rel=rel, abs=1e-12)
    assert got.n == want.n


REMEMBERED = {"_eigenvalues", "_regression", "shared"}  # not what sums hold


def picture(sums):
    """What sums hold, as plain nested values, to compare exactly."""
    if isinstance(sums, torch.Tensor):
        return sums.dtype, sums.tolist()
    if isinstance(sums, Gram):
        return [picture(row) for rows in sums.rows for row in rows]  # in however many pieces
    if isinstance(sums, dict):
        return {key: picture(value) for key, value in sums.items()}
    if isinstance(sums, tuple):
        return [picture(value) for value in sums]
    if hasattr(sums, "__dict__"):
        return {key: picture(value) for key, value in vars(sums).items() if key not in REMEMBERED}
    return copy.copy(sums)


measures = pytest.mark.parametrize("name", MEASURES)
kinds = pytest.mark.parametrize("kind", KINDS)
# Rows are kept up to as many as there are columns: summed almost at once, in the midst of it, and kept to the end.
widths = pytest.mark.parametrize("d", [D, 20, 60])
cuts = st.lists(st.integers(0, N), max_size=6).map(sorted)
orders = st.permutations(range(N))


def batches(part, at):
    """Cut at the given places; two of them equal make an empty batch."""
    ends = [0, *at, len(part.x)]
    return [part[a:b] for a, b in itertools.pairwise(ends)]


def test_every_measure_says_what_it_needs():
    assert {measure.needs for measure in MEASURES.values()} == set(KINDS)


@widths
@measures
@QUICK
@given(at=cuts, order=orders)
def test_any_split_in_any_order_into_batches(name, at, order, d):
    rows = table(d=d)
    sums = empty(MEASURES[name].needs)
    for batch in batches(rows[order], at):
        feed(sums, batch)
    same(from_sums(MEASURES[name], sums), from_arrays(name, rows))


@widths
@measures
@QUICK
@given(at=cuts, order=orders, data=st.data())
def test_any_split_over_machines_merged_in_any_order(name, at, order, data, d):
    rows, kind = table(d=d), MEASURES[name].needs
    parts = [fed(kind, batch) for batch in batches(rows[order], at)]
    while len(parts) > 1:  # any two of them next, either into the other: every tree of merges
        parts = data.draw(st.permutations(parts))
        parts[0].merge(parts.pop())
    same(from_sums(MEASURES[name], parts[0]), from_arrays(name, rows))


@widths
@measures
def test_one_row_at_a_time(name, d):
    rows = table(d=d)
    grown, joined = empty(MEASURES[name].needs), empty(MEASURES[name].needs)
    for i in range(N):
        feed(grown, rows[i : i + 1])
        joined.merge(fed(MEASURES[name].needs, rows[i : i + 1]))
    same(from_sums(MEASURES[name], grown), from_arrays(name, rows))
    same(from_sums(MEASURES[name], joined), from_arrays(name, rows))


@widths
@measures
def test_merge_is_associative_and_commutative(name, d):
    measure, (a, b, c) = MEASURES[name], batches(table(d=d), [7, 30])

    def of(part):
        return fed(measure.needs, part)

    want = from_sums(measure, of(a).merge(of(b)).merge(of(c)))
    same(from_sums(measure, of(a).merge(of(b).merge(of(c)))), want)
    same(from_sums(measure, of(c).merge(of(a)).merge(of(b))), want)
    same(from_sums(measure, of(c).merge(of(b).merge(of(a)))), want)


@widths
@measures
def test_empty_is_neutral_on_both_sides(name, d):
    measure, rows = MEASURES[name], table(d=d)
    want = from_arrays(name, rows)
    sums = fed(measure.needs, rows)
    held = picture(sums)
    sums.merge(empty(measure.needs))
    assert picture(sums) == held  # to the last bit
    same(from_sums(measure, sums), want)
    left = empty(measure.needs).merge(fed(measure.needs, rows))
    same(from_sums(measure, left), want)
    same(from_sums(measure, left.merge(empty(measure.needs).merge(empty(measure.needs)))), want)


@widths
@measures
def test_an_empty_batch_changes_nothing(name, d):
    measure, rows = MEASURES[name], table(d=d)
    sums = feed(empty(measure.needs), rows[:0])
    feed(feed(sums, rows), rows[:0])
    same(from_sums(measure, sums), from_arrays(name, rows))


@measures
def test_sums_of_nothing_are_undefined(name):
    measure = MEASURES[name]
    if measure.needs == "rows":
        return  # a function of rows; that there are none is for whoever holds the sample to see (test_an_empty_sample)
    value = from_sums(measure, empty(measure.needs))
    assert math.isnan(value)
    assert value.note
    assert value.n == 0


@measures
@pytest.mark.parametrize("n", [1, 2, 3, D, D + 1, D + 2])
def test_few_rows(name, n):
    # The undefined cases must come out undefined, for the same reason, from sums too.
    rows, measure = table(n), MEASURES[name]
    sums = empty(measure.needs)
    for i in range(n):
        sums.merge(fed(measure.needs, rows[i : i + 1]))
    same(from_sums(measure, sums), from_arrays(name, rows))


@measures
def test_copies_on_other_machines_are_no_new_rows(name):
    # Linearity must see that the same D + 1 rows came three times; the others only have to agree.
    measure, rows = MEASURES[name], table(D + 1)
    whole = Table(rows.x.repeat(3, 1), rows.y.repeat(3, 1))
    sums = empty(measure.needs)
    for batch in batches(whole, [D + 1, 2 * (D + 1)]):
        sums.merge(fed(measure.needs, batch))
    got = from_sums(measure, sums)
    same(got, from_arrays(name, whole))
    if name.startswith("linearity"):
        assert math.isnan(got)
        assert "distinct rows" in got.note


def large_column(x):
    x[:, 2] *= 1e4


def far_column(x):
    x[:, 2] += 3e5


def massive_first(x):
    x[0, 1] += 2000  # in the first batch: were the reference taken from it, it would lie far off


def massive(x):
    x[[3, 11, 17, 30, 46], 1] += 2000


def constant(x):
    x[:, 3] = 12345.678


def drifting(x):
    x += 100 * torch.arange(len(x))[:, None].to(x)  # every batch lies far from every other


def duplicated(x):
    x[24:] = x[:24]


HARD = [large_column, far_column, massive_first, massive, constant, drifting, duplicated]


@widths
@measures
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("hard", HARD)
def test_hard_rows_in_batches_and_over_machines(name, hard, dtype, d):
    rows, measure = table(dtype=torch.float64, d=d), MEASURES[name]
    hard(rows.x), hard(rows.y)
    rows.x, rows.y = rows.x.to(dtype), rows.y.to(dtype)
    if not rows.x.isfinite().all():
        return  # float16 ends at 65504
    # CKA's sums are of fourth powers: kept about a massive first row and moved to the mean afterwards they lose 1.5e-8 here.
    rel = 1e-7 if name == "cka" else 1e-9
    want = from_arrays(name, rows)
    grown, joined = empty(measure.needs), empty(measure.needs)
    for batch in batches(rows, [1, 9, 9, 20, 40]):
        feed(grown, batch)
        joined.merge(fed(measure.needs, batch))
    same(from_sums(measure, grown), want, rel)
    same(from_sums(measure, joined), want, rel)
    backwards = empty(measure.needs)
    for batch in reversed(batches(rows, [1, 9, 9, 20, 40])):
        backwards = fed(measure.needs, batch).merge(backwards)
    same(from_sums(measure, backwards), want, rel)


@widths
@measures
def test_batches_of_several_types(name, d):
    measure, rows = MEASURES[name], table(dtype=torch.float16, d=d)
    sums = empty(measure.needs)
    dtypes = [torch.float16, torch.float32, torch.float64, torch.float16]
    for batch, dtype in zip(batches(rows, [10, 20, 30]), dtypes, strict=True):
        batch.x, batch.y = batch.x.to(dtype), batch.y.to(dtype)
        feed(sums, batch)
    same(from_sums(measure, sums), from_arrays(name, rows))


# What belongs to whom.


@widths
@kinds
def test_merge_leaves_the_other_as_it_was(kind, d):
    first, second, third = batches(table(d=d), [10, 30])
    for a in (empty(kind), fed(kind, first)):
        b = fed(kind, second)
        held = picture(b)
        assert a.merge(b) is a
        assert picture(b) == held
        feed(a, third)  # nor may the two share memory afterwards, least of all when `a` was empty
        assert picture(b) == held
        a.merge(fed(kind, third))
        assert picture(b) == held
        held = picture(a)
        feed(b, third)
        assert picture(a) == held


@widths
@kinds
def test_sums_do_not_hold_on_to_the_batch(kind, d):
    # Hooks write the next block's states over this one's.
    rows = table(dtype=torch.float64, d=d)
    for x, y in ((rows.x.clone(), rows.y.clone()), (rows.x.float(), rows.y.float()), (rows.x[:1].clone(), rows.y[:1].clone())):
        part = rows[: len(x)]
        part.x, part.y = x, y
        sums = fed(kind, part)
        held = picture(sums)
        x.zero_(), y.zero_()
        assert picture(sums) == held


@widths
@measures
def test_asking_does_not_change_the_answer(name, d):
    # Eigenvalues are remembered: an update or a merge has to forget them.
    measure, (a, b, c) = MEASURES[name], batches(table(d=d), [25, 35])
    sums = fed(measure.needs, a)
    held = picture(sums)
    assert float(from_sums(measure, sums)) == float(from_sums(measure, sums))
    assert picture(sums) == held
    feed(sums, b)
    same(from_sums(measure, sums), from_arrays(name, table(d=d)[:35]))
    sums.merge(fed(measure.needs, c))
    same(from_sums(measure, sums), from_arrays(name, table(d=d)))


@widths
@kinds
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_is_refused_or_marks_the_sums(kind, bad, d):
    # Nothing is averaged over a NaN: either the batch raises and the sums stay, or no number comes out.
    rows = table(d=d)
    rows.x[20, 3] = bad
    sums = fed(kind, rows[:10])
    held = picture(sums)
    try:
        feed(sums, rows[10:])
    except NotFinite:
        assert picture(sums) == held
        return
    for measure in MEASURES.values():
        if measure.needs == kind:
            with contextlib.suppress(NotFinite):
                assert math.isnan(from_sums(measure, sums))


# PairSums: pairs of the next block.

PAIR_MEASURES = [name for name, measure in MEASURES.items() if measure.needs == "pairs"]
pair_measures = pytest.mark.parametrize("name", PAIR_MEASURES)


def blocks(count=4, d=D):
    """States 0 .. count of a small residual stream, with a mean that drifts."""
    states = [table(d=d).x]
    for i in range(count):
        states.append(table(d=d, seed=i + 1).y * 0.5 + states[-1] + 3)
    return states


@widths
@pair_measures
@pytest.mark.parametrize("at", [[], [10], [10, 10, 31]])
def test_follow_equals_fresh_sums(name, at, d):
    states = blocks(d=d)
    sums = PairSums.empty()
    for step, (x, y) in enumerate(itertools.pairwise(states)):
        if step:
            sums = sums.follow()
        for batch in batches(Table(x, y), at):
            sums.update(batch.x, batch.y)
        same(MEASURES[name].of_sums(sums), MEASURES[name].of_arrays(x, y))
        same(MEASURES["anisotropy"].of_sums(sums.x), MEASURES["anisotropy"].of_arrays(x))


@widths
@pair_measures
def test_follow_over_machines_and_in_another_order(name, d):
    x, y, z = blocks(2, d)
    left, right = PairSums.of(x[:20], y[:20]), PairSums.of(x[20:], y[20:])
    left, right = left.follow(), right.follow()
    for sums, rows in ((left, slice(0, 20)), (right, slice(20, N))):
        for batch in reversed(batches(Table(y, z)[rows], [5, 12])):  # the moments of x were summed in the other order
            sums.update(batch.x, batch.y)
    same(MEASURES[name].of_sums(left.merge(right)), MEASURES[name].of_arrays(y, z))


@widths
@pair_measures
def test_merged_sums_can_be_followed_and_followed_ones_merged_with_fresh(name, d):
    x, y, z = blocks(2, d)
    merged = PairSums.of(x[:20], y[:20]).merge(PairSums.of(x[20:], y[20:])).follow()
    merged.update(y, z)
    same(MEASURES[name].of_sums(merged), MEASURES[name].of_arrays(y, z))
    half = PairSums.of(x[:20], y[:20]).follow()
    half.update(y[:20], z[:20])
    fresh = PairSums.of(y[20:], z[20:])
    want = MEASURES[name].of_arrays(y, z)
    same(MEASURES[name].of_sums(copy.deepcopy(half).merge(fresh)), want)
    same(MEASURES[name].of_sums(copy.deepcopy(fresh).merge(half)), want)
    same(MEASURES[name].of_sums(PairSums.empty().merge(half)), MEASURES[name].of_arrays(y[:20], z[:20]))


def test_what_follows_leaves_what_went_before():
    x, y, z = blocks(2)
    first, other = PairSums.of(x[:20], y[:20]), PairSums.of(x[20:], y[20:])
    held, others = picture(first), picture(other)
    after, beside = first.follow(), other.follow()
    after.update(y[:20], z[:20])
    beside.update(y[20:], z[20:])
    assert picture(first) == held
    besides = picture(beside)
    after.merge(beside)  # `after` has its x from `first`: merging into it must not reach back
    assert picture(beside) == besides
    assert picture(other) == others
    assert picture(first) == held  # with the others' rows in its y, CKA of `first` would come out above 1


@widths
@pytest.mark.parametrize("name", ["linearity", "linearity_of_update"])
def test_without_the_moments_of_y(name, d):
    rows = table(d=d)
    sums = PairSums(moments_of_y=False)
    for batch in batches(rows, [9, 30]):
        sums.update(batch.x, batch.y)
    same(MEASURES[name].of_sums(sums), from_arrays(name, rows))
    fresh = PairSums.of(rows.x[:9], rows.y[:9], moments_of_y=False).merge(PairSums.of(rows.x[9:], rows.y[9:], moments_of_y=False))
    same(MEASURES[name].of_sums(fresh), from_arrays(name, rows))


def test_update_products():
    rows = table(dtype=torch.float64)
    sums = PairSums.of(rows.x[:17], rows.y[:17]).merge(PairSums.of(rows.x[17:], rows.y[17:]))
    xu, uu, yy = sums.joint.update_products(sums.x.summed)
    x, y = rows.x - rows.x.mean(0), rows.y - rows.y.mean(0)
    torch.testing.assert_close(xu, x.T @ (y - x), rtol=1e-9, atol=1e-9)
    assert float(uu) == pytest.approx(float(((y - x) ** 2).sum()), rel=1e-9)
    assert float(yy) == pytest.approx(float((y**2).sum()), rel=1e-9)


# Moments.


@pytest.mark.parametrize("far", [0.0, 100.0, 3e5])
def test_sums_about_another_reference(far):
    rows = table(dtype=torch.float64)
    rows.x += far
    sums = Moments.of(rows.x)
    held = picture(sums)
    moved = Scatter(rows.x[7] + 2)
    sums.summed.add_to(moved)
    assert picture(sums) == held
    z = rows.x - (rows.x[7] + 2)
    k = (z**2).sum(1)
    assert moved.n == N
    for got, want in ((moved.s, z.sum(0)), (moved.zz, z.T @ z), (moved.k1, k.sum()), (moved.k2, (k**2).sum()), (moved.kz, k @ z)):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(moved.products, sums.products(), rtol=1e-9, atol=1e-9)


def test_moments_are_those_of_the_rows():
    rows = table(dtype=torch.float64)
    sums = Moments.of(rows.x)
    x = rows.x - rows.x.mean(0)
    assert sums.n == N
    assert sums.d == D
    torch.testing.assert_close(sums.products(), x.T @ x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sums.eigenvalues(), torch.linalg.eigvalsh(x.T @ x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 12345.678, 3e5])
def test_constant_columns_over_batches(value):
    rows = table()
    rows.x[:, 3] = value
    rows.x[:, 4] += 3e5  # far, but not constant
    sums = Moments.empty()
    for batch in batches(rows, [1, 20]):
        sums.merge(Moments.of(batch.x))
    assert sums.constant_columns().tolist() == [False, False, False, True, False]


def test_distinct_rows_are_bounded_and_counted_over_machines():
    x = table(12).x
    assert len(Moments.of(table(500).x).distinct) <= D + 2
    few = Moments.of(x[:4]).merge(Moments.of(x[:4])).merge(Moments.of(x[2:5]))
    assert len(few.distinct) == 5
    many = Moments.empty()
    for seed in range(10):  # nor may the set grow with the number of machines
        many.merge(Moments.of(table(30, seed=seed).x))
    assert len(many.distinct) == D + 2


# RowSample.


@QUICK
@given(cap=st.integers(1, N + 5), at=cuts, order=orders, data=st.data())
def test_row_sample_is_bounded_and_independent_of_order_and_split(cap, at, order, data):
    rows = table()
    parts = [fed("rows", batch, cap) for batch in batches(rows[order], at)]
    while len(parts) > 1:
        parts = data.draw(st.permutations(parts))
        parts[0].merge(parts.pop())
        assert parts[0].rows is None or len(parts[0].rows) <= cap
    grown = empty("rows", cap)
    for batch in batches(rows[order], at):
        feed(grown, batch)
    kept = rows.priority.sort().indices[:cap]  # by definition: the smallest priorities
    for sums in (grown, parts[0]):
        assert sums.seen == N
        mine = sums.priorities.sort()
        assert torch.equal(mine.values, rows.priority[kept])
        assert torch.equal(sums.rows[mine.indices], rows.x[kept])  # each row with its own priority
        assert torch.equal(sums.labels[mine.indices], rows.labels[kept])  # and its own image and fold
    # Not only the same set: TwoNN's digits depend on the order of rows, so it is the same too.
    assert torch.equal(grown.rows, parts[0].rows)


def test_row_sample_is_a_fair_draw():
    # Random priorities keep each row with probability cap / n: 400 draws of 12 from 48, 100 expected, standard deviation 8.7.
    rows, g, counts = table(), torch.Generator().manual_seed(1), torch.zeros(N)
    for _ in range(400):
        rows.priority = torch.randperm(N, generator=g)
        kept = fed("rows", rows, 12).rows
        counts += (rows.x[:, None] == kept[None]).all(-1).any(1)
    assert counts.sum() == 400 * 12
    assert counts.min() > 100 - 4.5 * 8.7
    assert counts.max() < 100 + 4.5 * 8.7


def test_row_sample_takes_priorities_of_64_bits():
    rows = table()
    rows.priority = rows.priority.to(torch.int64) * 2**57 - 2**62
    kept = fed("rows", rows[:20], 7).merge(fed("rows", rows[20:], 7))
    assert set(kept.priorities.tolist()) == set(rows.priority.sort().values[:7].tolist())


def test_an_empty_sample():
    sums = empty("rows", 5).merge(empty("rows", 5))
    assert sums.seen == 0
    assert sums.rows is None or len(sums.rows) == 0


def test_a_priority_for_every_row():
    # One too few would drop a row without a word; one too many is somebody else's.
    rows = table()
    for priorities in (rows.priority[:-1], torch.arange(N + 1)):
        sums = empty("rows", 5)
        with pytest.raises(ValueError):
            sums.update(rows.x, priorities)


def test_labels_of_every_row():
    rows = table()
    for labels in (rows.labels[:-1], rows.labels[:, :1], rows.image):
        sums = empty("rows", 5)
        with pytest.raises(ValueError, match="labels"):
            sums.update(rows.x, rows.priority, labels)
        assert sums.seen == 0
    sums = empty("rows", 5)
    sums.update(rows.x, rows.priority)
    assert sums.labels.tolist() == [[0, 0]] * 5


# CosineSums.


def test_cosines_count_rows_without_direction_over_machines():
    rows = table()
    rows.x[[0, 9, 40]] = 0
    sums = empty("cosines")
    for batch in batches(rows, [5, 9, 30]):
        sums.merge(fed("cosines", batch))
    for name in ("mean_cosine", "mean_cosine_between"):
        value = from_sums(MEASURES[name], sums)
        same(value, from_arrays(name, rows))
        assert value.n == N - 3
    assert sums.zeros == 3


def test_an_image_split_over_machines_is_one_image():
    rows = table()
    rows.image = torch.zeros(N, dtype=torch.int64)
    sums = empty("cosines")
    for batch in batches(rows, [5, 9, 30]):
        sums.merge(fed("cosines", batch))
    value = from_sums(MEASURES["mean_cosine_between"], sums)
    assert math.isnan(value)
    assert "1 image" in value.note


# Negative control: what the harness is for. Averaging the batches' own values is the slip it must see.


@measures
def test_the_mean_over_batches_is_another_number(name):
    rows = table()
    parts = batches(rows, [15])
    averaged = sum(float(from_arrays(name, part)) * len(part.x) for part in parts) / N
    assert averaged != pytest.approx(float(from_arrays(name, rows)), rel=1e-4)
