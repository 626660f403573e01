"""The random checkpoint: the original layout at any size, the same bytes for the same seed, and nothing left when it fails."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

import medlens
from medlens._bench import checkpoint
from medlens._bench.checkpoint import TOWERS, Decoder, tensors, write_checkpoint
from medlens._bench.pieces import FEWEST, write_tokenizer
from medlens.errors import BadInput, CannotWrite
from medlens.models.shards import check_shards

PROJECT = Path(__file__).parent.parent
SIZES = {"depth": 2, "width": 64, "mlp": 96, "heads": 4, "kv-heads": 2, "vocabulary": 1000}
TINY = Decoder(*SIZES.values())
OPTIONS = [*(f"--{name}={size}" for name, size in SIZES.items()), "--tower=tiny"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Written by the tool, as a user runs it."""
    folder = tmp_path_factory.mktemp("tool") / "runs" / "m"
    command = [sys.executable, PROJECT / "tools" / "make_random_checkpoint.py", *OPTIONS, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "will take 0.01 GB of disk" in done.stdout.splitlines()[0]
    assert done.stdout.endswith(f"wrote {folder}\n")
    return folder


def weights(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_it_loads_and_answers(made):
    model = medlens.load(made)
    assert (model.depth, model.width) == (2, 64)
    assert model.origin["vision_tower"] == {"used": "external", "name": "clip", "difference": 0.0}
    assert model.checks is not None
    assert model.checks["image_effect"] > 1e-3
    sample = medlens.phantom.samples(1)[0]
    assert len(medlens.answer(model, sample, 4).ids) == 4
    seen = medlens.forward(model, sample)
    assert seen.tokens.groups.count("image") == 16
    for state in seen.hidden_states:
        assert torch.isfinite(state).all()
        assert state.std(0).min() > 0


def test_its_own_tower_can_be_taken_too(made):
    assert medlens.load(made, vision_tower="checkpoint").origin["vision_tower"]["difference"] == 0.0


def test_several_shards_and_an_index(made):
    assert len(list(made.glob("*.safetensors"))) >= 2
    found = check_shards(made)
    shapes = {}
    for name, shard in found.items():
        with safe_open(shard, "pt") as opened:
            shapes[name] = tuple(opened.get_slice(name).get_shape())
            assert opened.get_slice(name).get_dtype() == "BF16"
    assert shapes == tensors(TINY, TOWERS["tiny"])


def test_the_full_size_is_the_original_s():
    shapes = tensors(Decoder(), TOWERS["large"])
    assert checkpoint._bytes(shapes) == 15_132_438_528
    golden = PROJECT / "tests" / "golden" / "llava_med" / "seed0" / "checkpoint"
    small = tensors(Decoder(depth=4, width=64, mlp=160, heads=4, kv_heads=2, vocabulary=400), checkpoint.Tower(32, 64, 4, 56))
    assert set(small) == set(check_shards(golden))


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        write_checkpoint(tmp_path / name, TINY, "tiny", seed)
    assert weights(tmp_path / "same") == weights(made)
    others = weights(tmp_path / "other")
    assert others.keys() == weights(made).keys()
    assert all(others[name] != held for name, held in weights(made).items())
    assert (tmp_path / "other" / "tokenizer.json").read_bytes() == (made / "tokenizer.json").read_bytes()


def test_any_text_is_encoded_and_decoded(made):
    tokenizer = medlens.load(made).tokenizer
    assert tokenizer.tokenize("is there a lesion ?") == ["▁is", "▁there", "▁a", "▁lesion", "▁", "?"]
    for text in ("Où est la lésion ?", "中 007 \t~", "two\nlines  two spaces", "123"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("size", [FEWEST, FEWEST + 7, 3000])
def test_the_tokenizer_has_as_many_pieces_as_asked(tmp_path, size):
    from transformers import LlamaTokenizer

    write_tokenizer(tmp_path, size)
    tokenizer = LlamaTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert len(tokenizer) == size
    assert tokenizer.decode(tokenizer("a mass ?")["input_ids"], skip_special_tokens=True) == "a mass ?"


# ---- refused


def test_mistakes_are_one_line_and_leave_nothing(tmp_path):
    for changes, says in (({"heads": 5}, "5 heads do not fit"), ({"depth": 0}, "at least 1"), ({"kv_heads": 3}, "do not fit")):
        with pytest.raises(BadInput, match=says):
            Decoder(**{**vars(TINY), **changes})
    with pytest.raises(BadInput, match="towers are large"):
        write_checkpoint(tmp_path / "m", TINY, "huge")
    with pytest.raises(BadInput, match="too small"):
        write_checkpoint(tmp_path / "m", Decoder(**{**vars(TINY), "vocabulary": 100}), "tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_or_disk_is_refused(tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(CannotWrite, match="not empty"):
        write_checkpoint(tmp_path / "taken", TINY, "tiny")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(CannotWrite, match=r"m needs 15\.75 GB of disk and 1\.00 GB are free"):
        write_checkpoint(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_weights", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_checkpoint(tmp_path / "m", TINY, "tiny")
    assert list(tmp_path.iterdir()) == []


def test_the_tool_says_what_is_wrong_in_one_line(made):
    command = [sys.executable, PROJECT / "tools" / "make_random_checkpoint.py", *OPTIONS, made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "make_random_checkpoint.py: m is there already and not empty; choose another folder, or delete it\n"
