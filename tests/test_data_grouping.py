"""Pictures that are the same, and splits that keep them together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import medlens
from medlens.data import duplicates, open_image, split
from medlens.data.grouping import average_hash
from medlens.errors import BadImage, BadInput
from medlens.types import Sample


def noise(seed, size=(40, 32)):
    """A smooth picture, unlike any of another seed."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK"])
def test_the_hash_is_imagehashs(mode):
    imagehash = pytest.importorskip("imagehash", reason="no imagehash: pip install ImageHash")
    hashes = set()
    for seed in range(20):
        image = Image.merge("RGB", [noise(3 * seed + k) for k in range(3)]).convert(mode)
        assert average_hash(image) == int(str(imagehash.average_hash(image)), 16)
        hashes.add(average_hash(image))
    assert len(hashes) == 20


@pytest.fixture
def files(tmp_path):
    """Four pictures: b is a again, smaller and as JPEG."""
    noise(1, (400, 320)).save(tmp_path / "a.png")
    noise(1, (400, 320)).resize((100, 80)).save(tmp_path / "b.jpg")
    noise(2).save(tmp_path / "c.png")
    noise(3).save(tmp_path / "d.png")
    return tmp_path


def test_duplicates(files):
    samples = [Sample(files / name, q, id=f"{name} {q}") for q in ("what ?", "where ?") for name in ("a.png", "b.jpg", "c.png")]
    (group,) = duplicates(samples)
    assert [s.id for s in group] == ["a.png what ?", "b.jpg what ?", "a.png where ?", "b.jpg where ?"]
    assert duplicates([s for s in samples if s.shown != "b.jpg"]) == []
    with pytest.raises(BadImage, match=r"sample x: image gone\.png does not exist"):
        duplicates([Sample(files / "gone.png", "what ?", id="x")])


def test_one_hash_and_two_pictures():
    """Bright in the middle, like most slices: the hash cannot tell them apart."""
    disc = np.zeros((64, 64), np.uint8)
    disc[16:48, 16:48] = 200
    dull = disc // 4
    assert average_hash(Image.fromarray(disc)) == average_hash(Image.fromarray(dull))
    assert duplicates([Sample(Image.fromarray(a), "what ?") for a in (disc, dull)]) == []
    assert len(duplicates([Sample(Image.fromarray(a), "what ?") for a in (disc, disc + 1)])) == 1


def together(samples):
    """Groups, by comparing every sample with every other until nothing changes."""
    label = list(range(len(samples)))
    changed = True
    while changed:
        changed = False
        for i, a in enumerate(samples):
            for j, b in enumerate(samples):
                same = any(average_hash(x) == average_hash(y) for x in a.images for y in b.images)
                same |= a.patient_id is not None and a.patient_id == b.patient_id
                same |= a.image_id is not None and a.image_id == b.image_id
                if same and label[i] != label[j]:
                    label[i] = label[j] = min(label[i], label[j])
                    changed = True
    return label


PICTURES = [noise(seed) for seed in range(8)]
name = st.none() | st.sampled_from("pqrs")
drawn = st.builds(
    lambda pictures, image_id, patient: Sample(
        images=[PICTURES[k].copy() for k in pictures], turns=["what ?"], image_id=image_id, patient_id=patient
    ),
    st.lists(st.integers(0, 7), min_size=1, max_size=2),
    name,
    name,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(drawn, min_size=2, max_size=10), st.floats(0.05, 0.95), st.integers(0, 9))
def test_nothing_that_belongs_together_is_split(samples, share, seed):
    label = {id(s): k for s, k in zip(samples, together(samples), strict=True)}
    if len(set(label.values())) == 1:
        with pytest.raises(BadInput, match="cannot be split"):
            split(samples, share, seed)
        return
    one, other = split(samples, share, seed)
    assert one
    assert other
    assert not {label[id(s)] for s in one} & {label[id(s)] for s in other}
    assert sorted(map(id, one + other)) == sorted(map(id, samples))


def test_the_share_and_the_seed():
    samples = [Sample(noise(seed), q) for seed in range(50) for q in ("what ?", "where ?", "who ?")]
    splits = [split(samples, 0.3, seed) for seed in (0, 0, 1)]
    assert all(abs(len(one) - 45) <= 3 for one, _ in splits)
    ids = [[id(s) for s in one] for one, _ in splits]
    assert ids[0] == ids[1] != ids[2]


def test_what_cannot_be_split():
    two = [Sample(noise(0), "what ?"), Sample(noise(1), "what ?")]
    assert [len(side) for side in split(two, 0.01)] == [1, 1]
    for share in (0, 1, -1, float("nan")):
        with pytest.raises(BadInput, match="between 0 and 1"):
            split(two, share)
    for samples in ([], two[:1]):
        with pytest.raises(BadInput, match="cannot be split"):
            split(samples)


@pytest.mark.real
def test_real_duplicates_stay_on_one_side(real_data):
    samples = medlens.read(real_data / "vqa_rad")
    one, other = split(samples)
    assert abs(len(one) - len(other)) < 20
    assert not {s.image for s in one} & {s.image for s in other}
    groups = duplicates(medlens.read(real_data / "vqa_rad" / "images", question="what ?"))
    assert groups == []  # though five pairs of slices share their average hash
    copies = [
        Sample(i.resize((i.width // 2, i.height // 2)), "again ?") for i in map(open_image, sorted({s.image for s in samples})[:40])
    ]
    assert len(duplicates([*samples, *copies])) == len(copies)
