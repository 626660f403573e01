"""Importance of blocks: rules against loops, and against blocks that do nothing or very little on purpose."""

import copy
import math
from dataclasses import replace

import polars as pl
import pytest
import torch

import medlens
from medlens import store
from medlens._importance import importance, least_important, reading
from medlens.errors import BadInput, BadRun
from medlens.measures.turns import angular_distance, angular_distance_from_sums, block_influence, block_influence_from_sums
from medlens.stats.turns import TurnSums
from medlens.walk.forward import prepare


def by_loops(x, y):
    """Block influence and angular distance, pair by pair."""
    cosines = []
    for u, v in zip(x.tolist(), y.tolist(), strict=True):
        sizes = [math.sqrt(math.fsum(a * a for a in row)) for row in (u, v)]
        if min(sizes) > 0:
            cosines.append(math.fsum(a * b for a, b in zip(u, v, strict=True)) / (sizes[0] * sizes[1]))
    n = len(cosines)
    return 1 - sum(cosines) / n, sum(math.acos(max(-1, min(1, c))) for c in cosines) / (math.pi * n)


@pytest.fixture
def pairs():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 7, generator=draw, dtype=torch.float64)
    return x, x + 0.5 * torch.randn(40, 7, generator=draw, dtype=torch.float64)


def test_turns_are_what_loops_say(pairs):
    influence, angle = by_loops(*pairs)
    assert block_influence(*pairs) == pytest.approx(influence, abs=1e-12)
    assert angular_distance(*pairs) == pytest.approx(angle, abs=1e-12)
    assert block_influence(*pairs).n == 40


def test_known_turns():
    x = torch.eye(4, dtype=torch.float64)
    assert (block_influence(x, 3 * x), angular_distance(x, 3 * x)) == (0, 0)
    assert (block_influence(x, -x), angular_distance(x, -x)) == (2, 1)
    assert angular_distance(x, x.roll(1, 0)) == pytest.approx(0.5)
    tiny = x + 1e-9 * x.roll(1, 0)
    assert angular_distance(x, tiny) * math.pi == pytest.approx(1e-9, rel=1e-6)  # an arccosine would say 0
    assert (block_influence(1e200 * x, 1e-200 * x), angular_distance(1e200 * x, x)) == (0, 0)


def test_rows_of_length_zero_are_left_out_and_said(pairs):
    x, y = (rows.clone() for rows in pairs)
    x[3] = 0
    y[5] = 0
    influence, angle = by_loops(x, y)
    assert block_influence(x, y) == pytest.approx(influence, abs=1e-12)
    assert angular_distance(x, y) == pytest.approx(angle, abs=1e-12)
    assert (block_influence(x, y).n, block_influence(x, y).note) == (38, "2 rows of length zero left out")
    nothing = block_influence(torch.zeros(2, 3), torch.ones(2, 3))
    assert math.isnan(nothing)
    assert nothing.note == "no rows that have a direction (2 of length zero)"
    with pytest.raises(BadInput, match=r"rows of shape \(2, 3\) do not turn into rows of shape \(3, 3\)"):
        block_influence(torch.ones(2, 3), torch.ones(3, 3))


def test_sums_merge_and_are_saved(pairs):
    x, y = pairs
    parts = [TurnSums.of(x[:13], y[:13]), TurnSums.of(x[13:], y[13:])]
    merged = TurnSums.from_tensors(parts[0].tensors()).merge(parts[1]).merge(TurnSums.empty())
    assert block_influence_from_sums(merged) == pytest.approx(block_influence(x, y), abs=1e-12)
    assert angular_distance_from_sums(merged) == pytest.approx(angular_distance(x, y), abs=1e-12)
    with pytest.raises(BadRun):
        TurnSums.from_tensors({"n": torch.tensor(1)})


@pytest.fixture(scope="module")
def prompts(phantom):
    return [prepare(phantom, s, s.answer) for s in medlens.phantom.samples(72, 3, ("presence", "type", "side"))[::3]]


@pytest.fixture(scope="module")
def rows(phantom, prompts, tmp_path_factory):
    return importance(phantom, prompts, tmp_path_factory.mktemp("importance") / "states", folds=4)


def test_every_rule_speaks_of_every_block(phantom, rows):
    table = pl.DataFrame(rows, schema=store.TABLES["importance"])
    counted = dict(table.group_by("rule").len().iter_rows())
    assert counted == {"nonlinearity": 24, "block_influence": 24, "angular_distance": 24, "image_reading": 8}
    defined = table.filter(pl.col("value").is_not_nan())
    (undefined,) = table.filter(pl.col("value").is_nan()).to_dicts()  # there are fewer words than dimensions
    assert (undefined["rule"], undefined["layer"], undefined["tokens"]) == ("nonlinearity", 0, "text")
    assert "any data would score 1" in undefined["note"]
    assert defined.filter((pl.col("low") > pl.col("value")) | (pl.col("high") < pl.col("value"))).is_empty()


def test_a_row_is_what_the_states_say(phantom, prompts, rows):
    """One prompt at a time, through the public forward; a prefix that questions share is counted once."""
    seen, x, y = set(), [], []
    for prompt in prompts:
        states = medlens.forward(phantom, prompt.sample, prompt.sample.answer).hidden_states
        if prompt.image not in seen:
            places = prompt.tokens.where("image")
            x.append(states[2][places].double())
            y.append(states[3][places].double())
        seen.add(prompt.image)
    influence, angle = by_loops(torch.cat(x), torch.cat(y))
    found = {row["rule"]: row["value"] for row in rows if (row["layer"], row["tokens"]) == (2, "image")}
    assert found["block_influence"] == pytest.approx(influence, abs=1e-5)
    assert found["angular_distance"] == pytest.approx(angle, abs=1e-5)


def test_a_block_that_does_next_to_nothing_goes_first(phantom, prompts):
    model = replace(phantom, module=copy.deepcopy(phantom.module))
    with torch.no_grad():
        model.blocks[5].self_attn.o_proj.weight.mul_(1e-3)
        model.blocks[5].mlp.down_proj.weight.mul_(1e-3)
    found = importance(model, prompts[:8], folds=2)
    assert least_important(found, "block_influence")[0] == 5
    assert least_important(found, "angular_distance", "image")[0] == 5


def test_a_block_made_linear_on_purpose_is_the_least_nonlinear(phantom, prompts):
    model = medlens.phantom.linear_block(phantom, 4, n=60)
    assert least_important(importance(model, prompts[:12], folds=2), "nonlinearity")[0] == 4


def test_what_cannot_be_ranked(phantom, prompts, rows):
    with pytest.raises(BadInput, match="got 0 prompts, 10 folds"):
        importance(phantom, [])
    with pytest.raises(BadInput, match="the rule image_reading says nothing of the blocks at text tokens: no rows"):
        least_important(rows, "image_reading", "text")
    assert reading([]) == []
