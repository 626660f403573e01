"""What can go: judged without writing an answer, against generation; costs against transformers' own counts; and the checkpoint."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import medlens
from medlens import hooks
from medlens._prepare import Nobody, prepare
from medlens._prune import checkpoint, choose
from medlens._prune.checkpoint import shortened_checkpoint, write_cut
from medlens._prune.cost import cost, seconds
from medlens._prune.fitting import Fitting
from medlens._prune.judging import Bench, differ
from medlens.cli import app
from medlens.errors import BadInput, BadModel, BadRun, CannotWrite
from medlens.models.phantom import folder_of
from medlens.plan import Plan
from medlens.report.pruned import best, said
from medlens.types import Answer
from medlens.walk.again import Again
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare as prompt_of
from medlens.walk.generate import answer_together
from medlens.walk.maps import load_maps, save_maps
from medlens.walk.surgery import LinearMap, blocks_dropped, blocks_linear, shortened, skipped
from tiny import build

LINEAR, KINDS = 4, ("type", "place", "side", "count", "relation")
GOLDEN = Path(__file__).parent / "golden" / "llava_med" / "seed0" / "checkpoint"


@pytest.fixture(scope="module")
def asked():
    return medlens.phantom.samples(60, 3, KINDS)


@pytest.fixture(scope="module")
def run(asked, tmp_path_factory):
    return medlens.prune("phantom", asked, tmp_path_factory.mktemp("prune") / "run", Plan(max_new_tokens=4), draws=3)


@pytest.fixture(scope="module")
def bench(phantom, asked, tmp_path_factory):
    """Of few questions, with other images."""
    prompts = prepare(phantom, asked[:30], Plan(), Nobody()).prompts
    return Bench(phantom, prompts, answer_together(phantom, prompts, 4), tmp_path_factory.mktemp("bench") / "b", 0, others=True)


def logits_of(model, samples):
    return [medlens.forward(model, sample).logits for sample in samples]


# ---- judged


def test_answers_are_kept_when_generation_keeps_them(phantom, bench):
    """Oracle: the answers written anew, without blocks; among them many that are lost."""
    whole = [str(text) for text in answer_together(phantom, bench.prompts, 4)]
    shares = []
    for gone in ([5], [1, 4]):
        with blocks_dropped(phantom, gone):
            written = [str(text) for text in answer_together(phantom, bench.prompts, 4)]
        found = bench.judge(gone)
        truth = [p.sample.answer for p in bench.prompts]
        assert found.kept.tolist() == [a == b for a, b in zip(written, whole, strict=True)]
        assert found.right.tolist() == [a == b for a, b in zip(written, truth, strict=True)]
        shares.append(found.kept.double().mean())
    assert shares[1] < 1


def test_divergence_and_log_odds_by_hand(phantom, bench, tmp_path):
    """Of one question, from two plain forwards."""
    prompt, gone = bench.prompts[0], [1, 4]
    word = answer_together(phantom, [prompt], 1)[0].ids[0]
    p = medlens.forward(phantom, prompt.sample).logits[-1].double().log_softmax(-1)
    with blocks_dropped(phantom, gone):
        q = medlens.forward(phantom, prompt.sample).logits[-1].double().log_softmax(-1)
    found = Bench(phantom, [prompt], [Answer("one word", [word], [0.0])], tmp_path / "one", 0, others=False).judge(gone)
    assert float(found.kl) == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-4)
    odds = q[word] - torch.log1p(-q[word].exp())
    assert float(found.log_odds) == pytest.approx(float(odds), abs=1e-3)


def test_whether_the_image_is_followed_is_what_generation_says(phantom, bench):
    """Oracle: both answers written; those that begin alike with a word that was not the whole model's are not told apart."""
    gone = [1, 4]
    found, others = bench.judge(gone).follows, {}
    for of in bench._asked_of:
        others |= {one.number: one.prompt for one in of if one.kind == "other"}
    assert len(others) > 15
    numbers = sorted(others)
    own = [bench.prompts[k] for k in numbers]
    swapped = [replace(bench.prompts[k], look=others[k].look, image=others[k].image) for k in numbers]
    with blocks_dropped(phantom, gone):
        first, second = (answer_together(phantom, prompts, 4) for prompts in (own, swapped))
    same = [bool(found[k]) == (a.ids != b.ids) for k, a, b in zip(numbers, first, second, strict=True)]
    assert sum(same) >= len(same) - 1
    assert 0 < sum(a.ids != b.ids for a, b in zip(first, second, strict=True)) < len(own)


@pytest.mark.parametrize(
    ("one", "other", "parted"),
    [
        ([5, 6], [5, 6], False),  # both say it
        ([5, 6], [7, 6], True),
        ([5, 6], [5, 7], True),
        ([7, 6], [7, 8], False),  # alike up to where neither is known any more
        ([7, 6], [8, 6], True),
    ],
)
def test_where_answers_part(one, other, parted):
    assert differ(one, other, (5, 6)) is parted


# ---- the table


def test_the_whole_model_and_rows_of_every_rule(run):
    (whole,) = run.pruned.filter(rule="none").to_dicts()
    assert (whole["kept"], whole["kl"], whole["follows"]) == (1, 0, 1)
    assert whole["blocks"] == []
    assert whole["parameters"] == medlens.load("phantom").parameters
    assert run.manifest["prune"]["sizes"] == [1, 2]
    for size in (1, 2):
        part = run.pruned.filter(budget=size / 8)
        for how in ("drop", "linear"):
            rules = part.filter((part["rule"] != "random") & (part["how"] == how))
            assert set(rules["rule"]) == {*choose.CHOOSING, "magnitude"}
            (chosen,) = rules.filter("chosen").to_dicts()
            of_rules = rules.filter(rules["rule"] != "magnitude")
            assert chosen["discovery_kept"] == of_rules["discovery_kept"].max()
            assert chosen["seconds"] > 0
        drawn = part.filter(rule="random")
        assert len(drawn["blocks"].to_list()) == len({tuple(b) for b in drawn["blocks"].to_list()}) == 3
        assert drawn["seconds"].is_null().all()
    assert (run.pruned["kept"].is_between(0, 1) & (run.pruned["n"] == whole["n"])).all()


def test_a_wrong_cut_is_seen(run):
    """Without the first block nothing is kept: it has the smallest weights, and by them it would go first."""
    (row,) = run.pruned.filter(rule="magnitude", how="drop", budget=1 / 8).to_dicts()
    assert row["blocks"] == [0]
    assert row["kept"] < 0.3
    assert best(run).filter(budget=1 / 8)["kept"].min() > 0.9


def test_costs_are_what_transformers_counts(phantom, asked):
    """Parameters of a model with the blocks taken out for good, and the products that torch counts in one eager forward."""
    module = copy.deepcopy(phantom.module)
    module.model.language_model.layers = torch.nn.ModuleList(
        block for b, block in enumerate(module.model.language_model.layers) if b not in (2, 5)
    )
    prompt = prompt_of(phantom, asked[0])
    found = cost(phantom, len(prompt.tokens), (2, 5))
    assert found.parameters == sum(p.numel() for p in module.parameters())
    assert found.bytes == 4 * found.parameters
    decoder, states = module.get_decoder(), torch.zeros(1, len(prompt.tokens), 128)
    module.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.lm_head(decoder(inputs_embeds=states, use_cache=False).last_hidden_state[:, -1:])
    rotary = 2 * 16 * len(prompt.tokens)  # angles: positions times frequencies
    assert abs(counter.get_total_flops() - found.flops) <= rotary
    mapped = cost(phantom, len(prompt.tokens), (2, 5), maps=2)
    assert mapped.parameters - found.parameters == 2 * (128 * 128 + 128)
    assert mapped.flops - found.flops == 2 * 2 * len(prompt.tokens) * 128 * 128
    whole, less = seconds(phantom, prompt, [((), None), ((1, 2, 3, 4, 5, 6, 7), None)])
    assert 0 < less < whole
    assert len(phantom.blocks) == 8


@pytest.mark.parametrize(
    ("depth", "budget", "expected"),
    [(8, 0.5, [1, 2, 3, 4]), (8, 0.125, [1]), (32, 0.5, [2, 4, 6, 8, 10, 12, 14, 16]), (10, 0.3, [1, 2, 3]), (4, 0.99, [1, 2, 3])],
)
def test_sizes(depth, budget, expected):
    assert choose.sizes(depth, budget, 8) == expected


def test_random_choices_are_different_and_of_one_size():
    found = choose.random_choices(8, 3, 20, 0)
    assert len(set(found)) == 20
    assert all(len(set(blocks)) == 3 for blocks in found)
    assert choose.random_choices(8, 3, 20, 0) == found
    assert len(choose.random_choices(8, 1, 20, 0)) == 8


def test_a_search_takes_the_block_that_moves_the_words_least(bench):
    first = {b: float(bench.judge([b]).kl.mean()) for b in range(8)}
    ticks = []
    found = choose.searched(bench, 1, lambda: ticks.append(1))
    assert found == [min(first, key=first.get)]
    assert len(ticks) == choose.search_steps(8, 1) == 8


# ---- maps


def test_a_map_behind_another_is_fitted_to_what_comes_through(phantom, bench):
    """Oracle: rows of the states by plain forwards, numpy's least squares."""
    maps = Fitting(bench).maps([1, 2, 5])
    assert [(one.first, one.last) for one in maps] == [(1, 2), (5, 5)]
    again, rows = bench.again, [torch.tensor(case.where("all")) for case in bench.laid]
    x, y = [], []
    with skipped(phantom, [1, 2], maps[:1]), hooks.evaluation(phantom.module):
        other = Again(phantom, bench.laid, again._once._folder.parent / "through")
    for k, of in enumerate(rows):
        x.append(other.state(5, k)[of].double())
        y.append(again.state(6, k)[of].double())
    x, y = torch.cat(x), torch.cat(y)
    padded = torch.cat([x, torch.ones(len(x), 1)], 1)
    expected = padded @ torch.linalg.lstsq(padded, y).solution
    assert torch.allclose(maps[1](x), expected, atol=1e-4)
    assert not torch.allclose(again.state(5, 0)[rows[0]].double(), x[: len(rows[0])], atol=1e-2)


def test_skipped_blocks_are_dropped_and_linear_ones(phantom, bench, asked):
    """What is judged is what `blocks_dropped` and `blocks_linear` say, and nothing is left behind."""
    maps = Fitting(bench).maps([1, 2])
    for blocks, how, context in (([1, 5], None, blocks_dropped(phantom, [1, 5])), ([1, 2], maps, blocks_linear(phantom, maps))):
        called = arguments(phantom, cases(phantom, [prompt_of(phantom, asked[0])])[0])
        with context, torch.no_grad():
            expected = phantom.module(**called, use_cache=False).logits
        with skipped(phantom, blocks, how), torch.no_grad():
            found = phantom.module(**called, use_cache=False).logits
        with shortened(phantom, blocks, how), torch.no_grad():
            short = phantom.module(**called, use_cache=False).logits
            assert phantom.depth < 8
        assert torch.allclose(short, expected, atol=1e-5)
        assert torch.allclose(found, expected, atol=1e-5)
    assert type(phantom.blocks[1]) is type(phantom.blocks[0])


def test_maps_come_back_as_they_were(tmp_path):
    one = LinearMap(2, 3, torch.rand(5).double(), torch.rand(5).double(), torch.rand(5, 5).double(), 9, "a note")
    save_maps([one], tmp_path / "maps")
    (found,) = load_maps(tmp_path / "maps")
    assert (found.first, found.last, found.n, found.note) == (2, 3, 9, "a note")
    assert all(torch.equal(getattr(found, part), getattr(one, part)) for part in ("mean_x", "mean_u", "a"))
    for damage in ("{}", "[1]", '{"maps": [{"first": 0}]}', "x"):
        (tmp_path / "maps" / "maps.json").write_text(damage)
        with pytest.raises(BadModel, match="no maps, or damaged"):
            load_maps(tmp_path / "maps")


def test_too_few_tokens_are_said(phantom, tmp_path):
    """One image and two questions: fewer tokens than the model is wide."""
    prompts = prepare(phantom, medlens.phantom.samples(2, 9, ("type", "side")), Plan(), Nobody()).prompts
    few = Bench(phantom, prompts, answer_together(phantom, prompts, 4), tmp_path / "few", 0, others=False)
    (one,) = Fitting(few).maps([3])
    assert one.n == len(few.laid[0].pack.ids) < phantom.width
    assert f"at most rank {one.n - 1}" in one.note


def test_a_linear_block_is_found_first_and_replaced(phantom, asked, tmp_path):
    linear = medlens.phantom.linear_block(phantom, LINEAR, n=60)
    found = medlens.prune(linear, asked, tmp_path / "run", Plan(max_new_tokens=4), budget=0.125, draws=1)
    assert found.manifest["prune"]["orders"]["nonlinearity"][0] == LINEAR
    (row,) = found.pruned.filter(how="linear", rule="nonlinearity").to_dicts()
    assert row["kept"] == 1
    assert row["kl"] < 1e-6
    assert found.manifest["prune"]["maps"] == [LINEAR]
    test = medlens.phantom.samples(3, 77, KINDS)
    expected = logits_of(linear, test)
    with blocks_linear(linear, load_maps(found.path / "linear")):
        replaced = logits_of(linear, test)
    assert max(float((a - b).abs().max()) for a, b in zip(replaced, expected, strict=True)) < 1e-3
    assert "object" in found.manifest["prune"]["checkpoint"]["why"]
    assert not (found.path / "checkpoint").exists()


# ---- the checkpoint


def test_plain_transformers_loads_it_and_says_the_same(run, phantom, asked):
    from transformers import AutoModelForImageTextToText

    told = run.manifest["prune"]["checkpoint"]
    assert told["why"] == ""
    assert told["difference"] < 1e-5
    other = AutoModelForImageTextToText.from_pretrained(run.path / "checkpoint", dtype=torch.float32).eval()
    assert len(other.model.language_model.layers) == 6
    for sample in asked[:3]:
        called = arguments(phantom, cases(phantom, [prompt_of(phantom, sample)])[0])
        with torch.no_grad():
            whole, found = phantom.module(**called).logits, other(**called).logits
            with blocks_dropped(phantom, told["blocks"]):
                expected = phantom.module(**called).logits
        assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
        assert not torch.allclose(whole, expected, atol=1e-2)


def test_every_byte_that_stays_is_the_same(run):
    gone, before = run.manifest["prune"]["checkpoint"]["blocks"], load_file(folder_of("phantom") / "model.safetensors")
    after = load_file(run.path / "checkpoint" / "model.safetensors")
    stay = [b for b in range(8) if b not in gone]
    expected = {}
    for name, weight in before.items():
        of_block = re.fullmatch(r"(language_model\..*layers\.)(\d+)(\..*)", name)
        if of_block is None:
            expected[name] = weight
        elif (number := int(of_block[2])) in stay:
            expected[f"{of_block[1]}{stay.index(number)}{of_block[3]}"] = weight
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], expected[name]) and after[name].dtype == expected[name].dtype for name in after)
    assert json.loads((run.path / "checkpoint" / "medlens_prune.json").read_text())["dropped"] == gone


def test_it_is_a_model_like_any_other(run, asked):
    model = medlens.load(run.path / "checkpoint")
    assert model.depth == 6
    assert str(medlens.answer(model, asked[0], 4))


def test_shards_tied_weights_and_kinds_of_attention(tmp_path):
    """Gemma's decoder mixes two kinds of attention, its head is its input table, and its weights lie in many files."""
    module, processor = build("gemma3")
    module.eval().save_pretrained(tmp_path / "whole", max_shard_size="30KB")
    processor.save_pretrained(tmp_path / "whole")
    model = medlens.load(tmp_path / "whole", memory=1)
    assert write_cut(model, [0, 2], tmp_path / "cut") is True
    config = json.loads((tmp_path / "cut" / "config.json").read_text())["text_config"]
    assert config["num_hidden_layers"] == 2
    assert config["layer_types"] == ["sliding_attention", "full_attention"]
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    assert {file.name for file in (tmp_path / "cut").glob("*.safetensors")} == set(index["weight_map"].values())
    assert not any("layers.2." in name for name in index["weight_map"] if "language_model" in name)
    assert not any("lm_head" in name for name in index["weight_map"])
    sample = medlens.phantom.samples(1, 1, "type")[0]
    (found,) = logits_of(medlens.load(tmp_path / "cut"), [sample])
    with blocks_dropped(model, [0, 2]):
        (expected,) = logits_of(model, [sample])
    assert torch.allclose(found, expected, atol=1e-5 * max(1, float(expected.abs().max())))


def test_the_original_layout(tmp_path):
    """Shards that blocks straddle, a flat configuration, and the tower's folder beside them."""
    model = medlens.load(GOLDEN, memory=1, vision_tower="checkpoint")
    assert write_cut(model, [0], tmp_path / "cut") is False
    new = medlens.load(tmp_path / "cut", vision_tower="checkpoint")
    assert new.depth == model.depth - 1
    sample = medlens.phantom.samples(1, 1, "type")[0]
    (found,) = logits_of(new, [sample])
    with blocks_dropped(model, [0]):
        (expected,) = logits_of(model, [sample])
    assert torch.allclose(found, expected, atol=1e-5 * max(1, float(expected.abs().max())))


def test_what_would_not_be_the_same_is_not_left(phantom, asked, tmp_path, monkeypatch):
    """Weights changed in memory; a random model, which has no files; and a copy that went wrong."""
    prepared = prepare("phantom", asked[:2], Plan(), Nobody())
    told = shortened_checkpoint("phantom", replace(prepared, identity={"weights": "others"}), [7], prepared.prompts, tmp_path / "a")
    assert "not those in the files" in told["why"]
    random = prepare("phantom:random", asked[:2], Plan(), Nobody())
    assert "no files" in shortened_checkpoint("phantom:random", random, [7], random.prompts, tmp_path / "b")["why"]
    right = checkpoint._renamed
    monkeypatch.setattr(checkpoint, "_renamed", lambda model, _: right(model, [0]))
    told = shortened_checkpoint("phantom", prepared, [7], prepared.prompts, tmp_path / "c")
    assert "differs" in told["why"]
    assert not list(tmp_path.iterdir())


# ---- the page, and bad input


def test_the_page_says_it(run):
    page = run.report.read_text()
    assert said(run).replace("'", "&#39;") in page
    assert "<script" not in page
    assert "random: best of 3" in page
    assert (run.path / "kept.png").exists()
    assert str(run.path.parent) not in page + json.dumps(run.manifest)


def test_a_model_that_does_not_look_has_nothing_to_follow(asked, tmp_path):
    blind = medlens.prune("phantom:textonly", asked[:20], tmp_path / "run", Plan(max_new_tokens=4), budget=0.125, draws=1)
    assert blind.pruned["follows"].is_null().all()
    assert "another image" not in said(blind)


@pytest.mark.parametrize("budget", [0, 0.1, 1, -0.5, 2, float("nan")])
def test_a_budget_of_nothing_or_everything(budget, asked, tmp_path):
    with pytest.raises(BadInput, match=r"share of the 8 blocks.*0.125 to 0.875"):
        medlens.prune("phantom", asked[:12], tmp_path / "run", budget=budget)
    assert not list(tmp_path.iterdir())


def test_bad_input(asked, tmp_path):
    with pytest.raises(BadInput, match="at least one random"):
        medlens.prune("phantom", asked, tmp_path / "run", draws=0)
    with pytest.raises(BadInput, match="greedy"):
        medlens.prune("phantom", asked, tmp_path / "run", Plan(temperature=1.0))
    with pytest.raises(CannotWrite, match="scratch"):
        medlens.prune("phantom", asked, tmp_path / "run", Plan(scratch=str(tmp_path / "none")))
    with pytest.raises(BadInput, match=r"1 image .* too few"):
        medlens.prune("phantom", asked[:3], tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(BadRun, match="not a run"):
        medlens.prune("phantom", asked, tmp_path / "full")
    assert [f.name for f in tmp_path.rglob("*")] == ["full", "mine.txt"]


def test_a_finished_run_is_found_again_and_another_refused(run, asked):
    again = medlens.prune("phantom", asked, run.path, Plan(max_new_tokens=4), draws=3)
    assert again.manifest["created"] == run.manifest["created"]
    with pytest.raises(BadRun, match="another study"):
        medlens.prune("phantom", asked, run.path, Plan(max_new_tokens=4), draws=4)


def test_the_command_says_what_it_found(run, monkeypatch):
    asked = {}
    monkeypatch.setattr(medlens, "prune", lambda *args, **named: asked.update(named, args=args) or run)
    done = CliRunner().invoke(app, ["prune", "phantom", "--budget", "0.25", "--draws", "3", "--out", "x"])
    assert done.exit_code == 0, done.output
    assert (asked["budget"], asked["draws"], asked["args"][0]) == (0.25, 3, "phantom")
    assert said(run)[:40] in done.output
    assert "checkpoint:" in done.output
