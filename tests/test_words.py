"""Medical words and the lens's own token occurrence, against counts made again from the words of every token."""

import json
import math
import re
import shutil
from collections import Counter
from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest
import torch
from scipy import stats

import medlens
from medlens.errors import BadInput
from medlens.medical import KINDS, Vocabulary, kind_of, vocabulary_of
from medlens.plan import Plan
from medlens.report.words import lens_words

PLAN = Plan(limit=60, instruments=("lens",), answers="given", lens_images=12, nulls=("pairs", "weights"))
LISTS = files("medlens") / "wordlists"
PHANTOM = {  # by hand, of its 70 words
    "modality": {"ct", "mri", "ultrasound", "xray"},
    "finding": {"cyst", "lesion", "lesions", "mass", "nodule", "pathology"},
    "laterality": {"left", "right", "lower", "upper", "midline", "quadrant"},
    "anatomy": set(),
    "clinical": set(),
}
MEDICAL = set().union(*PHANTOM.values())


@pytest.fixture(scope="module")
def runs(phantom, tmp_path_factory):
    """Of the sound phantom and of the random one; drawn without charts."""
    folder = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medlens.report.as_files", lambda chart: {"svg": ""})
        patch.setattr("medlens.report.figures.drawn", lambda *chart: {})
        sound = medlens.study(phantom, "phantom", PLAN, folder / "sound")
        drawn = medlens.study("phantom:random", "phantom", Plan(**{**PLAN.as_dict(), "nulls": ("pairs",)}), folder / "random")
    return sound, drawn


@pytest.fixture(scope="module")
def run(runs):
    return runs[0]


def first_words(run, layer, tokens="image"):
    """Of each sample, in the order of its places, the likeliest word."""
    found = {}
    for row in run.lens.sort("position").to_dicts():
        if row["layer"] == layer and row["tokens"] == tokens:
            found.setdefault(row["sample"], []).append((row["words"], row["p"]))
    return found


# ---- the lists and the rule


@pytest.mark.parametrize("name", KINDS.values())
def test_lists_are_in_order(name):
    lines = [line for line in (LISTS / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(set(lines), key=lambda line: (line.endswith("-"), line.casefold()))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)?|[a-z]{4,}-|[A-Z]{2,5}", line) for line in lines)
    assert all("Apache-2.0" in (LISTS / file).read_text() for file in (f"{name}.txt", "README.md"))
    kind = next(kind for kind, file in KINDS.items() if file == name)
    assert all(kind in kind_of("▁" + line.removesuffix("-")) for line in lines)
    assert len(lines) >= {"anatomy": 500, "findings": 400, "modalities": 100, "laterality": 35, "clinical": 80}[name]


@pytest.mark.parametrize(
    ("word", "kinds"),
    [
        ("▁lung", "anatomy"),
        ("ĠLungs", "anatomy"),
        ("▁pneumothoraces", "finding"),
        ("▁biopsies", "finding"),
        ("▁Opacities", "finding"),
        ("▁masses", "finding"),
        ("▁CT", "modality"),
        ("ultrasound", "modality"),
        ("▁PET", "modality"),
        ("▁pet", ""),  # capitals of the list hold
        ("▁pets", ""),
        ("▁lateral", "modality laterality"),
        ("▁LEFT", "laterality"),
        ("▁bronchopulmonary", "anatomy"),  # a stem
        ("▁cardi", ""),  # a beginning that is no stem
        ("▁les", ""),
        ("▁back", ""),
        ("▁analysis", ""),
        ("▁patients", "clinical"),
        ("▁Surgery", "clinical"),
        ("▁as", ""),  # no plural of "a"
        ("▁", ""),
        ("", ""),
    ],
)
def test_kinds(word, kinds):
    assert kind_of(word) == set(kinds.split())


def test_a_piece_that_goes_on_with_a_word_is_none():
    marked, bare = Vocabulary(0, True, {}), Vocabulary(0, False, {})
    assert marked.kinds("ear") == set()  # of "year"
    assert marked.kinds("▁ear") == bare.kinds("ear") == {"anatomy"}


def test_of_a_large_vocabulary_what_was_judged_by_hand():
    lines = (Path(__file__).parent / "golden/medical_words.txt").read_text().splitlines()
    judged = [line for line in lines if not line.startswith("#")]
    assert all(kind_of("▁" + line.removeprefix("?")) for line in judged)
    doubtful = sum(line.startswith("?") for line in judged)
    page = (Path(__file__).parent.parent / "docs/words.md").read_text()
    assert f"{len(judged)} of Mistral's 32,000 pieces count, and {doubtful} of these" in page.replace("\n", " ")


def test_the_vocabulary_of_the_phantom(phantom, run):
    found = vocabulary_of(phantom.tokenizer)
    words = set(phantom.tokenizer.get_vocab())
    assert {kind: {word for word in words if kind in found.kinds(word)} for kind in KINDS} == PHANTOM
    assert found.shares == {
        "medical": pytest.approx(len(MEDICAL) / 70), **{kind: pytest.approx(len(PHANTOM[kind]) / 70) for kind in KINDS}
    }  # fmt: skip
    assert run.manifest["model"]["vocabulary"] == json.loads(json.dumps(found._asdict()))


# ---- shares


def test_shares_are_counts(run):
    shares = medlens.medical_share(run)
    assert shares.height == 9 * 2 * 6
    for layer in (0, 3, 8):
        for tokens in ("image", "text"):
            said = first_words(run, layer, tokens)
            assert len(said) == 9
            for kind, words in {"medical": MEDICAL, **PHANTOM}.items():
                mine = shares.filter(pl.col("layer") == layer, pl.col("tokens") == tokens, pl.col("kind") == kind).to_dicts()[0]
                of_samples = [sum(found[0] in words for found, _ in own) / len(own) for own in said.values()]
                assert mine["share"] == pytest.approx(sum(of_samples) / len(of_samples))
                assert mine["n"] == sum(map(len, said.values()))
                assert mine["vocabulary"] == pytest.approx(len(words) / 70)
                if kind == "medical":
                    of_tokens = [
                        [sum(p for word, p in zip(*token, strict=True) if word in MEDICAL) / sum(token[1]) for token in own]
                        for own in said.values()
                    ]
                    assert mine["weight"] == pytest.approx(sum(sum(own) / len(own) for own in of_tokens) / len(said))


def test_intervals_leave_whole_images_out(run):
    for row in medlens.medical_share(run).to_dicts():
        of = (pl.col("layer") == row["layer"]) & (pl.col("tokens") == row["tokens"]) & (pl.col("measure") == f"{row['kind']}_words")
        without = run.left_out.filter(of, pl.col("protocol") == "sound")["value"].to_numpy()
        k, images = len(without), 9
        if row["share"] in (0, 1) and not without.std():  # no interval of no width
            rule = stats.binomtest(int(row["share"]) * images, images).proportion_ci(method="wilson")
            assert (row["low"], row["high"]) == pytest.approx((rule.low, rule.high))
            continue
        half = stats.t.ppf(0.975, k - 1) * math.sqrt((k - 1) / k * ((without - without.mean()) ** 2).sum())
        assert row["low"] == pytest.approx(max(0, row["share"] - half))
        assert row["high"] == pytest.approx(min(1, row["share"] + half))


def test_the_sound_phantom_speaks_medicine_and_a_random_one_does_not(runs):
    sound, drawn = (medlens.medical_share(run).filter(pl.col("tokens") == "image") for run in runs)
    early = pl.col("layer") <= 3
    for kind in ("medical", "modality"):
        assert (sound.filter(early, pl.col("kind") == kind)["low"] > sound.filter(pl.col("kind") == kind)["vocabulary"][0]).all()
    chance = drawn.filter(pl.col("kind") == "modality")
    assert abs(chance["share"].mean() - chance["vocabulary"][0]) < 0.05


def test_a_medical_word_is_not_the_right_one(runs):
    """What docs/words.md says: in a state at an image's place the phantom names modalities, and not the image's own."""
    assert max(abs(right_modality(run)) for run in runs) < 0.05


def right_modality(run):
    """How much more often an image's token says the image's modality than it says that of another image: the mean over states."""
    modality = {s["sample"]: json.loads(s["tags"])["modality"] for s in run.samples.to_dicts()}
    differences = []
    for layer in range(9):
        said = {sample: [words[0] for words, _ in own] for sample, own in first_words(run, layer).items()}
        for sample, own in said.items():
            others = [modality[other] for other in said if modality[other] != modality[sample]]
            right, wrong = own.count(modality[sample]), sum(own.count(word) for word in others) / len(others)
            differences.append((right - wrong) / len(own))
    return sum(differences) / len(differences)


def test_a_null_of_weights_has_the_same_rows(run):
    rows = run.rows.filter(pl.col("measure") == "medical_words", pl.col("tokens") == "image")
    assert set(rows["protocol"]) == {"sound", "null: weights"}
    sound, null = (rows.filter(pl.col("protocol") == protocol).sort("layer") for protocol in ("sound", "null: weights"))
    assert sound.height == null.height == 9
    assert (sound["value"] - null["value"]).head(4).min() > 0.2


def test_claims(runs):
    said = [{v.claim: v for v in medlens.judge(run) if v.claim.startswith("medical_words")} for run in runs]
    falls, above = said[0].values()
    assert (falls.verdict, falls.sentence) == ("supported", above.sentence)
    assert above.verdict in ("supported", "cannot be said")
    assert above.layers == 6
    assert "vocabulary" in falls.note
    assert "supported" not in {verdict.verdict for verdict in said[1].values()}


# ---- occurrence


def test_occurrence_is_a_count(run):
    for layer in (0, 8):
        said = [[words[0] for words, _ in own] for own in first_words(run, layer).values()]
        totals = sum(map(Counter, said), Counter())
        found = medlens.occurrence(run, [layer])
        assert found.equals(run.lens_words.filter(pl.col("layer") == layer))
        assert found.height == min(10, len(totals))
        assert (found["count"] * len(said)).to_list() == pytest.approx([n for _, n in totals.most_common(10)])
        for row in found.to_dicts():
            of_each = torch.tensor([own.count(row["word"]) for own in said], dtype=torch.float64)
            assert row["count"] == pytest.approx(float(of_each.mean()))
            error = float(of_each.std()) / len(said) ** 0.5  # the jackknife of a mean
            assert row["high"] - row["count"] == pytest.approx(stats.t.ppf(0.975, len(said) - 1) * error)
            assert row["low"] == pytest.approx(max(0, row["count"] - stats.t.ppf(0.975, len(said) - 1) * error))
            assert row["expected"] == pytest.approx(64 / 70)
            assert row["images"] == 9
            assert set(row["kinds"].split(", ")) - {""} == {kind for kind, words in PHANTOM.items() if row["word"] in words}
    assert medlens.occurrence(run.path, [8], listed=3).equals(found.head(3))


def test_words_of_the_image_vary_with_it(run):
    """And where all images are one, none does."""
    found = medlens.occurrence(run, [1])
    assert found.filter(pl.col("word") == "ct")["p"][0] < 0.01
    one = run.lens.filter(pl.col("sample") == run.lens["sample"][0])
    same = medlens.Run(run.path)
    same.__dict__["lens"] = pl.concat([one.with_columns(sample=pl.lit(name)) for name in run.lens["sample"].unique().to_list()])
    again = medlens.occurrence(same, [1])
    assert again["p"].to_list() == [1.0] * again.height
    assert again["ratio"].is_nan().all()
    assert (again["high"] == again["count"]).all()


def test_patients_are_left_out_together(run):
    names = sorted(run.lens["sample"].unique())
    patient = {name: f"p{k // 3}" for k, name in enumerate(names)}
    patients = medlens.Run(run.path)
    new = pl.Series("patient", [patient.get(name) for name in run.samples["sample"]], dtype=pl.String)
    patients.__dict__["samples"] = run.samples.with_columns(new)
    row = medlens.occurrence(patients, [0]).to_dicts()[0]
    counts = {name: sum(words[0] == row["word"] for words, _ in own) for name, own in first_words(run, 0).items()}
    without = [sum(n for name, n in counts.items() if patient[name] != left) / 6 for left in ("p0", "p1", "p2")]
    spread = sum((value - sum(without) / 3) ** 2 for value in without)
    assert row["high"] - row["count"] == pytest.approx(stats.t.ppf(0.975, 2) * math.sqrt(2 / 3 * spread))


def test_the_report_says_it(run):
    report = run.report.read_text()
    assert 'id="medical_words"' in report
    section = report[report.index('id="words"') :]
    for word in run.lens_words.filter(pl.col("layer") == 8)["word"]:
        assert f"<bdi>{word.replace('<', '&lt;').replace('>', '&gt;')}</bdi>" in section
    assert "modality" in section
    assert "0.9143 times" in section


def test_the_printed_words_stand_beside_them(run, monkeypatch):
    assert not any(state["printed"] for state in lens_words(run))
    monkeypatch.setattr("medlens.published.for_run", lambda run: run.rows)  # as if it were the model that was studied
    beside = {state["layer"]: state["printed"] for state in lens_words(run)}
    assert sorted(beside) == [0, 2, 4, 5, 6, 8]
    assert "▁surgery 70" in beside[5]["image 2"]
    assert not any(said for layer, said in beside.items() if layer != 5)


def test_shares_of_a_study_meet_in_the_same_words(tmp_path):
    plan = Plan(limit=24, instruments=("lens",), answers="given", lens_images=3, folds=2)
    for k in (1, 2):
        medlens.study_shard("phantom", "phantom", plan, tmp_path / "run", f"{k}/2")
    merged, whole = medlens.merge(tmp_path / "run"), medlens.study("phantom", "phantom", plan, tmp_path / "whole")
    assert merged.lens_words.equals(whole.lens_words)
    assert medlens.medical_share(merged).equals(medlens.medical_share(whole))
    assert merged.manifest["model"]["vocabulary"] == whole.manifest["model"]["vocabulary"]


def test_the_share_of_what_units_write(phantom, tmp_path):
    samples = medlens.phantom.samples(20, seed=1)
    run = medlens.study(phantom, samples, Plan(protocol="published", unit_images=3), tmp_path / "units")
    shares = medlens.medical_share(run)
    assert shares["of"].unique().sort().to_list() == ["units, published", "units, sound"]
    for row in shares.filter(pl.col("share") > 0).to_dicts():
        protocol = row["of"].removeprefix("units, ")
        words = {"medical": MEDICAL, **PHANTOM}[row["kind"]]
        of_images, everywhere = {}, Counter()
        for counted in run.occurrence.filter(pl.col("layer") == row["layer"]).to_dicts():
            if counted["protocol"] == protocol:
                of_images.setdefault(counted["image"], Counter())[counted["word"]] += counted["count"]
            elif counted["protocol"].endswith(f", {protocol}"):
                everywhere[counted["word"]] += counted["count"]
        each = torch.tensor([sum(own[word] for word in words) / own.total() for own in of_images.values()], dtype=torch.float64)
        assert len(each) == 3
        assert row["share"] == pytest.approx(float(each.mean()))
        assert row["high"] == pytest.approx(min(1, float(each.mean() + stats.t.ppf(0.975, 2) * each.std() / 3**0.5)))
        assert row["n"] == sum(own.total() for own in of_images.values())
        assert row["vocabulary"] == pytest.approx(sum(everywhere[word] for word in words) / everywhere.total())
    assert "<td>modality</td>" in run.report.read_text()


# ---- bad input


@pytest.mark.parametrize("layers", [[9], [-1], [0, 99]])
def test_states_that_are_none(run, layers):
    with pytest.raises(BadInput, match=rf"states 0 to 8 of phantom; got {layers[-1]}$"):
        medlens.occurrence(run, layers)


def test_runs_without_words(run, phantom, tmp_path):
    with pytest.raises(BadInput, match="listed is 0"):
        medlens.occurrence(run, listed=0)
    published = medlens.study(phantom, "phantom", Plan(limit=4, protocol="published", unit_images=0), tmp_path / "published")
    assert published.lens_words.is_empty()
    assert 'id="words"' not in published.report.read_text()
    for ask in (medlens.occurrence, medlens.medical_share):
        with pytest.raises(BadInput, match=r"published holds no words.*--instrument lens"):
            ask(published)
    shutil.copytree(run.path, tmp_path / "old")
    manifest = json.loads((tmp_path / "old/manifest.json").read_text())
    del manifest["model"]["vocabulary"]
    (tmp_path / "old/manifest.json").write_text(json.dumps(manifest))
    for ask in (medlens.occurrence, medlens.medical_share):
        with pytest.raises(BadInput, match="repeat the study"):
            ask(tmp_path / "old")
