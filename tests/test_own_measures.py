"""Measures of the user's own."""

import polars as pl
import pytest
import torch

import medlens
from medlens._instruments import instruments_for
from medlens.errors import BadInput
from medlens.findings import Findings
from medlens.instruments.own import OwnMeasures, own_measures
from medlens.plan import Plan
from medlens.stats.intervals import jackknife
from medlens.types import Value
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, steps
from medlens.walk.layout import layout_of
from medlens.walk.room import Room

HOME = "own_functions:"


class Keep:
    """Every state, by group; of the images' rows also the fold."""

    def __init__(self, layout):
        self.rows, self.folds, self.layout = {}, {}, layout

    def note(self, state, case, rows):
        for group in ("image", "text", "all"):
            places = case.where(group)
            self.rows.setdefault((state, group), []).append(rows[places].double())
            self.folds.setdefault((state, group), []).extend([self.layout.fold_of[case.image]] * len(places))

    def visit(self, block, case, before, after):
        self.note(("x", block), case, before)
        self.note(("y", block), case, after)

    def finish(self, case, raw, normed):
        self.note("raw", case, raw)
        self.note("normed", case, normed)


@pytest.fixture(scope="module")
def laid(phantom):
    return cases(phantom, [prepare(phantom, s, s.answer) for s in medlens.phantom.samples(30)])


def walked(model, laid, *names, cap=4096):
    plan, layout = Plan(measures=tuple(HOME + name for name in names), neighbour_rows=cap), layout_of(laid, 3)
    own, keep = OwnMeasures(plan, layout, Findings()), Keep(layout)
    for passed in steps(model, laid, [own, keep], lambda: None, Room()):
        (own.leave if passed < model.depth else own.conclude)(passed)
    return {(r.measure, r.layer, r.tokens, r.variant): r for r in own.findings.rows}, keep, own.findings


def test_rows_are_the_function_of_the_states(phantom, laid):
    found, keep, findings = walked(phantom, laid, "mean_norm", "moved")
    assert len(found) == 5 * (phantom.depth + phantom.depth + 2)
    for group in ("image", "text", "all"):
        for block in range(phantom.depth):
            x, y = (torch.cat(keep.rows[(s, block), group]) for s in "xy")
            row = found["mean_norm", block, group, "raw"]
            assert row.value == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-9)
            assert (row.n, row.note) == (len(x), "")
            assert found["moved", block, group, "raw"].value == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-9)
        for variant in ("raw", "normed"):
            x = torch.cat(keep.rows[variant, group])
            assert found["mean_norm", phantom.depth, group, variant].value == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-9)
    x, folds = torch.cat(keep.rows[("x", 2), "image"]), torch.tensor(keep.folds[("x", 2), "image"])
    without = [Value(float(x[folds != k].norm(dim=1).mean()), 1) for k in range(3)]
    expected, row = jackknife(Value(float(x.norm(dim=1).mean()), 1), without), found["mean_norm", 2, "image", "raw"]
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high))
    left = [r.value for r in findings.left_out if r[1:4] == ("mean_norm", 2, "image")]
    assert left == pytest.approx([float(v) for v in without])


def test_a_sample_says_so_and_notes_are_kept(phantom, laid):
    found, *_ = walked(phantom, laid, "mean_norm", "with_a_note", "nothing", cap=50)
    row = found["mean_norm", 0, "image", "raw"]
    assert row.n == 50
    assert row.note.startswith("50 of ")
    assert found["with_a_note", 0, "text", "raw"].note.startswith("of one's own")
    nothing = found["nothing", 0, "image", "raw"]
    assert nothing.value != nothing.value
    assert "nothing returned nan" in nothing.note


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone_module:f", "gone_module cannot be imported"),
        ("own_functions:gone", "has no function gone"),
        ("own_functions", "expected module:function"),
        ("own_functions:three", r"takes \(x, y, z\); expected x"),
        ("own_functions:anisotropy", "there is one of this name already"),
    ],
)
def test_what_cannot_be_one(name, says, tmp_path):
    with pytest.raises(BadInput, match=says):
        own_measures([name])
    with pytest.raises(BadInput, match=says):
        medlens.study("phantom", "phantom", Plan(measures=(name,)), tmp_path / "run")


def test_an_error_in_it_is_one_line_that_says_where(phantom, laid):
    with pytest.raises(BadInput, match=r"fails failed at state 0, image tokens, group all: ZeroDivisionError: too few rows"):
        walked(phantom, laid, "fails")
    with pytest.raises(BadInput, match=r"speaks failed at state 0, image tokens, group all: ValueError"):
        walked(phantom, laid, "speaks")


def test_handed_over_in_shares_it_is_the_same(phantom, laid):
    plan, layout = Plan(measures=(f"{HOME}mean_norm", f"{HOME}moved")), layout_of(laid, 3)
    whole, merged = instruments_for(plan, layout).named["own"], instruments_for(plan, layout).named["own"]
    halves = [instruments_for(plan, layout).named["own"] for _ in range(2)]
    images = list(layout.fold_of)
    for k, half in enumerate([*halves, whole]):
        mine = [c for c in laid if k == 2 or (c.image in images[: len(images) // 2]) == (k == 0)]
        for passed in steps(phantom, mine, [half], lambda: None, Room()):
            last = passed == phantom.depth
            if k == 2:
                (half.conclude if last else half.leave)(passed)
            elif last:
                merged.take(half.hand_over_last())
            elif passed == 0:
                merged.take(half.hand_over())
            else:
                half.hand_over()
        if k == 1:
            merged.leave(0)
            merged.conclude(phantom.depth)
    expected = [r for r in whole.findings.rows if r.layer in (0, phantom.depth)]
    assert merged.findings.rows == expected


def test_a_study_with_one(phantom, tmp_path, monkeypatch):
    monkeypatch.setattr("medlens.report.as_files", lambda chart: {"svg": ""})
    monkeypatch.setattr("medlens.report.figures.drawn", lambda *chart: {})
    plan = Plan(limit=6, answers="given", measures=(f"{HOME}mean_norm",), by=("modality",))
    run = medlens.study(phantom, "phantom", plan, tmp_path / "run")
    rows = run.rows.filter(pl.col("measure") == "mean_norm")
    assert {"all"} < set(rows["group"])
    assert "--measure own_functions:mean_norm" in run.manifest["command"]
    assert "measures" in run.manifest["identity"]
