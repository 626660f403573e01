import json
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from scipy.stats import linregress, t

import medlens
from medlens import claims, store
from medlens.claims import NOT_SUPPORTED, OPEN, PUBLISHED, SUPPORTED, judge, peak_set
from medlens.cli.claims import command as command_of
from medlens.curves import spans
from medlens.errors import BadInput
from medlens.grammar import MEASURED, Of, parse
from medlens.measures import MEASURES
from medlens.plan import Plan
from written import FOLDS, write_run

LAYERS = 9


def verdict(run, claim, protocol="sound"):
    return next(v for v in judge(run, [claim], protocol) if v.claim == claim)


def drawn(rng, curve, noise=0.1):
    return np.asarray(curve, dtype=float) + noise * rng.standard_normal((FOLDS, len(curve)))


# ---- grammar


def test_a_claim_is_taken_apart():
    assert parse("anisotropy/image  falls").of == Of("anisotropy", "image")
    assert parse("mev/text rises from 3 to 20")[2:] == ("rises", (3, 20), None, None)
    assert parse("cka/all above -.5e-1")[2:] == ("above", None, -0.05, None)
    assert parse("cka/all below linearity/all").other == Of("linearity", "all")
    assert parse("cka/all peaks with mev/text").what == "peaks with"
    assert parse("cka/all peaks near 25")[2:] == ("peaks near", None, 25.0, None)
    assert parse("entropy/text falls", own=("entropy",)).of.measure == "entropy"


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        ("", "expected MEASURE/TOKENS"),
        ("anisotropy falls", "expected MEASURE/TOKENS"),
        ("anisotropy/image collapses", "'anisotropy/image collapses' cannot be read"),
        ("anisotropy/image falls now", "falls | rises"),
        ("anisotropy/image falls from 5 to 6", "three layers or more"),
        ("anisotropy/image falls from 9 to 2", "three layers or more"),
        ("anisotropy/image below", "above NUMBER"),
        ("anisotropy/image below low", "above NUMBER"),
        ("anisotropy/image peaks at 2.5", "at | near LAYER"),
        ("anisotropie/image falls", "names the measure 'anisotropie'; expected one of linearity"),
        ("anisotropy/pixels falls", "names the tokens 'pixels'; expected one of image, text"),
        ("cka/image peaks with ckb/image", "'ckb'"),
        ("cka/image below 1; drop table", "cannot be read"),
    ],
)
def test_what_is_no_claim_is_said_in_one_line(claim, says):
    with pytest.raises(BadInput) as caught:
        Plan(claims=("cka/all rises", claim))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_measure_of_the_package_can_be_named():
    assert set(MEASURES) <= set(MEASURED)
    for _, lines in PUBLISHED:
        assert all(parse(line) for line in lines)


def test_above_and_below_at_some_layers_only(tmp_path):
    curve, floor = (
        drawn(np.random.default_rng(3), np.linspace(1, 0, 9), 0.01),
        drawn(np.random.default_rng(4), np.full(9, 0.4), 0.0),
    )
    run = write_run(tmp_path / "run", {"cka/image": curve, "cka/text": floor})
    said = {
        "cka/image above cka/text": NOT_SUPPORTED,
        "cka/image above cka/text from 0 to 4": SUPPORTED,
        "cka/image above 0.4 from 0 to 4": SUPPORTED,
        "cka/image below 0.4 from 6 to 8": SUPPORTED,
        "cka/image below cka/text from 4 to 8": NOT_SUPPORTED,
        "cka/image above 0.4 from 40 to 50": OPEN,
    }
    assert {claim: verdict(run, claim).verdict for claim in said} == said
    assert verdict(run, "cka/image above 0.4 from 0 to 4").layers == 5


def test_a_share_of_nothing_is_not_sure_to_be_nothing(tmp_path):
    """No fold changes a share of 0; its row has Wilson's interval."""
    nothing, floor = np.zeros((FOLDS, LAYERS)), np.full((FOLDS, LAYERS), 0.1)
    for high, said in ((0.3, OPEN), (0.05, NOT_SUPPORTED)):
        run = write_run(tmp_path / str(high), {"medical_words/image": nothing, "medical_words_floor/image": floor})
        ends = {"medical_words": (0.0, high), "medical_words_floor": (0.1, 0.1)}
        low, high = (pl.col("measure").replace_strict({name: own[k] for name, own in ends.items()}) for k in (0, 1))
        run.__dict__["rows"] = run.rows.with_columns(low=low, high=high)
        assert verdict(run, "medical_words/image above medical_words_floor/image").verdict == said


def test_a_users_measure_is_known_to_the_plan():
    assert Plan(claims=("entropy/text falls",), measures=("mine:entropy",)).claims
    with pytest.raises(BadInput, match="entropy"):
        Plan(claims=("entropy/text falls",))


# ---- slopes


def test_a_slope_is_that_of_the_book(tmp_path):
    """Of fold means the jackknife is Student's interval of the folds' own slopes."""
    values = drawn(np.random.default_rng(0), np.linspace(1, 0, LAYERS))
    got = verdict(write_run(tmp_path / "run", {"cka/image": values}), "cka/image falls from 2 to 7")
    slopes = [linregress(np.arange(2, 8), fold[2:8]).slope for fold in values]
    half = t.ppf(0.975, FOLDS - 1) * np.std(slopes, ddof=1) / FOLDS**0.5
    assert got.verdict == SUPPORTED
    assert (got.value, got.low, got.high) == pytest.approx((np.mean(slopes), np.mean(slopes) - half, np.mean(slopes) + half))
    assert got.layers == 6


def test_known_slopes_are_found_and_the_reverse_is_contradicted(tmp_path):
    rng = np.random.default_rng(1)
    run = write_run(tmp_path / "run", {f"cka/{g}": drawn(rng, np.linspace(1, 0, LAYERS)) for g in ("image", "text", "all")})
    for tokens in ("image", "text", "all"):
        assert verdict(run, f"cka/{tokens} falls").verdict == SUPPORTED
        assert verdict(run, f"cka/{tokens} rises").verdict == NOT_SUPPORTED


def test_where_nothing_is_claims_are_rarely_supported(tmp_path):
    """Negative control, 200 draws: 2.5 % for each direction of a slope (5 of 200; 13 or more has a probability of 0.002)."""
    rng = np.random.default_rng(2)
    flat = np.zeros(LAYERS)
    said = {"falls": 0, "rises": 0, "below": 0, "above": 0, "below 0": 0, "peaks": 0}
    for draw in range(200):
        run = write_run(tmp_path / f"{draw}", {"cka/image": drawn(rng, flat), "cka/text": drawn(rng, flat)})
        said["falls"] += verdict(run, "cka/image falls").verdict == SUPPORTED
        said["rises"] += verdict(run, "cka/image rises").verdict == SUPPORTED
        said["below"] += verdict(run, "cka/image below cka/text").verdict == SUPPORTED
        said["above"] += verdict(run, "cka/image above cka/text").verdict == SUPPORTED
        said["below 0"] += verdict(run, "cka/image below 0").verdict != OPEN
        said["peaks"] += verdict(run, "cka/image peaks with cka/text").verdict != OPEN
    assert max(said["falls"], said["rises"]) <= 12
    assert max(said["below"], said["above"]) == 0
    assert said["below 0"] <= 20  # 5 % of the simultaneous intervals miss zero somewhere
    assert said["peaks"] <= 20


def test_noise_between_folds_decides_not_the_curve(tmp_path):
    """The same falling mean; the folds disagree about it."""
    line = np.linspace(1, 0, LAYERS)
    folds = np.array([-6, -3, 0, 3, 6])[:, None] * line
    assert verdict(write_run(tmp_path / "run", {"cka/all": line + folds}), "cka/all falls").verdict == OPEN


# ---- one side


def test_below_and_above_a_number_at_every_layer(tmp_path):
    rng = np.random.default_rng(3)
    bump = np.where(np.arange(LAYERS) == 4, 0.9, 0.1)
    run = write_run(
        tmp_path / "run",
        {"anisotropy/text": drawn(rng, np.full(LAYERS, 0.1), 0.003), "anisotropy/image": drawn(rng, bump, 0.003),
         "anisotropy/all": drawn(rng, np.full(LAYERS, 0.1), 0.2)},
    )  # fmt: skip
    low = verdict(run, "anisotropy/text below 0.2")
    assert (low.verdict, low.layers) == (SUPPORTED, LAYERS)
    assert low.low < low.value < low.high < 0.2
    assert "hold at all 9 layers together" in low.note
    bumped = verdict(run, "anisotropy/image below 0.2")
    assert bumped.verdict == NOT_SUPPORTED
    assert "at layer 4," in bumped.note
    assert bumped.low > 0.2
    assert verdict(run, "anisotropy/all below 0.2").verdict == OPEN
    assert verdict(run, "anisotropy/text above 0.2").verdict == NOT_SUPPORTED
    assert verdict(run, "anisotropy/text above 0.05").verdict == SUPPORTED


def test_simultaneous_intervals_are_wider_than_those_of_one_layer(tmp_path):
    values = drawn(np.random.default_rng(4), np.zeros(LAYERS))
    got = verdict(write_run(tmp_path / "run", {"cka/image": values}), "cka/image below 5")
    layer = int(got.note.split("layer ")[1].split(",")[0])
    error = values[:, layer].std(ddof=1) / FOLDS**0.5
    assert got.high - got.value == pytest.approx(t.ppf(1 - 0.025 / LAYERS, FOLDS - 1) * error)


def test_two_curves_are_compared_fold_by_fold(tmp_path):
    """What the folds have in common does not blur the difference."""
    rng = np.random.default_rng(5)
    common = 3 * rng.standard_normal((FOLDS, 1))
    low, high = (drawn(rng, np.full(LAYERS, level), 0.05) + common for level in (1, 2))
    run = write_run(tmp_path / "run", {"cka/image": low, "cka/text": high})
    got = verdict(run, "cka/image below cka/text")
    assert got.verdict == SUPPORTED
    assert got.value == pytest.approx(-1, abs=0.2)
    assert verdict(run, "cka/text below cka/image").verdict == NOT_SUPPORTED
    assert verdict(run, "cka/text below cka/text").verdict == NOT_SUPPORTED  # equal is not below
    assert verdict(run, "cka/image below 1.5").verdict == OPEN  # there, what they have in common does blur


# ---- peaks


def test_peak_sets_cover_the_true_peak():
    """95 of 100, whichever layer came out highest: flat around the peak, so that it often is another. 400 draws; 0.0109 is the
    standard error of a share of 0.95."""
    rng, truth = np.random.default_rng(6), 1 - np.abs(np.arange(12) - 5) / 50
    covered, found = 0, 0
    for _ in range(400):
        folds = truth + 0.1 * rng.standard_normal((FOLDS, 12))
        without = (folds.sum(axis=0) - folds) / (FOLDS - 1)
        covered += peak_set(folds.mean(axis=0), without)[5]
        found += folds.mean(axis=0).argmax() == 5
    assert covered >= 0.93 * 400
    assert found < 0.5 * 400  # the highest layer alone would not do


def hill(top, height=1.0):
    return height * np.exp(-((np.arange(12) - top) ** 2) / 2)


def test_curves_that_peak_together_and_apart(tmp_path):
    rng = np.random.default_rng(7)
    run = write_run(
        tmp_path / "run",
        {"mev/image": drawn(rng, hill(5), 0.02), "mev/text": drawn(rng, 3 * hill(5), 0.02), "mev/all": drawn(rng, hill(9), 0.02),
         "anisotropy/image": drawn(rng, np.zeros(12))},
        blocks=11,
    )  # fmt: skip
    together = verdict(run, "mev/image peaks with mev/text")
    assert (together.verdict, together.value) == (SUPPORTED, 5)
    assert "cannot be told apart" in together.note
    assert verdict(run, "mev/image peaks with mev/all").verdict == NOT_SUPPORTED
    flat = verdict(run, "mev/image peaks with anisotropy/image")
    assert flat.verdict == OPEN
    assert "too wide to be a place" in flat.note
    assert verdict(run, "mev/image peaks at 5").verdict == SUPPORTED
    assert verdict(run, "mev/image peaks at 9").verdict == NOT_SUPPORTED
    assert verdict(run, "mev/image peaks at 6").verdict == NOT_SUPPORTED
    assert verdict(run, "mev/image peaks near 6").verdict == SUPPORTED
    assert verdict(run, "mev/image peaks at 25").verdict == OPEN  # there is none
    assert verdict(run, "anisotropy/image peaks at 5").verdict == OPEN


def test_a_block_counts_as_the_states_beside_it(tmp_path):
    rng = np.random.default_rng(8)
    curves = {"cka/image": drawn(rng, hill(5)[:11], 0.01)}
    for tokens, top in (("image", 5), ("text", 6), ("all", 7), ("answer", 4)):
        curves[f"anisotropy/{tokens}"] = drawn(rng, hill(top), 0.01)
    run = write_run(tmp_path / "run", curves, blocks=11)
    said = {g: verdict(run, f"cka/image peaks with anisotropy/{g}").verdict for g in ("image", "text", "all", "answer")}
    assert said == {"image": SUPPORTED, "text": SUPPORTED, "all": NOT_SUPPORTED, "answer": NOT_SUPPORTED}


def test_spans():
    assert spans({3, 4, 5, 9, 11, 12}) == "3 to 5, 9, 11 to 12"


# ---- what cannot be said


def test_undefined_layers(tmp_path):
    rng = np.random.default_rng(9)
    values = {"cka/image": drawn(rng, np.linspace(1, 0, LAYERS), 0.01), "cka/text": drawn(rng, hill(5)[:LAYERS], 0.01)}
    values["cka/all"] = np.full((FOLDS, LAYERS), np.nan)
    for curve in (values["cka/image"], values["cka/text"]):
        curve[:, 2] = np.nan
    run = write_run(tmp_path / "run", values)
    falls = verdict(run, "cka/image falls")
    assert (falls.verdict, falls.layers) == (SUPPORTED, LAYERS - 1)
    assert "undefined at layer 2: the rows do not vary" in falls.note
    below = verdict(run, "cka/image below 2")
    assert below.verdict == OPEN
    assert "the rows do not vary" in below.note
    assert verdict(run, "cka/image below 0.5").verdict == NOT_SUPPORTED
    assert "2, 5" in verdict(run, "cka/text peaks at 5").note  # it cannot be excluded
    assert verdict(run, "cka/text peaks at 2").verdict == SUPPORTED
    for claim in ("falls", "below 3", "peaks at 4", "peaks with cka/image"):
        got = verdict(run, f"cka/all {claim}")
        assert (got.verdict, got.value) == (OPEN, None)
        assert "the rows do not vary" in got.note


def test_without_folds_or_rows_nothing_is_said(tmp_path):
    line = np.linspace(1, 0, LAYERS)
    run = write_run(tmp_path / "run", {"cka/image": line}, protocol="published")
    published = verdict(run, "cka/image falls", "published")
    assert published.verdict == OPEN
    assert "no intervals under this protocol (published)" in published.note
    assert "not measured in this run" in verdict(run, "cka/image falls").note
    assert "not measured in this run" in verdict(run, "mev/text falls").note
    noisy = line + np.arange(FOLDS)[:, None] * 0.001
    normed = write_run(tmp_path / "normed", {"cka/image": noisy}, variant="normed")
    assert verdict(normed, "cka/image falls").verdict == OPEN


# ---- the study's sentences, tables and the command line


def study_like(tmp_path):
    """What the published study would have to look like to be right."""
    rng, n = np.random.default_rng(10), 33
    line, late = np.linspace(0, 1, n), np.exp(-((np.arange(n) - 25) ** 2) / 8)
    curves = {
        "linearity/image": drawn(rng, 1 - 0.1 * line[:32], 0.005),
        "linearity_of_update/all": drawn(rng, late[:32], 0.01),
        "intrinsic_dimension/all": drawn(rng, 9 + late, 0.01),
        "anisotropy/image": drawn(rng, 0.8 - 0.4 * line, 0.01),
        "anisotropy/text": drawn(rng, 0.1 + 0 * line, 0.002),
        "intrinsic_dimension/image": drawn(rng, 8 + 0 * line, 0.05),
        "intrinsic_dimension/text": drawn(rng, 11 + 0 * line, 0.05),
        "self_similarity/text": drawn(rng, 1 - 0.5 * line, 0.01),
        "mev/text": drawn(rng, 1 - 0.5 * line, 0.01),
        "intra_similarity/text": drawn(rng, 0.2 + 0.5 * line, 0.01),
        "medical_words/image": drawn(rng, 0.3 - 0.299 * line, 0.005),
        "medical_words_floor/image": drawn(rng, 0.1 + 0 * line, 0.0),
    }
    return write_run(tmp_path / "run", curves, blocks=32, claims=["mev/text above 0.01"])


def test_the_studys_claims(tmp_path):
    run = study_like(tmp_path)
    verdicts = judge(run, "self_similarity/text rises")
    own = [v for v in verdicts if v.sentence]
    assert {v.sentence for v in own} == {sentence for sentence, _ in PUBLISHED}
    assert {v.claim: v.verdict for v in own if v.claim} == {line: SUPPORTED for _, lines in PUBLISHED for line in lines}
    unmeasured = [v for v in own if not v.claim]
    assert [(v.verdict, v.note) for v in unmeasured] == [(OPEN, "not measured in this run")]
    assert [(v.claim, v.verdict) for v in verdicts if not v.sentence] == [
        ("mev/text above 0.01", SUPPORTED),
        ("self_similarity/text rises", NOT_SUPPORTED),
    ]
    dimension = next(v for v in own if v.claim.startswith("intrinsic_dimension"))
    assert "conservative" in dimension.note


def test_the_table(tmp_path):
    run = study_like(tmp_path)
    claims.write(run.path)
    table = store.open_run(run.path).claims
    assert table.columns == list(store.TABLES["claims"])
    assert table.height == len(judge(run))
    assert table.filter(pl.col("claim") == "mev/text falls")["verdict"].item() == SUPPORTED


def test_on_the_command_line(tmp_path):
    run = study_like(tmp_path)
    command = [sys.executable, "-c", "from medlens.cli import main; main()", "claims", str(run.path)]
    done = subprocess.run([*command, "--claim", "mev/text rises"], capture_output=True, text=True, check=True)
    assert "not supported" in done.stdout
    assert "cannot be said" in done.stdout
    done = subprocess.run([*command, "--json", "--claim", "mev/text rises"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["claims"][-1]["verdict"] == NOT_SUPPORTED
    done = subprocess.run([*command, "--claim", "mev/text wobbles"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("medlens: the claim 'mev/text wobbles' cannot be read; expected MEASURE/TOKENS")
    assert done.stderr.count("\n") == 1
    empty = shutil.copytree(run.path, tmp_path / "empty")
    run.rows.clear().write_parquet(empty / "rows.parquet")
    with pytest.raises(BadInput, match="runs of `medlens study`"):
        command_of(empty)


def test_neither_torch_nor_transformers_is_imported(tmp_path):
    run = study_like(tmp_path)
    shutil.copytree(run.path, tmp_path / "twin")
    code = f"""
import sys, medlens
medlens.judge(medlens.open_run({str(run.path)!r}))
medlens.compare([{str(run.path)!r}, {str(tmp_path / "twin")!r}]).write({str(tmp_path / "out")!r})
print([m for m in ("torch", "transformers") if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_study_ends_with_its_claims(phantom, tmp_path):
    plan = Plan(limit=24, folds=3, claims=("anisotropy/answer falls",))
    run = medlens.study(phantom, "phantom", plan, tmp_path / "run")
    assert run.claims.filter(pl.col("claim") == "anisotropy/answer falls").height == 1
    assert set(run.claims["verdict"]) <= {SUPPORTED, NOT_SUPPORTED, OPEN}
    assert "--claim 'anisotropy/answer falls'" in run.manifest["command"]
    measured = run.claims.filter(pl.col("claim") == "anisotropy/image falls")
    assert np.isfinite(measured["low"].item())
