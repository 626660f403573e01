"""int8 blocks: the numbers are the grid's, streamed and resident are one model, and every measure's change is told."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats
from torch import nn

import medlens
from medlens import _study
from medlens._record import fingerprint
from medlens.comparison.answers import answers_kept
from medlens.errors import BadInput
from medlens.models import int8
from medlens.models.null import reinitialised
from medlens.walk.cases import cases
from medlens.walk.forward import prepare
from medlens.walk.generate import answer_together
from medlens.walk.reverse import reverse
from medlens.walk.room import Room
from medlens.walk.target import next_word

GOLDEN = Path(__file__).parent / "golden" / "llava_med"


@pytest.fixture(scope="module")
def samples():
    return medlens.phantom.samples(12, seed=5)


@pytest.fixture(scope="module")
def plain():
    return medlens.load("phantom")


@pytest.fixture(scope="module")
def small():
    return medlens.load("phantom", dtype="int8")


@pytest.fixture(scope="module")
def streamed():
    return medlens.load("phantom", dtype="int8", memory=1)


def by_hand(weight):
    """Row by row, in float64."""
    rows = []
    for row in weight.detach().double().numpy():
        scale = np.abs(row).max() / 127
        rows.append(np.rint(row / scale) * scale if scale else 0 * row)
    return torch.from_numpy(np.stack(rows)).float()


def test_the_grid_is_symmetric_and_one_a_row():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [1e-3], [40.0], [0.0], [1e-20]])
    small, scale = int8.quantise(weight)
    assert small.dtype == torch.int8
    assert scale.shape == (5, 1)
    assert int(small.abs().max()) == 127
    assert ((int8.rounded(weight) - weight).abs() <= scale / 2 * (1 + 1e-5)).all()
    assert torch.allclose(int8.rounded(weight), by_hand(weight), rtol=1e-5, atol=0)


def test_an_adapter_is_merged_before_it_is_rounded(streamed, small):
    weight, added = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(int8._rounded_after(lambda w: w + added, weight), int8.rounded(weight + added))
    (name,) = [n for n in streamed.names_of[2] if n.endswith("o_proj.weight")]
    assert torch.equal(streamed.weights.read(name), small.blocks[2].get_submodule("self_attn.o_proj").weight)


def test_blocks_are_int8_and_all_else_is_not(small, plain):
    kinds = {type(m) for block in small.blocks for m in block.modules() if isinstance(m, nn.Linear)}
    assert kinds == {int8.QuantisedLinear}
    assert {p.dtype for block in small.blocks for name, p in block.named_parameters() if name.endswith("small")} == {torch.int8}
    assert {p.dtype for name, p in small.module.named_parameters() if not name.endswith("small")} == {torch.float32}
    assert small.parameters == plain.parameters
    assert small.dtype == torch.float32
    assert small.weights is None
    assert "int8" in small.origin["weights"]
    held, before = (sum(p.nbytes for b in m.blocks for p in b.parameters()) for m in (small, plain))
    assert held < before * 0.27


def test_it_is_the_model_with_rounded_weights(small, streamed, plain, samples):
    """Oracle: a float32 model whose weights are rounded in place, row by row."""
    module = copy.deepcopy(plain.module)
    for block in medlens.models.Model("copy", module, plain.processor).blocks:
        for part in block.modules():
            if isinstance(part, nn.Linear):
                part.weight.data = by_hand(part.weight.data)
    oracle = medlens.load(module, plain.processor)
    for sample in samples[:2]:
        want, whole = medlens.forward(oracle, sample).logits, medlens.forward(plain, sample).logits
        ours = medlens.forward(small, sample).logits
        assert torch.allclose(ours, want, atol=2e-3 * float(want.abs().max()))
        assert torch.equal(ours, medlens.forward(streamed, sample).logits)
        assert (whole - want).abs().max() > 5 * (ours - want).abs().max()  # the change is seen, and is the grid's


def test_streamed_is_streamed_and_known_by_the_same_fingerprint(small, streamed, plain):
    assert streamed.weights is not None
    assert all(p.is_meta for block in streamed.blocks for p in block.parameters())
    assert fingerprint(streamed) == fingerprint(small) != fingerprint(plain)


def test_answers_and_gradients(small, streamed, samples):
    asked = [prepare(small, sample) for sample in samples]
    assert answer_together(small, asked) == answer_together(streamed, asked)
    laid = cases(small, asked[:1])
    aims = [[next_word(laid[0], 5)]]
    found = [_gradient(model, laid, aims) for model in (small, streamed)]
    assert torch.equal(*found)
    assert found[0].abs().max() > 0


def _gradient(model, laid, aims):
    kept = []

    class Seen:
        def begin(self, case, target, value, state, gradient): ...
        def inside(self, block, module):
            from contextlib import nullcontext

            return nullcontext([])

        def visit(self, block, case, target, state, gradient, traced):
            kept.append(gradient.clone())

        def leave(self, block): ...

    reverse(model, laid, aims, [Seen()], Room(kept_from=0))
    return kept[-1]


def test_a_null_of_it_is_the_null_of_the_float_model(small, plain, samples):
    drawn = [medlens.forward(reinitialised(model, 3), samples[0]).logits for model in (small, plain)]
    assert torch.equal(*drawn)


def test_other_layouts(tmp_path):
    got = medlens.load(GOLDEN / "seed0" / "checkpoint", vision_tower=GOLDEN / "seed0" / "clip", dtype="int8")
    assert got.checks["logits"] <= 1e-4
    random = medlens.load("phantom:random:3", dtype="int8")
    assert isinstance(random.blocks[0].get_submodule("mlp.down_proj"), int8.QuantisedLinear)


def test_an_object_is_left_as_it_is(plain):
    with pytest.raises(BadInput, match="loaded by its name"):
        medlens.load(plain.module, plain.processor, dtype="int8")
    with pytest.raises(BadInput, match=r"float32, float16, bfloat16, int8; got int4"):
        medlens.load("phantom", dtype="int4")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The same study, float32 and int8."""
    plan = medlens.Plan(
        instruments=("geometry", "contextualization", "lens"), limit=16, folds=2, lens_images=1, unit_images=0, map_images=0,
        nulls=(), thorough=False, neighbour_rows=128,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_study, "write_report", lambda _folder: None)  # takes longer than the study, and is not compared
        runs = [medlens.study("phantom", "phantom", replace(plan, dtype=dtype), folder / dtype) for dtype in ("float32", "int8")]
    return runs, medlens.compare(runs)


def test_the_change_in_every_measure_is_told_with_its_interval(compared):
    """What quantisation did: every measure of the run at every layer, paired by fold."""
    runs, found = compared
    assert "int8" in runs[1].manifest["model"]["origin"]["weights"]
    assert runs[1].manifest["plan"]["dtype"] == "int8"
    measured = runs[0].rows.filter(~pl.col("protocol").str.starts_with("null"))
    key = ["protocol", "measure", "tokens", "group", "variant", "layer"]
    assert set(measured.select(key).iter_rows()) == set(found.differences.select(key).iter_rows())
    finite = found.differences.filter(pl.col("difference").is_finite())
    assert set(finite["how"]) <= {"paired", ""}
    paired = finite.filter(pl.col("how") == "paired")
    assert paired["measure"].n_unique() >= 8
    assert paired.filter(pl.col("difference") != 0).height > 0.5 * paired.height
    assert ((paired["low"] <= paired["difference"]) & (paired["difference"] <= paired["high"])).all()


def test_answers_kept_are_counted(compared):
    """Oracle: a loop over the two tables, and an interval by leaving out one image at a time. Negative control: answers that were
    made to differ are seen."""
    runs, found = compared
    assert any("int8 keeps" in note for note in found.notes)
    spoilt = runs[1].path.with_name("spoilt")
    shutil.copytree(runs[1].path, spoilt)
    third = pl.int_range(pl.len()) % 3 == 0
    answer, correct = pl.when(third).then(pl.lit("banana")).otherwise("answer"), pl.col("correct") & ~third
    runs[1].answers.with_columns(answer=answer, correct=correct).write_parquet(spoilt / "answers.parquet")
    runs = [runs[0], medlens.open_run(spoilt)]
    line = answers_kept(("float32", "spoilt"), *runs)
    said = [dict(zip(run.answers["sample"], run.answers["answer"], strict=True)) for run in runs]
    right = [dict(zip(run.answers["sample"], run.answers["correct"], strict=True)) for run in runs]
    image = dict(zip(runs[0].samples["sample"], runs[0].samples["image"], strict=True))
    assert line["kept"] == pytest.approx(np.mean([said[0][s].strip().lower() == said[1][s].strip().lower() for s in image]))
    assert line["low"] < line["kept"] < line["high"]
    assert line["kept"] < found.answers["kept"][0]
    assert (line["n"], line["images"]) == (16, len(set(image.values())))
    gained = {s: float(right[1][s]) - float(right[0][s]) for s in image}
    without = [np.mean([g for s, g in gained.items() if image[s] != i]) for i in sorted(set(image.values()))]
    half = stats.t(len(without) - 1).ppf(0.975) * np.sqrt((len(without) - 1) * np.var(without))
    assert line["difference"] == pytest.approx(np.mean(list(gained.values())))
    assert line["difference_high"] - line["difference"] == pytest.approx(half)
    same = answers_kept(("float32", "again"), runs[0], runs[0])
    assert (same["kept"], same["difference"], same["difference_low"]) == (1, 0, None)
