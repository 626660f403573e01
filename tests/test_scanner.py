import numpy as np
import pytest

import medlens
from medlens.errors import BadInput
from medlens.phantom import scanner


@pytest.fixture(scope="module")
def slices():
    return [scanner.draw(np.random.default_rng([5, i])) for i in range(2000)]


def test_same_seed_same_samples_and_longer_draws_begin_alike():
    short, long, other = medlens.phantom.samples(7, seed=3), medlens.phantom.samples(30, seed=3), medlens.phantom.samples(7, seed=4)
    for a, b in zip(short, long, strict=False):
        assert (a.id, a.question, a.answer, a.tags) == (b.id, b.question, b.answer, b.tags)
        assert np.array_equal(np.asarray(a.image), np.asarray(b.image))
    assert any(not np.array_equal(np.asarray(a.image), np.asarray(b.image)) for a, b in zip(short, other, strict=True))


def test_every_sample_carries_its_truth():
    for sample in medlens.phantom.samples(200, seed=1):
        assert sample.image.size == (64, 64)
        assert sample.question in scanner.QUESTIONS[sample.question_type]
        assert set(sample.paraphrases) == set(scanner.QUESTIONS[sample.question_type]) - {sample.question}
        assert set(sample.tags) == {"source", "modality", "lesion", "place", "laterality", "radius"}
        lesion = sample.tags["lesion"]
        assert [r.name for r in sample.regions] == ([] if lesion == "none" else [lesion])
        expected = {
            "presence": "no" if lesion == "none" else "yes",
            "type": lesion,
            "place": sample.tags["place"],
            "side": sample.tags["laterality"],
            "modality": sample.tags["modality"],
        }
        assert sample.answer == expected[sample.question_type]


def test_place_is_where_the_mask_is(slices):
    for drawn in slices:
        assert drawn.mask.any() == (drawn.lesion != "none")
        if drawn.mask.any():
            row, column = np.argwhere(drawn.mask).mean(0)
            assert drawn.place == f"{'upper' if row < 31.5 else 'lower'} {'left' if column < 31.5 else 'right'}"
            assert drawn.side == drawn.place.split()[1]


def test_what_the_mask_marks_differs_from_what_is_around_it():
    changed = 0
    for i in range(200):
        drawn = scanner.draw(np.random.default_rng([9, i]))
        if not drawn.mask.any():
            continue
        ring = _dilated(drawn.mask, 3) & ~_dilated(drawn.mask, 1)
        inside, around = drawn.pixels[drawn.mask].astype(float), drawn.pixels[ring].astype(float)
        changed += abs(inside.mean() - around.mean()) > 10 or inside.std() > 2 * around.std()
    assert changed >= 0.95 * sum(bool(scanner.draw(np.random.default_rng([9, i])).mask.any()) for i in range(200))


def test_proportions(slices):
    """Half are healthy; modalities, lesion types and places are even (5 standard deviations)."""
    ill = [s for s in slices if s.lesion != "none"]
    for count, share, n in (
        (len(ill), 1 / 2, len(slices)),
        *((sum(s.modality == m for s in slices), 1 / 4, len(slices)) for m in scanner.MODALITIES),
        *((sum(s.lesion == k for s in ill), 1 / 3, len(ill)) for k in scanner.LESIONS),
        *((sum(s.side == side for s in ill), 1 / 2, len(ill)) for side in ("left", "right")),
    ):
        assert abs(count - share * n) < 5 * np.sqrt(n * share * (1 - share))


def test_lesions_reach_every_part_of_the_body(slices):
    centres = np.array([s.centre for s in slices if s.centre and s.modality == "xray"])
    cells = {(int(r // 16), int(c // 16)) for r, c in centres}
    corners = {(r, c) for r in (0, 3) for c in (0, 3)}  # outside of a round body
    assert cells >= {(r, c) for r in range(4) for c in range(4)} - corners
    assert (np.abs(centres - 32) >= scanner.MIDLINE_MARGIN).all()


def test_one_question_type_only():
    samples = medlens.phantom.samples(5, seed=0, questions="presence")
    assert {s.question_type for s in samples} == {"presence"}
    assert len({s.image_id for s in samples}) == 5


def test_unknown_question_type_is_refused():
    with pytest.raises(BadInput, match="prognosis"):
        medlens.phantom.samples(5, questions="prognosis")


def _dilated(mask, steps):
    for _ in range(steps):
        grown = np.pad(mask, 1)
        mask = grown[1:-1, 1:-1] | grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
    return mask
