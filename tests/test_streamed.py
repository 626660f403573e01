"""A model whose weights stay in their files walks as one that is all in memory: the same numbers, to the last bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import medlens
import tiny
from medlens._record import fingerprint
from medlens.budget import bytes_of
from medlens.errors import BadInput, BadModel
from medlens.models import load
from medlens.walk.cases import cases
from medlens.walk.forward import prepare, steps, walk
from medlens.walk.room import Files, Room, Spill

GOLDEN = Path(__file__).parent / "golden" / "llava_med" / "seed0" / "checkpoint"
SAMPLES = medlens.phantom.samples(6, seed=5)


class Keep:
    """Keeps what passes."""

    def __init__(self):
        self.seen, self.most = [], 0

    def visit(self, block, case, before, after):
        self.seen += [before.clone(), after.clone()]

    def leave(self, block):
        pass

    def finish(self, case, raw, normed):
        self.seen += [raw.clone(), normed.clone()]


def all_states(model, room=None):
    keep = Keep()
    laid = cases(model, [prepare(model, s, s.answer) for s in SAMPLES])
    if room is None:
        walk(model, laid, [keep])
    else:
        list(steps(model, laid, [keep], lambda: None, room(laid)))
    return keep.seen


def on_meta(model):
    return all(p.is_meta for p in model.module.parameters())


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def copy(tmp_path):
    """The phantom's folder, to be damaged."""
    from medlens.models.phantom import folder_of

    return Path(shutil.copytree(folder_of("phantom"), tmp_path / "copy"))


@pytest.fixture(scope="module")
def streamed():
    return load("phantom", memory="100kB")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_streamed_is_resident(dtype):
    resident, streamed = load("phantom", dtype=dtype), load("phantom", dtype=dtype, memory="100kB")
    assert resident.weights is None
    assert streamed.weights is not None
    assert equal(all_states(resident), all_states(streamed))
    assert on_meta(streamed)
    assert fingerprint(resident) == fingerprint(streamed)
    assert resident.checks == streamed.checks


def test_forward_and_answers_too(phantom, streamed):
    for sample in SAMPLES[:2]:
        a, b = medlens.forward(phantom, sample), medlens.forward(streamed, sample)
        assert equal([*a.hidden_states, *a.attentions, a.logits], [*b.hidden_states, *b.attentions, b.logits])
        assert medlens.answer(phantom, sample).logprobs == medlens.answer(streamed, sample).logprobs
    assert on_meta(streamed)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family(family, tmp_path):
    """The weights are found by transformers' own renaming, whatever the family calls them."""
    module, processor = tiny.build(family)
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    resident, streamed = load(tmp_path), load(tmp_path, memory=1000)
    assert streamed.weights is not None
    assert equal(all_states(resident), all_states(streamed))


def test_the_original_layout():
    resident = load(GOLDEN, vision_tower="checkpoint")
    streamed = load(GOLDEN, vision_tower="checkpoint", memory=1000)
    assert equal(all_states(resident), all_states(streamed))


@pytest.fixture
def original_with_a_tower(tmp_path):
    """The original layout, with another tower outside that its config.json names."""
    from transformers import CLIPVisionModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    inside = load(GOLDEN, vision_tower="checkpoint").module
    tower = CLIPVisionModel(inside.config.vision_config)
    tower.load_state_dict(inside.model.vision_tower.state_dict())
    with torch.no_grad():
        tower.get_parameter("embeddings.class_embedding")[0] += 0.5
    size = tower.config.image_size
    tower.save_pretrained(tmp_path / "tower")
    CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
        tmp_path / "tower"
    )
    folder = shutil.copytree(GOLDEN, tmp_path / "checkpoint")
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"mm_vision_tower": str(tmp_path / "tower")}))
    return folder


@pytest.mark.parametrize("tower", ["external", "checkpoint"])
def test_the_original_layout_with_the_tower_outside(original_with_a_tower, tower):
    resident = load(original_with_a_tower, vision_tower=tower)
    streamed = load(original_with_a_tower, vision_tower=tower, memory=1000)
    assert resident.origin == streamed.origin
    assert streamed.origin["vision_tower"]["difference"] == pytest.approx(0.5, abs=1e-3)
    assert equal(all_states(resident), all_states(streamed))


def test_only_one_block_is_in_memory(streamed, monkeypatch):
    """And only when it is its turn: counted at every case that passes."""
    counted = []

    class Count(Keep):
        def visit(self, block, case, before, after):
            here = {n.split(".")[3] for n, p in streamed.module.named_parameters() if not p.is_meta and ".layers." in n}
            outside = [n for n, p in streamed.module.named_parameters() if not p.is_meta and "language_model.layers." not in n]
            counted.append((block, here, outside))

    laid = cases(streamed, [prepare(streamed, s) for s in SAMPLES[:2]])
    walk(streamed, laid, [Count()])
    assert len(counted) == streamed.depth * len(laid)
    assert all(here == {str(block)} and outside == [] for block, here, outside in counted)


def hooks_of(model):
    """How many there are; transformers has some of its own."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules())


def test_a_failed_walk_leaves_no_weights_behind(streamed):
    class Fails(Keep):
        def visit(self, block, case, before, after):
            raise RuntimeError("in the middle")

    before = hooks_of(streamed)
    with pytest.raises(RuntimeError, match="in the middle"):
        walk(streamed, cases(streamed, [prepare(streamed, SAMPLES[0])]), [Fails()])
    with pytest.raises(RuntimeError), streamed.whole():
        raise RuntimeError
    assert on_meta(streamed)
    assert hooks_of(streamed) == before


def changed(folder, name, change):
    [file] = folder.glob("*.safetensors")
    tensors = {k: v.clone() for k, v in load_file(file).items()}
    change(next(v for k, v in tensors.items() if k.endswith(name)))
    save_file(tensors, file, {"format": "pt"})


def test_weights_that_change_meanwhile_are_refused(copy):
    model = load(copy, memory="100kB")
    changed(copy, "layers.3.mlp.up_proj.weight", lambda w: w.mul_(1.5))
    with pytest.raises(BadModel, match=r"layers\.3\.mlp\.up_proj\.weight is not what it was when it was first read"):
        all_states(model)
    assert on_meta(model)


def test_a_nan_in_a_weight_is_named(copy):
    changed(copy, "layers.3.mlp.up_proj.weight", lambda w: w[0, 0].fill_(torch.nan))
    with pytest.raises(BadModel, match=r"layers\.3\.mlp\.up_proj\.weight holds a NaN"):
        load(copy, memory="100kB")


def test_weights_of_another_size_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["intermediate_size"] *= 2
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadModel, match="they do not belong together"):
        load(copy, memory="100kB")


def test_weights_that_vanish_meanwhile(copy):
    model = load(copy, memory="100kB")
    [file] = copy.glob("*.safetensors")
    file.unlink()
    with pytest.raises(BadModel, match="cannot be read any more"):
        all_states(model)


# ---- rooms


def files_room(model, folder, begun=0):
    return lambda laid: Files(folder, [len(c.pack.ids) for c in laid], model.width, model.dtype, model.device, begun)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_waiting_in_files_is_waiting_in_memory(dtype, tmp_path):
    model = load("phantom", dtype=dtype)
    assert equal(all_states(model), all_states(model, files_room(model, tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_walk_goes_on_from_the_states_of_a_block(phantom, tmp_path):
    """What a killed walk has left in its files is enough to go on from."""
    laid = cases(phantom, [prepare(phantom, s, s.answer) for s in SAMPLES])
    whole, half = Keep(), Keep()
    list(steps(phantom, laid, [whole], lambda: None, Room()))
    first = steps(phantom, laid, [half], lambda: None, files_room(phantom, tmp_path)(laid))
    for block in first:
        if block == 4:
            break
    first.close()
    half.seen = half.seen[: 2 * 4 * len(laid)]  # of the blocks that were left
    list(steps(phantom, laid, [half], lambda: None, files_room(phantom, tmp_path, begun=4)(laid)))
    assert equal(whole.seen, half.seen)


def test_a_file_of_states_that_is_cut_off_is_an_error(phantom, tmp_path):
    room = Files(tmp_path, [3], 4, torch.float32, torch.device("cpu"))
    room.put(0, 0, torch.ones(3, 4))
    room.close(0)
    (tmp_path / "state-00.bin").write_bytes(b"short")
    with pytest.raises(OSError, match="cut off"):
        Files(tmp_path, [3], 4, torch.float32, torch.device("cpu")).get(0, 0)


def test_spilled_trees_come_back(tmp_path):
    shared = torch.randn(3, 4)
    tree = {"a": [shared, (torch.tensor(3), None)], "b": shared, "c": torch.ones(2, dtype=torch.bfloat16), "d": torch.zeros(0)}
    spill = Spill(tmp_path)
    back = spill.fetch(spill.keep(tree))
    assert torch.equal(back["a"][0], shared)
    assert back["b"] is back["a"][0]
    assert back["a"][1][1] is None
    assert back["c"].dtype == torch.bfloat16
    assert back["d"].shape == (0,)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("said", "is_"), [("4GiB", 4 * 2**30), ("500 MB", 5 * 10**8), ("1.5g", 1.5e9), (7, 7), ("8gib", 2**33)])
def test_sizes(said, is_):
    assert bytes_of(said) == is_


@pytest.mark.parametrize("said", ["", "much", "-4GiB", "4 XB", "0GiB"])
def test_sizes_that_are_none(said):
    with pytest.raises(BadInput, match="4GiB"):
        bytes_of(said)


def test_doctor_says_how_it_would_run(monkeypatch):
    import medlens._doctor

    assert medlens.doctor("phantom").mode.startswith("resident")
    monkeypatch.setattr(medlens._doctor, "free_memory", lambda device: 3_000_000)
    said = medlens.doctor("phantom").mode
    assert said.startswith("streamed: the weights stay in their files, one block (721 KiB in float32)")
