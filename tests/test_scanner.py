import numpy as np
import pytest

import medlens
from medlens.errors import BadInput
from medlens.phantom import questions, scanner


@pytest.fixture(scope="module")
def slices():
    return [scanner.draw(np.random.default_rng([5, i])) for i in range(2000)]


def test_same_seed_same_samples_and_longer_draws_begin_alike():
    short, long, other = medlens.phantom.samples(7, seed=3), medlens.phantom.samples(30, seed=3), medlens.phantom.samples(7, seed=4)
    for a, b in zip(short, long, strict=False):
        assert (a.id, a.question, a.answer, a.tags) == (b.id, b.question, b.answer, b.tags)
        assert np.array_equal(np.asarray(a.image), np.asarray(b.image))
    assert any(not np.array_equal(np.asarray(a.image), np.asarray(b.image)) for a, b in zip(short, other, strict=True))


def test_one_question_type_is_the_same_question_as_among_all():
    among = {s.id: s for s in medlens.phantom.samples(400, seed=3) if s.question_type == "relation"}
    alone = medlens.phantom.samples(len(among), seed=3, questions="relation")
    assert [(s.id, s.question, s.answer) for s in alone] == [(s.id, s.question, s.answer) for s in among.values()]


def test_what_lies_where(slices):
    """Masks, places, sizes and kinds belong together; nothing overlaps anything."""
    for drawn in slices:
        parts = [lesion.mask for lesion in drawn.lesions] + ([drawn.mark.mask] if drawn.mark else [])
        assert np.sum(parts, axis=0, initial=0).max() <= 1
        assert drawn.mask.sum() == sum(lesion.mask.sum() for lesion in drawn.lesions)
        for lesion in drawn.lesions:
            row, column = np.argwhere(lesion.mask).mean(0)
            assert lesion.place == f"{'upper' if row < 31.5 else 'lower'} {'left' if column < 31.5 else 'right'}"
            assert lesion.side == lesion.place.split()[1]
            assert abs(lesion.mask.sum() - np.pi * lesion.radius**2) < 0.2 * np.pi * lesion.radius**2 or lesion.radius < 5
        if drawn.mark:
            rows, columns = np.nonzero(drawn.mark.mask)
            assert np.ptp(columns) + 1 == drawn.mark.length
            assert drawn.mark.place == f"{'upper' if rows.mean() < 32 else 'lower'} {'left' if columns.mean() < 32 else 'right'}"
            assert (drawn.pixels[drawn.mark.mask] == 255).all()


def test_what_the_mask_marks_differs_from_what_is_around_it(slices):
    changed = [_stands_out(drawn.pixels, lesion.mask) for drawn in slices[:400] for lesion in drawn.lesions]
    assert np.mean(changed) >= 0.95


def _stands_out(pixels, mask):
    ring = _dilated(mask, 3) & ~_dilated(mask, 1)
    inside, around = pixels[mask].astype(float), pixels[ring].astype(float)
    return abs(inside.mean() - around.mean()) > 10 or inside.std() > 2 * around.std()


def test_proportions(slices):
    """Half are healthy, half are marked whether healthy or not; modalities, kinds and sides are even (5 standard deviations)."""
    lesions = [lesion for s in slices for lesion in s.lesions]
    for count, share, n in (
        (sum(not s.lesions for s in slices), 1 / 2, len(slices)),
        (sum(s.mark is not None for s in slices), 1 / 2, len(slices)),
        (sum((s.mark is not None) == bool(s.lesions) for s in slices), 1 / 2, len(slices)),
        *((sum(s.modality == m for s in slices), 1 / 4, len(slices)) for m in scanner.MODALITIES),
        *((sum(lesion.side == side for lesion in lesions), 1 / 2, len(lesions)) for side in ("left", "right")),
        *((sum(s.mark is not None and s.mark.place == p for s in slices), 1 / 8, len(slices)) for p in scanner.PLACES),
    ):
        assert abs(count - share * n) < 5 * np.sqrt(n * share * (1 - share))
    for kind in scanner.LESIONS:
        assert 0.28 < sum(lesion.kind == kind for lesion in lesions) / len(lesions) < 0.39  # two of unlike kinds differ in size
    assert 0.15 < sum(len(s.lesions) == 2 for s in slices) / len(slices) < 0.22


@pytest.mark.parametrize("agreement", [0, 0.95, 1])
def test_marks_go_with_lesions_as_often_as_asked(agreement):
    drawn = [scanner.draw(np.random.default_rng([6, i]), agreement) for i in range(500)]
    share = np.mean([(s.mark is not None) == bool(s.lesions) for s in drawn])
    assert abs(share - agreement) <= 5 * np.sqrt(agreement * (1 - agreement) / 500)
    samples = medlens.phantom.samples(300, seed=6, questions="presence", mark_agreement=agreement)
    agreeing = np.mean([(s.tags["mark"] != "none") == (s.answer == "yes") for s in samples])
    assert abs(agreeing - agreement) <= 5 * np.sqrt(agreement * (1 - agreement) / 300)


def test_lesions_reach_every_part_of_the_body(slices):
    centres = np.array([lesion.centre for s in slices for lesion in s.lesions if s.modality == "xray"])
    cells = {(int(r // 16), int(c // 16)) for r, c in centres}
    corners = {(r, c) for r in (0, 3) for c in (0, 3)}  # outside of a round body
    assert cells >= {(r, c) for r in range(4) for c in range(4)} - corners
    assert (np.abs(centres - 32) >= scanner.MIDLINE_MARGIN).all()


def test_every_sample_carries_its_truth():
    """The truth, found again from the tags and masks alone."""
    seen = set()
    for sample in medlens.phantom.samples(1500, seed=1):
        tags, kind = sample.tags, sample.question_type
        assert sample.image.size == (64, 64)
        assert set(tags) == {"source", "modality", "lesion", "place", "laterality", "radius", "count", "mark"}
        lesions = [r for r in sample.regions if r.name != "mark"]
        assert len(lesions) == tags["count"]
        assert tags["lesion"] == (" and ".join(dict.fromkeys(r.name for r in lesions)) or "none")
        assert (len(sample.regions) > len(lesions)) == (tags["mark"] != "none")
        assert sample.answer == _truth(sample, lesions), sample.question
        seen.add((kind, sample.answer))
    assert len(seen) == 2 + 4 + 5 + 3 + 4 + 3 + 3 + 3 + 2  # every answer of every type came up


def _truth(sample, lesions):
    kind, tags = sample.question_type, sample.tags
    if kind in ("presence", "modality", "count"):
        return {
            "presence": "yes" if lesions else "no",
            "modality": tags["modality"],
            "count": ["zero", "one", "two"][len(lesions)],
        }[kind]
    if kind == "larger":
        first, second = (next(r for r in lesions if r.name == word) for word in sample.question.split() if word in scanner.LESIONS)
        return max((first, second), key=lambda r: _width(r.mask)).name
    assert len(lesions) <= 1
    if kind == "relation":
        asked = "left" if "left" in sample.question.split() else "right"
        return "none" if not lesions else "yes" if tags["laterality"] == asked else "no"
    if kind == "reference":
        mark = next(r for r in sample.regions if r.name == "mark")
        return "yes" if 2 * tags["radius"] > np.ptp(np.nonzero(mark.mask)[1]) + 1 else "no"
    return {"type": tags["lesion"], "place": tags["place"], "side": tags["laterality"]}[kind]


def _width(mask):
    return 2 * np.sqrt(mask.sum() / np.pi)


def test_comparisons_are_facts(slices):
    """Nothing is compared that differs by less than the margin."""
    for drawn in slices:
        if questions.askable("larger", drawn):
            a, b = drawn.lesions
            assert abs(a.radius - b.radius) >= scanner.SIZE_MARGIN / 2
        if questions.askable("reference", drawn):
            assert abs(2 * drawn.lesions[0].radius - drawn.mark.length) >= scanner.SIZE_MARGIN


def test_paraphrases_ask_the_same():
    for sample in medlens.phantom.samples(300, seed=2):
        phrases = {sample.question, *sample.paraphrases}
        assert len(phrases) == len(questions.QUESTIONS[sample.question_type])
        about = [{w for w in p.split() if w in ("left", "right", *scanner.LESIONS)} for p in phrases]
        if sample.question_type in ("relation", "larger"):
            assert all(words == about[0] for words in about)


def test_every_word_is_in_the_vocabulary():
    words = set(questions.vocabulary())
    for sample in medlens.phantom.samples(500, seed=4):
        for phrase in (sample.question, sample.answer, *sample.paraphrases):
            assert set(phrase.split()) <= words


def test_one_question_type_only():
    samples = medlens.phantom.samples(5, seed=0, questions="presence")
    assert {s.question_type for s in samples} == {"presence"}
    assert len({s.image_id for s in samples}) == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n": 5, "questions": "prognosis"}, "prognosis"),
        ({"n": 5, "questions": ()}, "got none"),
        ({"n": 0}, "at least 1; got 0"),
        ({"n": 5, "seed": -1}, "seed=-1"),
        ({"n": 5, "mark_agreement": 1.5}, "mark_agreement=1.5"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, says):
    with pytest.raises(BadInput, match=says):
        medlens.phantom.samples(**arguments)


def _dilated(mask, steps):
    for _ in range(steps):
        grown = np.pad(mask, 1)
        mask = grown[1:-1, 1:-1] | grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
    return mask
