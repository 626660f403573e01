"""Names, dates and numbers planted wherever they come from, and looked for in every byte that a study writes."""

import json
import re
import warnings
from functools import partial

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageDraw, ImageFont
from polars.testing import assert_frame_equal
from tools.fuzz.guard import Guard

import medlens
from medlens import Plan, _views
from medlens._explain import explain
from medlens.data.burned_in import may_hold_text
from medlens.data.pseudonyms import hidden, key, pseudonym
from medlens.errors import BadInput, CannotWrite, MedlensWarning
from medlens.phantom import questions
from medlens.viewer.data import open_shown
from medlens.viewer.embed import fragment
from named import HEADERS, NAMES, PATHS, embedded, everything, planted, seen


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def data(place):
    return planted(place / "ward-paddington" / "quartermain")


@pytest.fixture(scope="module")
def guard(place):
    return Guard(place, place / "nothing")


@pytest.fixture(scope="module")
def runs(phantom, place, data, guard):
    """With names and without them; what was done meanwhile; and the warnings."""
    found, done = {}, []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as told:
        patch.setenv("MEDLENS_KEY", str(place / "key" / "mine"))
        warnings.simplefilter("always", MedlensWarning)
        patch.setattr(_views, "explain", partial(explain, methods=("centre",)))
        for deidentify in (False, True):
            plan = Plan(
                skip_bad=True,
                deidentify=deidentify,
                lens_images=1,
                map_images=1,
                folds=2,
                thorough=False,
                by=("organ",),
                scratch=str(data.parent),
            )
            with guard.watching(600):
                found[deidentify] = medlens.study(phantom, data, plan, place / f"run-{deidentify}")
            done += guard.seen
    return found, done, [str(w.message) for w in told if issubclass(w.category, MedlensWarning)]


def test_headers_and_paths_are_never_written(runs):
    for run in runs[0].values():
        assert seen((*HEADERS, *PATHS), everything(run.path)) == []


def test_names_are_written_and_with_deidentify_they_are_not(runs):
    named, hidden_ = (everything(runs[0][d].path) for d in (False, True))
    assert seen(NAMES, named) == list(NAMES)  # so the search finds what is there
    assert seen(NAMES, hidden_) == []


def test_what_is_made_of_a_run_names_no_more_than_it(runs, tmp_path):
    """Tables and figures for others, the viewer's page and what its server says, of a run with maps and single tokens."""
    for deidentify, run in runs[0].items():
        assert run.maps.height
        assert run.looks.height
        assert run.trust["picture"].drop_nulls().len() == 1
        out = tmp_path / str(deidentify)
        for kind in ("csv", "json"):
            medlens.export(run, out / kind, kind)
        medlens.figures(run, formats=("svg",), only=("effective_rank",), out=out / "figures")
        shown = open_shown(run.path)
        said = [shown.payload(k) for k in range(len(shown.samples))] + [repr(shown.index).encode(), fragment(run).html.encode()]
        found = everything(out) + b"".join(said) + b"".join(map(embedded, said))
        assert seen((*HEADERS, *PATHS), found) == []
        assert seen(NAMES, found) == ([] if deidentify else list(NAMES))


def test_nothing_else_changes(runs):
    """But for the dimensions of drawn halves: what is drawn is drawn by the samples' ids."""
    named, hidden_ = runs[0][False], runs[0][True]
    fixed = [run.rows.filter(~pl.col("measure").str.contains("_of_")) for run in (named, hidden_)]
    assert fixed[0].height > 0.7 * named.rows.height
    assert_frame_equal(*fixed, rel_tol=1e-4)
    assert named.answers["answer"].to_list() == hidden_.answers["answer"].to_list()
    assert hidden_.samples["patient"].n_unique() == named.samples["patient"].n_unique() == 1
    assert hidden_.samples["image"].n_unique() == named.samples["image"].n_unique() == 5
    assert set(hidden_.samples["file"].str.slice(0, 5)) == {"file-"}
    assert [json.loads(tags) for tags in hidden_.samples["tags"]] == [{"organ": "lung"}] * 5


def test_what_was_left_out_is_counted(runs):
    assert any("quartermain_bad.png" in line for line in runs[0][False].manifest["data"]["skipped"])
    assert runs[0][True].manifest["data"]["skipped"] == [
        "1 records of the data: their names are hidden", "1 samples that could not be read: their names are hidden",
    ]  # fmt: skip


def test_burned_in_text_is_warned_of(runs):
    assert runs[2] == [
        "on 1 of 5 images something may be written, a name perhaps; pseudonyms change no pictures: look at those in the run before "
        "you give it away"
    ]
    assert runs[0][True].manifest["data"]["may_hold_text"] == 1
    assert "may_hold_text" not in runs[0][False].manifest["data"]


def test_no_socket_no_program_and_no_file_elsewhere(runs):
    assert runs[1] == []


def test_the_watch_sees_what_it_is_there_for(guard, place, tmp_path):
    import socket
    import subprocess

    with guard.watching(600):
        (place / "inside").write_text("")
        (tmp_path / "outside").write_text("")
        subprocess.run(["true"], check=True)
        with socket.socket() as made, pytest.raises(OSError):
            made.connect(("127.0.0.1", 9))
    assert {event.split()[0] for event in guard.seen} == {"open", "subprocess.Popen", "socket.connect"}


def test_pictures_are_written_from_pixels_alone(runs):
    pictures = sorted((runs[0][False].path / "pictures").iterdir())
    assert len(pictures) == 5
    for path in pictures:
        with Image.open(path) as opened:
            assert set(opened.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}
            assert dict(opened.getexif()) == {}


def test_an_explanation_names_nobody(phantom, data, tmp_path):
    sample = medlens.read(data, bad=lambda e: None)[0]
    found = medlens.explain(phantom, hidden([sample], bytes(32))[0], card=False, tokens=False, methods=["centre"])
    found.write(tmp_path / "maps")
    assert seen((*HEADERS, *PATHS, *NAMES), everything(tmp_path / "maps")) == []


# ---- pseudonyms


def test_pseudonyms_are_stable_and_keyed():
    a, b = bytes(32), bytes(31) + b"\1"
    assert pseudonym("patient", "x", a) == pseudonym("patient", "x", a)
    assert len({pseudonym(kind, name, k) for kind in ("patient", "image") for name in ("x", "y") for k in (a, b)}) == 8
    assert re.fullmatch(r"patient-[0-9a-f]{16}", pseudonym("patient", "x", a))


def test_the_key_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLENS_KEY", str(tmp_path / "new" / "key"))
    assert key() == key()
    assert len(key()) == 32
    assert (tmp_path / "new" / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "new" / "key").write_text("00")
    with pytest.raises(BadInput, match="holds no key"):
        key()
    monkeypatch.setenv("MEDLENS_KEY", str(tmp_path))
    with pytest.raises(CannotWrite, match="can be neither read nor made"):
        key()


def test_samples_of_one_image_still_share_it(phantom):
    image = np.zeros((9, 9), np.uint8)
    samples = [medlens.Sample("a/x.png", "q", id=str(k), tags={"organ": "lung", "name": "z"}) for k in range(2)]
    one, two = hidden(samples, bytes(32))
    assert one.image is two.image
    assert one.image.name == pseudonym("file", "x.png", bytes(32))
    assert one.tags == {"organ": "lung"}
    assert hidden([medlens.Sample(picture := Image.fromarray(image), "q")], bytes(32))[0].image is picture


def test_a_cluster_has_no_key():
    with pytest.raises(BadInput, match="deidentify is True; expected False with a cluster"):
        Plan(deidentify=True, cluster="auto")


@pytest.mark.parametrize("size", [14, 20, 30])
def test_text_is_seen(size):
    grey = Image.fromarray((np.random.default_rng(0).random((256, 256)) * 120).astype(np.uint8))
    assert not may_hold_text(np.asarray(grey))
    ImageDraw.Draw(grey).text((10, 10), "DOE JANE 1970", fill=255, font=ImageFont.load_default(size))
    assert may_hold_text(np.asarray(grey))


def test_slices_with_lesions_and_bars_hold_no_text():
    assert not any(may_hold_text(np.asarray(s.image.convert("L"))) for s in questions.samples(60, 0))
