"""The lens inside a study, against plain softmax over the model's own forward."""

import re

import polars as pl
import pytest
import torch

import medlens
from medlens._instruments import instruments_for
from medlens._record import command_line
from medlens.errors import BadInput, BadModel
from medlens.instruments.lens import Lens, Reader
from medlens.plan import Plan
from medlens.report.lens import settled
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, steps
from medlens.walk.layout import Layout, layout_of
from medlens.walk.room import Room
from medlens.walk.shares import shares

PLAN = Plan(limit=30, instruments=("lens",), lens_images=3, folds=3)
TABLES = ("rows", "left_out", "lens", "decisions")


@pytest.fixture(autouse=True)
def quick_report(monkeypatch):
    """Drawing takes seconds, and is looked at in one test only."""
    monkeypatch.setattr("medlens.report.as_files", lambda chart: {"svg": ""})
    monkeypatch.setattr("medlens.report.figures.drawn", lambda *chart: {})


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medlens.report.as_files", lambda chart: {"svg": ""})
        return medlens.study(phantom, "phantom", PLAN, tmp_path_factory.mktemp("lens") / "run")


@pytest.fixture(scope="module")
def plainly(phantom, run):
    """Of each sample its tokens, and of each state (L + 1) the probabilities (T, V) of the words, in float64."""
    samples, found = {s.id: s for s in medlens.phantom.samples(PLAN.limit, PLAN.seed)}, {}
    words = len(phantom.tokenizer)
    for record in run.answers.to_dicts():
        out = medlens.forward(phantom, samples[record["sample"]], record["answer"])
        with torch.no_grad():
            normed = [phantom.norm(state) for state in out.hidden_states[:-1]] + [out.hidden_states[-1]]
            p = [phantom.head(state).double()[:, :words].softmax(-1) for state in normed]
        found[record["sample"]] = (out, p)
    return found


def test_words_of_every_token_of_a_few_images(run, phantom, plainly):
    assert run.lens["image"].n_unique() == run.lens["sample"].n_unique() == PLAN.lens_images
    assert run.lens["variant"].unique().to_list() == ["raw"]
    for sample in run.lens["sample"].unique():
        mine, (out, p) = run.lens.filter(pl.col("sample") == sample), plainly[sample]
        assert mine.height == len(out.tokens) * (phantom.depth + 1)
        for row in mine.to_dicts():
            at, shares = row["position"], p[row["layer"]][row["position"]]
            top, ids = shares.topk(5)
            assert row["p"] == pytest.approx(top.tolist(), abs=1e-5)
            assert set(row["words"]) == set(phantom.tokenizer.convert_ids_to_tokens(ids.tolist())) or top[3] - top[4] < 1e-5
            assert row["entropy"] == pytest.approx(float(-(shares * shares.log()).sum()), abs=1e-4)
            assert row["tokens"] == out.tokens.groups[at]
            assert row["token"] == ("" if row["tokens"] == "image" else out.tokens.texts[at])
            assert row["patch"] == (out.tokens.where("image").index(at) if row["tokens"] == "image" else None)


def test_decisions(run, phantom, plainly):
    assert run.decisions.height == PLAN.limit * (phantom.depth + 1)
    for row in run.decisions.to_dicts():
        out, p = plainly[row["sample"]]
        at = out.tokens.where("answer")[0]
        word, before, last = out.tokens.ids[at], p[row["layer"]][at - 1], p[-1][at - 1]
        assert row["word"] == phantom.tokenizer.convert_ids_to_tokens(word)
        assert row["p"] == pytest.approx(float(before[word]), abs=1e-5)
        assert row["rank"] == 1 + int((before > before[word]).sum())
        assert row["log_odds"] == pytest.approx(float((before[word] / (1 - before[word])).log()), abs=1e-3)
        assert row["kl"] == pytest.approx(float((last * (last / before).log()).sum()), abs=1e-4)


def test_the_last_state_says_what_the_model_says(run, phantom, plainly):
    last = run.lens.filter(pl.col("layer") == phantom.depth)
    for row in last.to_dicts():
        own = plainly[row["sample"]][0].logits[row["position"]].argmax()
        assert row["words"][0] == phantom.tokenizer.convert_ids_to_tokens(int(own))
    decided = run.decisions.filter(pl.col("layer") == phantom.depth)
    assert decided["kl"].max() < 1e-9
    assert (decided["rank"] == 1).all()  # it was greedy
    kl = run.rows.filter(pl.col("measure") == "lens_kl", pl.col("layer") == phantom.depth)
    assert kl["value"].max() < 1e-9


def test_rows_are_means_over_samples(run, plainly):
    def rows(measure, tokens):
        return run.rows.filter(pl.col("measure") == measure, pl.col("tokens") == tokens).sort("layer")

    shown = run.lens["sample"].unique().to_list()
    for tokens in ("image", "text", "answer"):
        for row in rows("lens_entropy", tokens).to_dicts():
            mine = run.lens.filter(pl.col("layer") == row["layer"], pl.col("tokens") == tokens)
            assert row["value"] == pytest.approx(mine.group_by("sample").agg(pl.col("entropy").mean())["entropy"].mean())
            assert row["n"] == mine.height
            assert row["note"].endswith("first question on 3 of 5 images")
    for row in rows("lens_kl", "text").to_dicts():
        means = []
        for sample in shown:
            out, p = plainly[sample]
            here, last, at = p[row["layer"]], p[-1], out.tokens.where("text")
            means.append(float((last[at] * (last[at] / here[at]).log()).sum(-1).mean()))
        assert row["value"] == pytest.approx(sum(means) / len(means), abs=1e-4)
    for measure, of in (
        ("answer_top", (pl.col("rank") == 1).cast(float)),
        ("answer_rank", pl.col("rank").log(2)),
        ("answer_log_odds", pl.col("log_odds")),
    ):
        for row in rows(measure, "answer").to_dicts():
            mine = run.decisions.filter(pl.col("layer") == row["layer"])
            assert row["value"] == pytest.approx(mine.select(of).mean().item())
            assert row["n"] == PLAN.limit


def test_intervals_leave_out_whole_images(run):
    """By hand, of one measure at one state."""
    fold_of = dict(zip(dict.fromkeys(run.samples["image"]), [k % 3 for k in range(99)], strict=False))
    row = run.rows.filter(pl.col("measure") == "answer_log_odds", pl.col("layer") == 2).row(0, named=True)
    mine = run.decisions.filter(pl.col("layer") == 2).join(run.samples, on="sample")
    fold = mine["image"].replace_strict(fold_of)
    without = [mine.filter(fold != k)["log_odds"].mean() for k in range(3)]
    mean = sum(without) / 3
    error = (2 / 3 * sum((value - mean) ** 2 for value in without)) ** 0.5
    assert row["high"] - row["value"] == pytest.approx(4.302653 * error, rel=1e-5)
    said = run.left_out.filter(pl.col("measure") == "answer_log_odds", pl.col("layer") == 2)
    assert said["value"].to_list() == pytest.approx(without)


def test_a_random_model_decides_nowhere(run, tmp_path):
    """Given the data's answers, which the trained model has on top in the end and the random one has not."""
    plan = Plan(limit=30, instruments=("lens",), answers="given")
    trained, random = (
        medlens.study(name, "phantom", plan, tmp_path / name.replace(":", "-")).rows.filter(pl.col("measure") == "answer_top")
        for name in ("phantom", "phantom:random")
    )
    assert trained.filter(pl.col("layer") == 8)["value"][0] > 0.9
    assert random["value"].max() < 0.3
    assert (random["low"] < 0.3).all()


def test_a_null_of_weights_has_rows_and_no_tables(phantom, run, tmp_path):
    plan = Plan(limit=30, instruments=("lens",), lens_images=3, folds=3, nulls=("pairs", "weights"))
    found = medlens.study(phantom, "phantom", plan, tmp_path / "run")
    null = found.rows.filter(pl.col("protocol") == "null: weights", pl.col("measure") == "answer_top")
    assert null["layer"].to_list() == list(range(9))
    assert null["value"].max() < 0.3
    assert found.lens.equals(run.lens)
    assert found.decisions.equals(run.decisions)


class Interrupted(BaseException):
    """Like Ctrl-C: from outside."""


@pytest.mark.parametrize("block", [5, 8])
def test_a_study_that_was_stopped_finds_its_words_again(phantom, run, tmp_path, monkeypatch, block):
    seen = 0

    def see(self, layer, *args, real=Lens._see):
        nonlocal seen
        seen += layer == block
        if seen > 1:
            raise Interrupted
        real(self, layer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Lens, "_see", see)
        with pytest.raises(Interrupted):
            medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    assert len(list((tmp_path / "run.part").glob("kept-*/lens.parquet"))) == block
    assert (tmp_path / "run.part" / "progress.json").stat().st_size < 60_000  # rows, and no words
    again = medlens.study(phantom, "phantom", PLAN, tmp_path / "run")
    assert all((again.path / f"{t}.parquet").read_bytes() == (run.path / f"{t}.parquet").read_bytes() for t in TABLES)
    assert not list(again.path.glob("lens-*")) + list(again.path.glob("kept-*"))


def test_what_shares_hand_over_is_the_same(phantom, tmp_path):
    samples = medlens.phantom.samples(24, seed=4)
    prompts = [prepare(phantom, sample, sample.answer) for sample in samples]
    laid = cases(phantom, prompts)
    layout = layout_of(laid, 3)
    plan = Plan(instruments=("lens",), lens_images=2, folds=3)

    def reading(name, own=layout):
        (tmp_path / name).mkdir()
        return instruments_for(plan, own, prompts, reader=Reader(phantom, tmp_path / name))

    whole, merged = reading("whole"), instruments_for(plan, Layout(3))
    for passed in steps(phantom, laid, [whole], lambda: None, Room()):
        (whole.leave if passed < phantom.depth else whole.conclude)(passed)
    halves = [reading("a"), reading("b")]
    walks = [steps(phantom, part, [half], lambda: None, Room()) for part, half in zip(shares(laid, layout, 2), halves, strict=True)]
    for passed in range(phantom.depth + 1):
        for half, walking in zip(halves, walks, strict=True):
            assert next(walking) == passed
            merged.take(half.hand_over() if passed < phantom.depth else half.hand_over_last())
        (merged.leave if passed < phantom.depth else merged.conclude)(passed)
    assert merged.findings.rows == whole.findings.rows
    for name in ("lens", "decisions"):
        assert pl.concat(merged.findings.tables[name]).equals(pl.concat(whole.findings.tables[name]))


def test_a_streamed_model_says_the_same(run, tmp_path):
    streamed = medlens.study(medlens.load("phantom", memory="100MiB"), "phantom", PLAN, tmp_path / "run")
    assert streamed.lens["words"].to_list() == run.lens["words"].to_list()
    assert (streamed.decisions["log_odds"] - run.decisions["log_odds"]).abs().max() < 1e-4


def test_rows_that_only_pad_the_head_are_no_words(tiny_llava, tmp_path):
    """A head longer than the tokenizer: the largest logit is on a row that is no word, in every state."""
    model = tiny_llava(vocab_size=96)
    words = len(model.tokenizer)
    assert words < 96
    with torch.no_grad():
        model.head.weight[words:] = 50 * model.head.weight[:1].sign()
    samples = medlens.phantom.samples(6, seed=1)
    run = medlens.study(model, samples, Plan(instruments=("lens",), answers="given", folds=2), tmp_path / "run")
    known = set(model.tokenizer.get_vocab())
    assert {word for row in run.lens["words"] for word in row} <= known
    assert (run.lens["p"].list.sum() <= 1 + 1e-9).all()
    out = medlens.forward(model, samples[0], samples[0].answer)
    p = out.logits[:, :words].double().softmax(-1)
    at = out.tokens.where("answer")[0]
    last = run.decisions.filter(pl.col("sample") == samples[0].id, pl.col("layer") == model.depth).row(0, named=True)
    assert last["p"] == pytest.approx(float(p[at - 1, out.tokens.ids[at]]), abs=1e-6)


def test_a_head_that_is_not_linear_is_refused_with_what_to_do(tiny_llava, tmp_path):
    model = tiny_llava()

    class Head(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.weight, self.inner = inner.weight, inner

        def forward(self, x):
            return self.inner(x)

    model.module.set_output_embeddings(Head(model.head))
    samples = medlens.phantom.samples(4, seed=1)
    with pytest.raises(BadModel, match="its head is a Head; the lens reads linear ones; leave it out: --instrument"):
        medlens.study(model, samples, Plan(answers="given"), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_flags():
    with pytest.raises(BadInput, match="lens_images is 0; expected at least 1"):
        Plan(lens_images=0)
    assert "--instrument lens --lens-images 3" in command_line("phantom", "phantom", Plan(instruments=("lens",), lens_images=3))


def test_the_published_protocol_does_without(phantom, tmp_path):
    run = medlens.study(phantom, "phantom", Plan(limit=6, protocol="published"), tmp_path / "run")
    assert run.lens.is_empty()
    assert run.decisions.is_empty()
    assert "What do the states say" not in run.report.read_text()


def test_from_when_on_an_answer_is_on_top():
    ranks = {"a": [4, 1, 2, 1], "b": [1, 1, 1, 1], "c": [1, 1, 1, 2], "d": [9, 9, 9, 1]}
    decisions = pl.DataFrame(
        [{"sample": sample, "layer": layer, "rank": rank} for sample, all_ in ranks.items() for layer, rank in enumerate(all_)]
    )
    assert dict(settled(decisions).iter_rows()) == {"a": 3, "b": 0, "c": None, "d": 3}


def test_the_report_shows_patches_and_decisions(run):
    html = run.report.read_text()
    said = run.decisions.filter(pl.col("layer") >= 5).group_by("sample").agg((pl.col("rank") == 1).all())
    assert re.search(r"first word is on top from state \d on in", html)
    assert said.height == PLAN.limit
    assert html.count('<article class="lens">') == 3
    assert html.count('name="lens-1"') == 9
    assert len(re.findall(r'<i style="--p: [\d.]+"', html)) == 3 * 9 * 64
