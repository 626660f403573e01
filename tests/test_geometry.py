"""The instrument: its intervals, floors and variants against the measures themselves, on rows that are chosen again by hand."""

import math

import pytest
import torch

import medlens
from medlens.findings import Findings
from medlens.instruments.geometry import Geometry
from medlens.measures.floor import adjusted
from medlens.measures.held_out import held_out_linearity, held_out_linearity_of_update
from medlens.plan import Plan
from medlens.stats.intervals import jackknife
from medlens.types import Value
from medlens.walk.layout import Layout, partners

IMAGES, TOKENS, D, FOLDS = 11, 12, 6, 4
PLAN = Plan(neighbour_rows=200, folds=FOLDS)


class Image:
    """A case of image tokens alone."""

    def __init__(self, k, x, y):
        self.image, self.k, self.x, self.y = f"image {k}", k, x, y
        self.readings = [list(range(len(x)))]

    def where(self, group):
        return list(range(len(self.x))) if group == "image" else []

    def identity(self, place):
        return self.image, place

    def described(self, reading, place):
        return self.image, place, f"token {place}", "image"


def images(massive=(), rows=TOKENS, width=D, count=IMAGES):
    """massive: (image, token, column) of state 1 or 0, planted in x."""
    g = torch.Generator().manual_seed(3)
    turn = torch.randn(width, width, generator=g) / 3
    made = []
    for k in range(count):
        x = torch.randn(rows, width, generator=g) + torch.randn(width, generator=g)
        y = x + x @ turn + 0.5 * torch.tanh(2 * x) + 0.2 * torch.randn(rows, width, generator=g)
        for image, token, column in massive:
            if image == k:
                x[token, column] += 3000
                y[token, column] += 3000
        made.append(Image(k, x, y))
    return made


def layout_for(cases, folds=FOLDS):
    fold_of = {case.image: case.k % folds for case in cases}
    return Layout(folds, fold_of, {case.image: case.k for case in cases}, partners(fold_of))


def measured(cases, plan=PLAN, folds=FOLDS):
    """Rows by measure and variant of block 0, and all findings."""
    findings = Findings()
    geometry = Geometry(plan, layout_for(cases, folds), findings)
    for case in cases:
        geometry.visit(0, case, case.x, case.y)
    geometry.leave(0)
    return {(r.protocol, r.measure, r.variant): r for r in findings.rows if r.tokens == "image"}, findings


def stacked(cases):
    image = [case.k for case in cases for _ in case.x]
    return torch.cat([case.x for case in cases]), torch.cat([case.y for case in cases]), image


PAIRS = {"linearity": medlens.linearity, "linearity_of_update": medlens.linearity_of_update, "cka": medlens.cka}
STATES = {
    "anisotropy": medlens.anisotropy, "participation_ratio": medlens.participation_ratio, "effective_rank": medlens.effective_rank,
    "mean_cosine": medlens.mean_cosine,
}  # fmt: skip


def by_hand(name, cases):
    x, y, image = stacked(cases)
    if name in PAIRS:
        return PAIRS[name](x, y)
    if name.startswith("held_out"):
        held_out = held_out_linearity if name == "held_out_linearity" else held_out_linearity_of_update
        return held_out(x, y, [k % FOLDS for k in image])
    return medlens.mean_cosine_between(x, image) if name == "mean_cosine_between" else STATES[name](x)


STATES_SMOOTH = ["anisotropy", "participation_ratio", "mean_cosine", "mean_cosine_between"]
SMOOTH = [*PAIRS, "held_out_linearity", "held_out_linearity_of_update", *STATES_SMOOTH]


@pytest.fixture(scope="module")
def whole():
    cases = images()
    return cases, *measured(cases)


@pytest.mark.parametrize("name", [*SMOOTH, "effective_rank"])
def test_value(whole, name):
    cases, rows, _ = whole
    row = rows["sound", name, "raw"]
    assert row.value == pytest.approx(by_hand(name, cases), rel=1e-9)
    assert row.n == IMAGES * TOKENS


@pytest.mark.parametrize("name", SMOOTH)
def test_interval_is_the_jackknife_over_whole_folds(whole, name):
    """Each fold's images really taken away, and everything computed from the rest."""
    cases, rows, findings = whole
    row = rows["sound", name, "raw"]
    without = [by_hand(name, [case for case in cases if case.k % FOLDS != k]) for k in range(FOLDS)]
    expected = jackknife(Value(row.value), without)
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
    found = [left.value for left in findings.left_out if left[1:6] == (name, 0, "image", "all", "raw") and left.protocol == "sound"]
    assert found == pytest.approx(without, rel=1e-8)


def test_no_interval_for_the_effective_rank(whole):
    assert whole[1]["sound", "effective_rank", "raw"].low is None


def test_all_groups_together_have_the_same_intervals(whole):
    """All rows are image rows here: group `all` must say the same."""
    _, rows, findings = whole
    for row in findings.rows:
        if row.tokens == "all" and row.low is not None:
            same = rows[row.protocol, row.measure, row.variant]
            assert (row.value, row.low, row.high) == pytest.approx((same.value, same.low, same.high), rel=1e-9)


def test_floor_is_the_score_with_whole_images_changing_places(whole):
    cases, rows, _ = whole
    partner = layout_for(cases).partner_of
    of = {case.image: case for case in cases}
    assert all(partner[image] != image for image in partner)
    assert sorted(partner.values()) == sorted(partner)
    x = torch.cat([of[i].x for i in partner])
    y = torch.cat([of[j].y for j in partner.values()])
    update = torch.cat([of[j].y - of[j].x for j in partner.values()])
    floor = rows["sound", "linearity_floor", "raw"].value
    assert floor == pytest.approx(medlens.linearity(x, y), rel=1e-6)
    assert rows["sound", "linearity_of_update_floor", "raw"].value == pytest.approx(medlens.linearity(x, update), rel=1e-6)
    above = rows["sound", "linearity_adjusted", "raw"]
    assert above.value == pytest.approx((rows["sound", "linearity", "raw"].value - floor) / (1 - floor), rel=1e-9)
    assert above.low < above.value < above.high
    assert rows["null: pairs", "linearity", "raw"].value == floor
    assert abs(rows["null: pairs", "cka", "raw"].value) < 0.3 < rows["sound", "cka", "raw"].value


def test_adjusted():
    assert adjusted(Value(0.7), Value(0.7)) == 0
    assert adjusted(Value(1.0), Value(0.7)) == 1
    assert "no partner" in adjusted(Value(0.7), Value.undefined(0, "no partner")).note
    assert math.isnan(adjusted(Value(1.0), Value(1.0)))


@pytest.mark.parametrize("folds", [FOLDS, 1])
def test_without_massive(folds):
    """The same as a study of the tokens that have none; listed: each one, with its place."""
    cases = images(massive=[(2, 5, 1), (2, 5, 3), (7, 0, 1)])
    rows, findings = measured(cases, folds=folds)
    found = {(m.layer, m.sample, m.position, m.column) for m in findings.massive}
    assert found == {(b, f"image {k}", t, c) for b in (0, 1) for k, t, c in [(2, 5, 1), (2, 5, 3), (7, 0, 1)]}
    fewer = [Image(c.k, _drop(c.x, c.k), _drop(c.y, c.k)) for c in images()]
    x, y, image = stacked(fewer)
    for name, measure in {**PAIRS, **STATES}.items():
        expected = measure(x, y) if name in PAIRS else measure(x)
        assert rows["sound", name, "without massive"].value == pytest.approx(expected, rel=1e-6), name
        assert rows["sound", name, "raw"].value != pytest.approx(expected, rel=1e-2), name
    between = medlens.mean_cosine_between(x, image)
    assert rows["sound", "mean_cosine_between", "without massive"].value == pytest.approx(between, rel=1e-9)
    assert rows["sound", "anisotropy", "raw"].value > 0.8 > rows["sound", "anisotropy", "without massive"].value


def _drop(rows, k):
    gone = {2: 5, 7: 0}.get(k)
    return rows if gone is None else torch.cat([rows[:gone], rows[gone + 1 :]])


def test_without_massive_while_rows_are_kept():
    """Fewer rows than columns."""
    cases = images(massive=[(0, 1, 3)], rows=5, width=40, count=4)
    rows, _ = measured(cases)
    x = torch.cat([torch.cat([c.x[:1], c.x[2:]]) if c.k == 0 else c.x for c in cases])
    for name, measure in STATES.items():
        assert rows["sound", name, "without massive"].value == pytest.approx(measure(x), rel=1e-6), name
    assert "distinct rows" in rows["sound", "linearity", "without massive"].note


def test_none_is_massive(whole):
    """Negative control: the variant without them is then the same, and nothing is listed."""
    _, rows, findings = whole
    assert findings.massive == []
    for (protocol, name, variant), row in rows.items():
        if variant == "without massive":
            assert row.value == rows[protocol, name, "raw"].value or math.isnan(row.value)


def test_standardised(whole):
    """Columns divided by their standard deviation, before anything else; of the update, the update's."""
    cases, rows, _ = whole
    x, y, _ = (torch.as_tensor(part, dtype=torch.float64) for part in stacked(cases))
    for name, measure in STATES.items():
        assert rows["sound", name, "standardised"].value == pytest.approx(measure(x / x.std(0)), rel=1e-6), name
    assert rows["sound", "linearity", "standardised"].value == pytest.approx(medlens.linearity(x, y / y.std(0)), rel=1e-6)
    update = (y - x) / (y - x).std(0)
    assert rows["sound", "linearity_of_update", "standardised"].value == pytest.approx(medlens.linearity(x, update), rel=1e-6)
    assert rows["sound", "linearity", "standardised"].value != pytest.approx(rows["sound", "linearity", "raw"].value, rel=1e-3)


def test_one_column_times_10000_changes_nothing_that_is_standardised():
    """The adversarial column: raw scores follow it, standardised ones do not."""
    plain, stretched = images(), images()
    for case in stretched:
        case.x[:, 2] *= 1e4
        case.y[:, 2] *= 1e4
    (a, _), (b, _) = measured(plain), measured(stretched)
    key = ("sound", "participation_ratio")
    assert b[*key, "standardised"].value == pytest.approx(a[*key, "standardised"].value, rel=1e-6)
    assert b[*key, "raw"].value == pytest.approx(1, abs=1e-3)


def test_one_image():
    rows, _ = measured(images(count=1, rows=40))
    assert rows["sound", "linearity", "raw"].low is None
    assert rows["sound", "linearity", "raw"].value < 1
    assert "fold" in rows["sound", "held_out_linearity", "raw"].note
    assert "no two images" in rows["sound", "linearity_floor", "raw"].note


def test_wide_models_leave_out_what_costs_more_than_the_walk(monkeypatch):
    monkeypatch.setattr("medlens.instruments.geometry.WIDE", D - 1)
    rows, findings = measured(images())
    assert {variant for _, _, variant in rows} == {"raw"}
    assert rows["sound", "linearity", "raw"].low is not None
    assert "thorough" in rows["sound", "held_out_linearity", "raw"].note
    assert not any(r.measure.endswith("floor") for r in findings.rows)
    asked, _ = measured(images(), Plan(neighbour_rows=64, folds=FOLDS, thorough=True))
    assert ("sound", "linearity_floor", "raw") in asked
