"""Sums by fold, and sums as named tensors: nothing may be lost, shared or taken for another's."""

import itertools
import math

import pytest
import torch
from safetensors.torch import load, save

from medlens.errors import BadInput, BadRun
from medlens.measures import MEASURES
from medlens.stats import CosineSums, Folds, Moments, PairSums, RowSample
from test_sums import KINDS, PAIR_MEASURES, Table, batches, blocks, empty, fed, feed, from_arrays, picture, same, table, widths

FOLDS = 3
kinds = pytest.mark.parametrize("kind", KINDS)
KIND = {"pairs": PairSums, "moments": Moments, "cosines": CosineSums, "rows": RowSample}


def folds_of(kind, rows, count=FOLDS, image_of=lambda image: image):
    folds = Folds(lambda: empty(kind), count)
    for image in rows.image.unique().tolist():
        feed(folds[image_of(image) % count], rows[rows.image == image])
    return folds


def measured(kind, sums):
    return {name: m.of_sums(sums) for name, m in MEASURES.items() if m.needs == kind}


def agree(kind, sums, rows):
    for name, value in measured(kind, sums).items():
        same(value, from_arrays(name, rows))


# Folds.


@widths
@kinds
def test_total_and_what_is_left_out(kind, d):
    rows = table(d=d)
    folds = folds_of(kind, rows)
    assert len(folds) == FOLDS
    assert folds.filled == [0, 1, 2]
    held = [picture(sums) for sums in folds]
    agree(kind, folds.total(), rows)
    for k in range(FOLDS):
        agree(kind, folds.without(k), rows[rows.image % FOLDS != k])
    assert [picture(sums) for sums in folds] == held
    feed(folds.total(), rows)  # nor may a total write into its folds
    feed(folds.without(0), rows)
    assert [picture(sums) for sums in folds] == held


@kinds
def test_folds_merge_fold_by_fold(kind):
    rows = table()
    left, right = folds_of(kind, rows[:20]), folds_of(kind, rows[20:])
    held = [picture(sums) for sums in right]
    assert left.merge(right) is left
    assert [picture(sums) for sums in right] == held
    for k in range(FOLDS):
        agree(kind, left[k], rows[rows.image % FOLDS == k])
    with pytest.raises(BadInput, match="folds"):
        left.merge(folds_of(kind, rows, FOLDS + 1))


def test_folds_without_rows():
    folds = folds_of("moments", table(), image_of=lambda image: 1)
    assert folds.filled == [1]
    assert folds.without(1).n == 0
    agree("moments", folds.total(), table())
    with pytest.raises(BadInput):
        Folds(Moments, 0)


@widths
@pytest.mark.parametrize("name", PAIR_MEASURES)
def test_folds_follow(name, d):
    x, y, z = blocks(2, d)
    fold = torch.arange(len(x)) % FOLDS
    folds = Folds(PairSums, FOLDS)
    for k in range(FOLDS):
        folds[k].update(x[fold == k], y[fold == k])
    outgoing = folds.map(lambda pairs: pairs.y, Moments)
    before = float(MEASURES["anisotropy"].of_sums(outgoing.total()))
    folds = folds.map(PairSums.follow, PairSums)
    for k in range(FOLDS):
        folds[k].update(y[fold == k], z[fold == k])
    same(MEASURES[name].of_sums(folds.total()), MEASURES[name].of_arrays(y, z))
    same(MEASURES[name].of_sums(folds.without(1)), MEASURES[name].of_arrays(y[fold != 1], z[fold != 1]))
    assert float(MEASURES["anisotropy"].of_sums(outgoing.total())) == before


# Who owns what: sums of one object are read by another until either of them changes.


def test_what_went_before_may_go_on_without_what_follows():
    x, y, z = blocks(2)
    first = PairSums.of(x[:20], y[:20])
    after = first.follow()
    after.update(y[:20], z[:20])
    held = picture(after)
    first.update(x[20:], y[20:])
    assert picture(after) == held  # which has y in common with the first until then
    same(MEASURES["cka"].of_sums(first), MEASURES["cka"].of_arrays(x, y))


@widths
@kinds
def test_saved_tensors_do_not_change_with_the_sums(kind, d):
    rows = table(d=d)
    sums = fed(kind, rows[:30])
    saved = sums.tensors()
    held = {name: tensor.clone() for name, tensor in saved.items()}
    feed(sums, rows[30:])
    read = KIND[kind].from_tensors(saved)
    feed(read, rows[30:])
    for name, tensor in saved.items():
        assert torch.equal(tensor, held[name]), name
    assert measured(kind, read) == pytest.approx(measured(kind, sums), rel=1e-12, nan_ok=True)


# Named tensors.


@widths
@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_round_trip_through_a_file(kind, dtype, d):
    rows = table(dtype=dtype, d=d)
    for sums in (empty(kind), fed(kind, rows[:1]), fed(kind, rows[:30]).merge(fed(kind, rows[30:]))):
        read = KIND[kind].from_tensors(load(save(sums.tensors())))
        assert picture(read) == picture(sums)
        assert str(measured(kind, read)) == str(measured(kind, sums))
        same_rows = fed(kind, rows).merge(read)
        for name, value in measured(kind, same_rows).items():
            same(value, MEASURES[name].of_sums(fed(kind, rows).merge(sums)))


@kinds
def test_missing_and_unknown_tensors_are_refused(kind):
    for part in (table()[:4], table()):  # kept, and summed
        good = fed(kind, part).tensors()
        for name in good:
            with pytest.raises(BadRun):
                KIND[kind].from_tensors({key: tensor for key, tensor in good.items() if key != name})
        for name in ("other", "x.other", "y.zv"):
            with pytest.raises(BadRun, match="unknown"):
                KIND[kind].from_tensors({**good, name: torch.zeros(1)})


@widths
def test_folds_round_trip_with_and_without_x(d):
    x, y, z = blocks(2, d)
    fold = torch.arange(len(x)) % FOLDS
    first = Folds(PairSums, FOLDS)
    for k in range(FOLDS):
        first[k].update(x[fold == k], y[fold == k])
    after = first.map(PairSums.follow, PairSums)
    for k in range(FOLDS):
        after[k].update(y[fold == k], z[fold == k])
    whole, left_out = load(save(after.tensors())), load(save(after.tensors(leave_out_x=True)))
    read = Folds.from_tensors(whole, lambda k, t: PairSums.from_tensors(t), PairSums)
    assert [picture(sums) for sums in read] == [picture(sums) for sums in after]
    read = Folds.from_tensors(left_out, lambda k, t: PairSums.from_tensors(t, first[k].y), PairSums)
    assert [picture(sums) for sums in read] == [picture(sums) for sums in after]
    for name in PAIR_MEASURES:
        same(MEASURES[name].of_sums(read.total()), MEASURES[name].of_arrays(y, z))
    if d == 5:  # summed: x is not in the file
        assert not [name for name in left_out if ".x." in name]
        with pytest.raises(BadRun, match="missing x"):
            Folds.from_tensors(left_out, lambda k, t: PairSums.from_tensors(t), PairSums)
    with pytest.raises(BadRun, match="folds"):
        Folds.from_tensors({**whole, "7.n": torch.tensor(1)}, lambda k, t: PairSums.from_tensors(t), PairSums)


# Few rows are kept, many are summed, and the matrices stay as small as they can be.


@pytest.mark.parametrize("d", [4, 16])
def test_kept_up_to_as_many_rows_as_columns(d):
    rows = table(d + 1, d)
    pairs = PairSums.of(rows.x[:d], rows.y[:d])
    assert pairs.joint is None
    assert pairs.x.products().shape == (d, d)
    half = PairSums.of(rows.x[: d // 2], rows.y[: d // 2])
    assert half.x.products().shape == (d // 2, d // 2)
    assert half.x.kept.rows[0].dtype == torch.float32  # as they came
    pairs.update(rows.x[d:], rows.y[d:])
    assert pairs.joint is not None
    assert pairs.x.summed.n == pairs.y.summed.n == pairs.joint.n == d + 1


def test_at_equal_rows_the_two_forms_agree():
    # The same rows kept (n <= d) and summed by force.
    rows = table(16, 20, dtype=torch.float64)
    kept, summed = PairSums.of(rows.x, rows.y), PairSums.of(rows.x, rows.y)
    summed._joint(rows.x[0], rows.y[0])
    assert summed.x.products().shape == (20, 20)
    for name in PAIR_MEASURES:
        same(MEASURES[name].of_sums(kept), MEASURES[name].of_sums(summed), rel=1e-8)
    for name in ("anisotropy", "participation_ratio", "effective_rank"):
        same(MEASURES[name].of_sums(kept.x), MEASURES[name].of_sums(summed.x))


def test_the_largest_eigenvalue_of_many_kept_rows():
    # Above 512 it comes from an iteration, whose start must not be the null vector of a centred Gram matrix.
    x = table(600, 5, dtype=torch.float64).x @ torch.randn(5, 700, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sums = Moments.of(x)
    assert float(MEASURES["anisotropy"].of_sums(sums)) == pytest.approx(
        float(sums.eigenvalues()[-1] / sums.eigenvalues().sum()), rel=1e-10
    )


# CosineSums: closed images.


def closing(rows, at=()):
    """Images one after the other, closed in turn."""
    sums = CosineSums()
    for image in rows.image.unique().tolist():
        for part in batches(rows[rows.image == image], at):
            sums.update(part.x, image)
        sums.close()
    return sums


def test_closed_images_are_numbers_and_give_the_same():
    rows = table()
    sums = closing(rows, [3, 7])
    assert not sums.open
    assert sums.images == 4
    agree("cosines", sums, rows)
    agree("cosines", Folds(CosineSums, 2).merge(folds_of("cosines", rows, 2)).total(), rows)
    read = CosineSums.from_tensors(load(save(sums.tensors())))
    assert picture(read) == picture(sums)
    agree("cosines", read, rows)
    size = sum(tensor.numel() for tensor in closing(table(480, 64)).tensors().values())
    assert size < 200  # one row of 64, and eight bytes an image


def test_merging_closed_and_open_images():
    rows = table()
    first, second = rows[rows.image < 2], rows[rows.image >= 2]
    agree("cosines", closing(first).merge(closing(second)), rows)
    agree("cosines", fed("cosines", first).merge(closing(second)), rows)
    agree("cosines", closing(first).merge(fed("cosines", second)), rows)
    halves = fed("cosines", rows[:24]).merge(fed("cosines", rows[24:]))  # open in both
    halves.close()
    agree("cosines", halves, rows)


def test_a_closed_image_that_comes_again_is_refused():
    rows = table()
    with pytest.raises(BadInput, match="closed"):
        closing(rows).update(rows.x, 0)
    for one, two in itertools.product((closing(rows), fed("cosines", rows)), repeat=2):
        if one.closed or two.closed:
            held = picture(one)
            with pytest.raises(BadInput, match="closed"):
                one.merge(two)
            assert picture(one) == held
    one = closing(rows)
    one.update(rows.x, "another")
    assert math.isfinite(MEASURES["mean_cosine_between"].of_sums(one))


def test_a_table_is_cut_as_said():
    rows = Table(torch.arange(8.0)[:, None], torch.arange(8.0)[:, None])
    assert [len(part.x) for part in batches(rows, [2, 2, 5])] == [2, 0, 3, 3]
