"""The tuned lens: it starts as the logit lens, ends better on images that it never saw, and fits one model only."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

import medlens
from medlens import _tune
from medlens._tune import worth
from medlens.errors import BadData, BadInput, BadModel
from medlens.models.tuned import ABOUT, FORMAT, TunedLens
from medlens.models.unembedding import Unembedding
from medlens.plan import Plan
from medlens.walk import kept

PLAN = Plan(limit=120, answers="given")


@pytest.fixture(scope="module")
def file(phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("lens") / "lens.safetensors"
    medlens.train_lens(phantom, "phantom", out, PLAN, steps=150)
    return out


@pytest.fixture(scope="module")
def lens(phantom, file):
    return medlens.load_lens(file, phantom)


def test_it_beats_the_logit_lens_at_every_state_but_the_last(lens):
    found = worth(lens)
    assert found["layer"].unique().sort().to_list() == list(range(8))
    assert set(found["tokens"]) == {"image", "others"}
    assert (found["gain"] > 0).all()
    assert (found["low"] < found["gain"]).all()
    assert (found["high"] > found["gain"]).all()


def test_what_it_is_worth_can_be_checked(phantom, lens):
    """KL by torch's own function over the whole vocabulary, on fresh slices: about what was told of the held-out ones."""
    head = phantom.head.weight.detach().double()
    logit, tuned = [], []
    for sample in medlens.phantom.samples(12, seed=99):
        seen = medlens.forward(phantom, sample, sample.answer)
        at = [k for k, g in enumerate(seen.tokens.groups) if g == "image"]
        final = (seen.hidden_states[-1][at].double() @ head.T).log_softmax(-1)
        with torch.no_grad():
            for normed, into in (
                (phantom.norm(seen.hidden_states[3][at]), logit),
                (lens.apply(3, seen.hidden_states[3][at]), tuned),
            ):
                ours = (normed.double() @ head.T).log_softmax(-1)
                into.append(float(functional.kl_div(ours, final, reduction="batchmean", log_target=True)))
    told = worth(lens).filter(layer=3, tokens="image").to_dicts()[0]
    assert sum(tuned) < sum(logit)
    assert sum(logit) / 12 == pytest.approx(told["logit_kl"], rel=0.7)
    assert sum(tuned) / 12 == pytest.approx(told["tuned_kl"], rel=0.7)


def test_untrained_it_is_the_logit_lens(phantom):
    d = phantom.width
    empty = TunedLens(phantom, (torch.zeros(d, d),) * 8, (torch.zeros(d),) * 8, "", {})
    rows = torch.randn(5, d)
    assert torch.equal(empty.apply(4, rows), phantom.norm(rows[None])[0])


def test_the_last_state_is_what_the_model_says(phantom, lens):
    seen = medlens.forward(phantom, medlens.phantom.samples(1)[0])
    normed = lens.apply(8, seen.raw_last)
    logits = torch.cat([block for _, block in Unembedding(phantom).logits(normed)], 1)
    assert (logits - seen.logits[:, : logits.shape[1]]).abs().max() < 1e-5


def test_the_same_seed_gives_the_same_bytes(phantom, file, tmp_path):
    medlens.train_lens(phantom, "phantom", tmp_path / "again.safetensors", PLAN, steps=150)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_a_streamed_model_gives_the_same_lens(file, tmp_path):
    streamed = medlens.load("phantom", memory=1)
    medlens.train_lens(streamed, "phantom", tmp_path / "streamed.safetensors", PLAN, steps=150)
    ours, theirs = load_file(tmp_path / "streamed.safetensors"), load_file(file)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)


def test_trained_on_other_tokens_ends_it_gains_less(phantom, lens, tmp_path, monkeypatch):
    """Negative control: where the ends are shuffled, all that can be learned is how often each word is said."""
    rows = kept.KeptRows.rows

    def shuffled(self, state):
        found = rows(self, state)
        return found[torch.randperm(len(found), generator=torch.Generator().manual_seed(0))] if state == "normed" else found

    monkeypatch.setattr(kept.KeptRows, "rows", shuffled)
    wrong = worth(medlens.train_lens(phantom, "phantom", tmp_path / "wrong.safetensors", PLAN, steps=150))
    last = [found.filter(layer=7)["tuned_kl"].mean() for found in (wrong, worth(lens))]
    assert last[0] > 5 * last[1]


def test_of_other_weights_it_is_refused(file):
    with pytest.raises(BadModel, match="trained for other weights"):
        medlens.load_lens(file, medlens.load("phantom:shortcut"))


def test_damaged_files(phantom, file, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadModel, match="cut off"):
        medlens.load_lens(bad, phantom)
    tensors = load_file(file)
    save_file(tensors, bad)
    with pytest.raises(BadModel, match="its format is None"):
        medlens.load_lens(bad, phantom)
    about = {"format": FORMAT, "fingerprint": medlens.load_lens(file, phantom).fingerprint, "told": {}}
    save_file(tensors | {"map.3": tensors["map.3"] * torch.nan}, bad, {ABOUT: json.dumps(about)})
    with pytest.raises(BadModel, match=r"map\.3 holds a NaN"):
        medlens.load_lens(bad, phantom)
    save_file({name: t for name, t in tensors.items() if name != "shift.7"}, bad, {ABOUT: json.dumps(about)})
    with pytest.raises(BadModel, match=r"no shift\.7"):
        medlens.load_lens(bad, phantom)


def test_bad_input(phantom, lens, tmp_path):
    with pytest.raises(BadInput, match="states 0 to 8; got 9"):
        lens.apply(9, torch.zeros(1, phantom.width))
    with pytest.raises(BadInput, match="at least 1"):
        medlens.train_lens(phantom, "phantom", tmp_path / "x", PLAN, steps=0)
    with pytest.raises(BadData, match="different images: 5 at least; got 1"):
        medlens.train_lens(phantom, "phantom", tmp_path / "x", Plan(limit=3, answers="given"))
    assert not list(tmp_path.iterdir())


def test_intervals_are_over_images():
    gains = torch.randn(60).numpy()
    low, high = _tune._interval(gains, [f"{k % 12}" for k in range(60)])
    means = [gains[k::12].mean() for k in range(12)]
    error = torch.tensor(means).std().item() / 12**0.5  # of equally large clusters the jackknife is the textbook's
    assert (high - low) / 2 == pytest.approx(2.201 * error, rel=1e-3)


def test_one_sample_read_with_it(phantom, lens):
    """`medlens.lens` reads states below the last with it: the answer comes sooner."""
    sample = medlens.phantom.samples(20, seed=77, questions="type")[3]
    logit, tuned = (medlens.lens(phantom, sample, tuned=t).decisions for t in (None, lens))
    assert tuned["layer"].to_list() == list(range(9))
    assert tuned["kl"][-1] == logit["kl"][-1]  # the last state is the model's own
    assert tuned["kl"][:-1].mean() < logit["kl"][:-1].mean()
    with pytest.raises(BadInput, match="of states"):
        medlens.lens(phantom, sample, tuned=lens, of="values")
