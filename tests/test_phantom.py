import pytest
import torch

import medlens
from medlens.models import PHANTOM
from medlens.phantom.train import Recipe, accuracy, blank_model, train

REACHED = {"presence": 0.98, "type": 0.97, "place": 0.98, "side": 0.98, "modality": 0.99}


@pytest.mark.slow
def test_it_knows_what_it_was_taught_on_slices_it_never_saw(phantom):
    reached = accuracy(phantom.module, n=1000, seed=20_000)
    assert {k: v for k, v in reached.items() if v < REACHED[k]} == {}


def test_a_random_model_fails_what_the_trained_one_passes():
    reached = accuracy(blank_model(seed=1).eval(), n=100, seed=20_000)
    assert max(reached.values()) < 0.7


def test_generated_answers_are_what_accuracy_counts(phantom):
    """`accuracy` reads all answers off one packed pass; greedy generation, one by one, must agree."""
    samples = medlens.phantom.samples(100, seed=20_001)
    said = [medlens.answer(phantom, s) for s in samples]
    generated = sum(a == s.answer for a, s in zip(said, samples, strict=True)) / 100
    counted = sum(accuracy(phantom.module, n=20, seed=20_001).values()) / 5
    assert abs(generated - counted) <= 0.02  # paraphrases are drawn differently


def test_what_is_shipped():
    files = sorted(p.name for p in (PHANTOM / "sound").iterdir())
    assert "model.safetensors" in files
    assert sum((PHANTOM / "sound" / f).stat().st_size for f in files) < 10_000_000
    assert not [f for f in files if f.endswith((".pt", ".bin", ".pkl", ".py"))]


def test_it_is_an_ordinary_transformers_folder(phantom):
    again = medlens.load(PHANTOM / "sound")
    for (name, a), b in zip(phantom.module.state_dict().items(), again.module.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_training_goes_on_from_a_checkpoint_to_the_same_weights(tmp_path):
    """Stopped after step 4 and started again = never stopped; and twice from nothing gives the same file."""
    recipe = Recipe(slices=40, tower_steps=2, tower_batch=4, steps=6, batch=4)
    whole = train(recipe, tmp_path / "whole", every=4)

    def stop(phase, step, steps, loss):
        if phase == "model" and step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "stopped", stop, every=4)
    resumed = train(recipe, tmp_path / "stopped", every=4)
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
