import json
import re
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file
from scipy.stats import ttest_ind, ttest_rel

import medlens
import oracles
from medlens.comparison.kernels import FILE, centred_kernel
from medlens.errors import BadInput, BadRun
from medlens.plan import Plan
from written import FOLDS, write_run

LAYERS = 9


def folds(rng, level=0.0, noise=0.1, layers=LAYERS, count=FOLDS):
    return level + noise * rng.standard_normal((count, layers))


def test_paired_by_fold_is_the_paired_t_test(tmp_path):
    rng = np.random.default_rng(0)
    a, b = folds(rng), folds(rng, 0.3)
    got = medlens.compare([write_run(tmp_path / "a", {"cka/image": a}), write_run(tmp_path / "b", {"cka/image": b})]).differences
    theirs = ttest_rel(b, a).confidence_interval(1 - 0.05 / LAYERS)
    assert np.allclose(got["low"], theirs.low)
    assert np.allclose(got["high"], theirs.high)
    assert np.allclose(got["difference"], (b - a).mean(axis=0))
    assert set(got["how"]) == {"paired"}
    assert got["significant"].to_list() == [low > 0 or high < 0 for low, high in zip(got["low"], got["high"], strict=True)]
    assert set(got["looked_at"]) == {LAYERS}


@pytest.mark.parametrize(("data", "count"), [("d2", 5), ("d1", 7), ("d2", 4)])
def test_other_data_or_folds_are_welchs_t_test(data, count, tmp_path):
    rng = np.random.default_rng(1)
    a, b = folds(rng), folds(rng, 0.3, 0.2, count=count)
    runs = [write_run(tmp_path / "a", {"cka/image": a}), write_run(tmp_path / "b", {"cka/image": b}, folds=count, data=data)]
    found = medlens.compare(runs)
    theirs = ttest_ind(b, a, equal_var=False).confidence_interval(1 - 0.05 / LAYERS)
    assert np.allclose(found.differences["low"], theirs.low)
    assert np.allclose(found.differences["high"], theirs.high)
    assert set(found.differences["how"]) == {"unpaired"}
    assert "not paired: data or folds differ" in found.notes[0]


def test_pairing_takes_out_what_the_folds_share(tmp_path):
    rng = np.random.default_rng(2)
    shared = 3 * rng.standard_normal((FOLDS, 1))
    a, b = {"cka/image": folds(rng) + shared}, {"cka/image": folds(rng, 1.0) + shared}
    first = write_run(tmp_path / "a", a)
    assert medlens.compare([first, write_run(tmp_path / "b", b)]).differences["significant"].all()
    assert not medlens.compare([first, write_run(tmp_path / "c", b, data="d2")]).differences["significant"].any()


def test_where_nothing_differs_little_is_significant(tmp_path):
    """Negative control: in at most 5 % of 200 draws does any of the layers differ (10; 18 or more has a probability of 0.01)."""
    rng, hits = np.random.default_rng(3), {"d1": 0, "d2": 0}
    for draw in range(200):
        first = write_run(tmp_path / f"{draw}a", {"cka/image": folds(rng)})
        for data in hits:
            other = write_run(tmp_path / f"{draw}{data}", {"cka/image": folds(rng)}, data=data)
            hits[data] += medlens.compare([first, other]).differences["significant"].any()
    assert max(hits.values()) <= 17


def test_rounding_is_no_difference(tmp_path):
    """A self-similarity of 1 at state 0, in every fold, but for the last digit of float32."""
    ones, nearly = np.ones((FOLDS, 3)), np.full((FOLDS, 3), 1 - 2.0**-23)
    runs = [write_run(tmp_path / n, {"self_similarity/text": v}) for n, v in (("a", ones), ("b", nearly), ("c", ones - 1e-5))]
    found = medlens.compare(runs).differences
    assert not found.filter(other="b")["significant"].any()
    assert found.filter(other="c")["significant"].all()


def test_three_runs_are_compared_with_the_first(tmp_path):
    rng = np.random.default_rng(4)
    runs = [write_run(tmp_path / n, {"cka/image": folds(rng, k), "mev/text": folds(rng)}) for k, n in enumerate("abc")]
    found = medlens.compare(runs)
    assert found.differences.group_by("other").len().sort("other").rows() == [("b", 18), ("c", 18)]
    summary = {(s["other"], s["measure"]): s for s in found.summary.to_dicts()}
    assert summary["b", "cka"]["difference"] == pytest.approx(1, abs=0.4)
    assert summary["c", "cka"]["differing"] == "9 of 9"
    assert summary["b", "mev"]["differing"] == "0 of 9"
    assert found.summary["measure"][0] == "cka"  # what differs comes first


def test_other_depths_meet_at_the_nearest_relative_depth(tmp_path):
    curves = [{"anisotropy/image": np.tile(np.arange(n + 1) / n, (FOLDS, 1)), "cka/image": np.zeros((FOLDS, n))} for n in (8, 32)]
    runs = [write_run(tmp_path / f"{n}", c, blocks=n) for n, c in zip((8, 32), curves, strict=True)]
    found = medlens.compare(runs)
    states = found.differences.filter(pl.col("measure") == "anisotropy")
    assert states["other_layer"].to_list() == list(range(0, 33, 4))
    assert np.allclose(states["difference"], 0)
    blocks = found.differences.filter(pl.col("measure") == "cka")
    assert blocks.height == 8
    assert ((blocks["other_layer"] + 0.5) / 32 - (blocks["layer"] + 0.5) / 8).abs().max() <= 0.5 / 32 + 1e-12
    assert any("nearest relative depth" in note for note in found.notes)
    assert "relative depth" in found.write(tmp_path / "out").read_text()


def test_protocols_that_differ_are_named_and_nulls_left_aside(tmp_path):
    rng = np.random.default_rng(5)
    sound = write_run(tmp_path / "a", {"cka/image": folds(rng)})
    published = write_run(tmp_path / "b", {"cka/image": np.zeros(LAYERS)}, protocol="published")
    found = medlens.compare([sound, published])
    assert set(found.differences["other_protocol"]) == {"published"}
    assert found.differences["low"].is_null().all()
    assert found.differences["significant"].is_null().all()
    assert set(found.differences["note"]) == {"no intervals under protocol published"}
    assert any("sound with published" in note for note in found.notes)
    null = write_run(tmp_path / "null", {"cka/image": folds(rng)}, protocol="null: pairs")
    with pytest.raises(BadInput, match="no row in common"):
        medlens.compare([null, write_run(tmp_path / "other", {"cka/image": folds(rng)}, protocol="null: pairs")])


def test_undefined_layers_have_a_reason(tmp_path):
    rng = np.random.default_rng(6)
    a, b = folds(rng), folds(rng)
    b[:, 3] = np.nan
    pair = [write_run(tmp_path / n, {"cka/image": v}) for n, v in (("a", a), ("b", b))]
    found = medlens.compare(pair)
    line = found.differences.row(3, named=True)
    assert line["low"] is None
    assert line["note"] == "the rows do not vary"
    assert set(found.differences["looked_at"]) == {LAYERS - 1}
    found.write(tmp_path / "out")


def test_what_cannot_be_compared(tmp_path):
    run = write_run(tmp_path / "a", {"cka/image": np.zeros((FOLDS, 3))})
    other = write_run(tmp_path / "b", {"cka/text": np.zeros((FOLDS, 3))})
    for runs in ([run], [], str(run.path)):
        with pytest.raises(BadInput, match="two runs or more"):
            medlens.compare(runs)
    with pytest.raises(BadInput, match="a and b have no row in common"):
        medlens.compare([run, other])
    with pytest.raises(BadRun, match="is not a run"):
        medlens.compare([run, tmp_path / "nothing"])
    again = write_run(tmp_path / "again", {"cka/image": np.zeros((FOLDS, 3))})
    with pytest.raises(BadRun, match="is no comparison"):
        medlens.compare([run, again]).write(run.path)
    with pytest.raises(BadInput, match="is given twice"):
        medlens.compare([run, again, tmp_path / "a" / ".." / "a"])


# ---- CKA


def test_cka_is_that_of_the_paper():
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((60, 12)) + 50, rng.standard_normal((60, 7))
    y[:, :4] += 0.5 * x[:, :4]
    assert centred_kernel(x) @ centred_kernel(y) == pytest.approx(oracles.cka(x, y), rel=1e-9)
    wide = rng.standard_normal((80, 400)), rng.standard_normal((80, 400))
    assert abs(centred_kernel(wide[0]) @ centred_kernel(wide[1])) < 0.1  # unrelated
    assert oracles.cka_biased(*wide) > 0.7  # what plain CKA makes of it
    assert np.isnan(centred_kernel(np.ones((9, 3)))).all()
    assert np.isnan(centred_kernel(x[:3])).all()


def with_states(run, states, priorities):
    save_file(
        {**{f"image/{k:02d}": s.astype(np.float32) for k, s in enumerate(states)}, "priorities/image": priorities},
        run.path / FILE,
    )


def test_states_are_matched_by_row(tmp_path):
    """The other model's states are the first one's, rotated, in another order: known again only by their priorities."""
    rng = np.random.default_rng(8)
    curves = {"cka/image": folds(rng, layers=2)}
    one, two = (write_run(tmp_path / n, curves) for n in "ab")
    states, keys = [rng.standard_normal((50, 6)) for _ in range(3)], rng.permutation(10**6)[:50].astype(np.int64)
    turned = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    order = rng.permutation(50)
    with_states(one, states, keys)
    with_states(two, [3 * s[order] @ turned for s in states], keys[order])
    (heat,) = medlens.compare([one, two]).cka
    assert np.allclose(np.diag(heat.values), 1, atol=1e-5)
    assert np.abs(heat.values - np.diag(np.diag(heat.values))).max() < 0.4
    assert heat.values[0, 1] == pytest.approx(oracles.cka(states[0].astype(np.float32), states[1].astype(np.float32)), abs=1e-5)
    with_states(two, [s[order] for s in states], keys)  # rows in the wrong order
    (wrong,) = medlens.compare([one, two]).cka
    assert np.diag(wrong.values).max() < 0.5
    assert "<svg" in medlens.compare([one, two]).write(tmp_path / "out").read_text()


def test_why_there_is_no_cka(tmp_path):
    rng = np.random.default_rng(9)
    curves = {"cka/image": folds(rng, layers=2)}
    one, two, other = (write_run(tmp_path / n, curves, data=d) for n, d in (("a", "d1"), ("b", "d1"), ("c", "d2")))
    assert any("holds no states.safetensors" in note for note in medlens.compare([one, two]).notes)
    for run, shift in ((one, 0), (two, 30), (other, 0)):
        with_states(run, [rng.standard_normal((50, 6))], np.arange(50) + shift)
    assert any("only 20 of 50 rows" in note for note in medlens.compare([one, two]).notes)
    assert any("different data" in note for note in medlens.compare([one, other]).notes)
    (two.path / FILE).write_bytes(b"nothing")
    with pytest.raises(BadRun, match="damaged"):
        medlens.compare([one, two])


# ---- what is written


HOSTILE = "<script>alert('x')</script>"


def test_the_page_needs_nothing_else_and_escapes(tmp_path):
    rng = np.random.default_rng(10)
    curves = {f"{m}/{g}": folds(rng) for m in ("anisotropy", "mev") for g in ("image", "text")}
    runs = [write_run(tmp_path / n / "run", curves, name=HOSTILE) for n in "ab"]
    found = medlens.compare(runs)
    assert found.names == ("run (1)", "run (2)")
    page = found.write(tmp_path / "out").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 4
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert set(re.findall(r"https?://[^\s\"'<)]+", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    table = pl.read_parquet(tmp_path / "out" / "differences.parquet")
    assert table.equals(found.differences)
    found.write(tmp_path / "out")  # again: a comparison may be replaced


def test_on_the_command_line(tmp_path):
    rng = np.random.default_rng(11)
    for k, name in enumerate("ab"):
        others = {f"own_{number}/answer": folds(rng) for number in range(21)}
        write_run(tmp_path / name, {"anisotropy/image": folds(rng, k), **others})
    command = [sys.executable, "-c", "from medlens.cli import main; main()", "compare"]
    done = subprocess.run([*command, "a", "b"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "9 of 9" in done.stdout
    assert "2 more on the page" in done.stdout
    assert "paired by fold" in done.stderr
    assert (tmp_path / "compare-a-b" / "compare.html").is_file()
    done = subprocess.run([*command, "a", "b", "--json", "--out", "o"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout)["summary"][0]["measure"] == "anisotropy"
    for arguments, says in ((["a"], "two runs or more"), (["a", "c"], "is not a run"), (["a", "b", "--out", "a"], "no comparison")):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 2
        assert says in done.stderr.splitlines()[-1]


def test_two_studies(phantom, tmp_path):
    """The phantom and its shortcut sister on the same slices."""
    plan = Plan(limit=24, folds=3, answers="given")
    samples = medlens.phantom.samples(24)
    runs = [medlens.study(m, samples, plan, tmp_path / n) for m, n in ((phantom, "sound"), ("phantom:shortcut", "shortcut"))]
    found = medlens.compare(runs)
    image = found.differences.filter(pl.col("measure") == "anisotropy", pl.col("tokens") == "image", pl.col("variant") == "raw")
    assert image["layer"].to_list() == list(range(9))
    assert image["difference"].abs().max() > 0
    assert set(image["how"]) == {"paired"}
    (kernels,) = [heat.values for heat in found.cka if heat.tokens == "image"]
    assert kernels.shape == (9, 9)
    assert kernels[8, 8] < 0.99  # another model
    itself = medlens.compare([runs[0], shutil.copytree(runs[0].path, tmp_path / "twin")])
    assert all(np.allclose(heat.values.diagonal(), 1, atol=1e-6) for heat in itself.cka)
    assert itself.differences["difference"].fill_nan(0).abs().max() == 0
    assert not itself.differences["significant"].fill_null(False).any()
    found.write(tmp_path / "out")
