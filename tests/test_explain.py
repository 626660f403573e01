"""Maps of one sample, on the phantom: they lie where the lesion is, say what they explain, and fail in words."""

import json
from functools import partial

import numpy as np
import polars as pl
import pytest
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

import medlens
import tiny
from medlens import _explain, saliency
from medlens._explain.aims import aimed, begin, own_answer
from medlens._explain.page import FOREIGN
from medlens.cli import app
from medlens.errors import BadInput, BadModel, BadRun
from medlens.models.base import Model
from medlens.saliency import Choices
from medlens.store import TABLES
from medlens.types import Region, Sample
from medlens.walk.forward import prepare

explained = partial(medlens.explain, card=False)  # cards have tests of their own, and take longer than all maps

QUICK = ("gradcam_attention", "relevance")


@pytest.fixture(scope="module")
def model():
    return medlens.load("phantom")


@pytest.fixture(scope="module")
def lesions():
    return [s for s in medlens.phantom.samples(400, 1) if s.question_type == "type" and s.answer in [r.name for r in s.regions]]


@pytest.fixture(scope="module")
def found(model, lesions):
    return explained(model, lesions[0], methods=[*QUICK, "integrated_gradients"])


def hits(model, samples):
    """How often the largest value of relevance is within 4 pixels of the lesion."""
    count = 0
    for sample in samples:
        (heatmap,) = explained(model, sample, methods=["relevance"], tokens=False).maps
        left, top, right, bottom = heatmap.boxes[heatmap.values.argmax()]
        mask = next(r for r in sample.regions if r.name == sample.answer).array()
        grown = mask[max(0, int(top) - 4) : int(bottom) + 4, max(0, int(left) - 4) : int(right) + 4]
        count += grown.any()
    return count / len(samples)


def test_maps_find_the_lesion_and_those_of_a_random_model_do_not(model, lesions):
    assert hits(model, lesions[:10]) >= 0.8
    assert hits(medlens.load("phantom:random"), lesions[:10]) <= 0.5


def test_a_map_is_what_the_method_gives(model, lesions, found):
    from medlens.saliency.asked import Asked
    from medlens.walk.cases import cases

    prompt = prepare(model, lesions[0])
    of = aimed(model, prompt, own_answer(model, prompt), None, None, None)
    theirs = saliency.maps(model, [Asked(cases(model, [prompt])[0], of.aim)], ["relevance"])["relevance"][0]
    assert [m.method for m in found.maps] == [*QUICK, "integrated_gradients"]
    assert np.allclose(found.maps[1].values, theirs)
    assert found.maps[0].layer == model.depth // 2
    assert found.maps[1].layer is None
    assert "sums to within" in found.maps[2].note


def test_every_token_of_question_and_answer_has_a_map(found, lesions):
    words = found.question.split()
    assert len(found.tokens) == len(words) + 2  # of the answer its word, and its end
    assert [t.target.split(":")[0] for t in found.tokens] == ["question"] * len(words) + ["answer"] * 2
    assert found.answer in found.tokens[-2].target


def test_a_target_and_its_contrast(model, lesions):
    first = explained(model, lesions[0], target="yes", methods=["occlusion"], tokens=False).maps[0]
    assert "“yes”" in first.target
    forth, back = (
        explained(model, lesions[0], contrast=words, methods=["occlusion"], tokens=False).maps[0].values
        for words in (("yes", "no"), ("no", "yes"))
    )
    assert np.allclose(forth, -back, atol=1e-5 * np.abs(forth).max() + 1e-7)


def test_words_of_several_tokens_are_added_or_compared_where_they_differ():
    small = Model("llava", *tiny.build("llava"))
    prompt = prepare(small, Sample(image=Image.new("RGB", (40, 40)), question="is there a lesion?"))
    of = aimed(small, prompt, own_answer(small, prompt), "zebra", None, None)
    assert len(of.aim.said) == 5
    assert [w.after for w in of.aim.said] == list(range(len(prompt.tokens) - 1, len(prompt.tokens) + 4))
    assert of.prompt.tokens.ids[-5:] == tuple(w.id for w in of.aim.said)
    assert "it is 5 tokens" in of.note
    other = aimed(small, prompt, own_answer(small, prompt), None, ("zebra", "zeta"), None)
    assert [w.after for w in other.aim.words] == [len(prompt.tokens) + 1] * 2  # behind "ze"
    assert "“b” and “t”" in other.note


def test_an_answer_that_is_begun_is_gone_on_with(model, lesions):
    asked = prepare(model, lesions[0])
    open_, closed = begin(model, asked, "the lesion"), begin(model, asked, "the lesion", closed=True)
    assert open_.tokens.texts[-2:] == ("the", "lesion")
    assert closed.tokens.texts[-3:] == ("the", "lesion", "</s>")
    assert aimed(model, open_, own_answer(model, open_), "yes", None, "the lesion").aim.behind == [len(open_.tokens) - 1]


def test_each_published_choice_moves_the_map(model, lesions):
    def values(**choices):
        found = explained(
            model, lesions[0], begun="the", target="yes", methods=["gradcam_attention"], tokens=False, choices=Choices(**choices)
        )  # fmt: skip
        return found.maps[0].values

    sound = values()
    for name in ("closed", "every_logit", "maximum", "signed"):
        assert not np.allclose(sound, values(**{name: True}), rtol=1e-3), name


def test_stretching_moves_the_boxes_of_an_image_that_is_not_square(model):
    sample = Sample(image=Image.radial_gradient("L").resize((96, 64)), question="is there a lesion ?")
    sound, published = (
        explained(model, sample, methods=["relevance"], tokens=False, choices=Choices(stretched=s)).maps[0] for s in (False, True)
    )
    assert np.array_equal(sound.values, published.values)
    assert sound.boxes[0].tolist() == [16, 0, 24, 8]
    assert published.boxes[0].tolist() == [0, 0, 12, 8]


def test_the_phantom_on_foreign_images_is_not_to_be_believed(model, found, tmp_path):
    sample = Sample(image=Image.radial_gradient("L").resize((64, 64)), question="is there a lesion ?")
    foreign = explained(model, sample, methods=["edges"], tokens=False)
    assert FOREIGN in foreign.write(tmp_path / "foreign").read_text()
    assert FOREIGN in foreign._repr_html_()
    assert not found.foreign
    assert FOREIGN not in found.write(tmp_path / "own").read_text()


def test_what_is_written(found, tmp_path):
    page = found.write(tmp_path / "out").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/", "").replace("http-equiv", "")
    table = medlens.open_run(tmp_path / "out").maps
    assert table.schema == pl.Schema(TABLES["maps"])
    arrays = load_file(tmp_path / "out" / "maps.safetensors")
    for k, heatmap in enumerate((*found.maps, *found.tokens)):
        assert np.array_equal(arrays[f"map-{k}"], heatmap.values)
        assert table.filter(pl.col("map") == k)["value"].to_list() == heatmap.values.tolist()
    assert len(list((tmp_path / "out").glob("map-*.svg"))) == len(found.maps)
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(BadRun, match=r"letter\.txt"):
        found.write(tmp_path / "out")
    assert (tmp_path / "out" / "letter.txt").read_text() == "mine"


def broken(name):
    real = saliency.maps

    def maps(model, asked, methods, **more):
        if name in methods:
            raise RuntimeError("it <b>broke</b>\nand more")
        return real(model, asked, methods, **more)

    return maps


def test_a_method_that_fails_is_named_and_gives_no_map(model, lesions, monkeypatch, tmp_path):
    monkeypatch.setattr(_explain.saliency, "maps", broken("relevance"))
    found = explained(model, lesions[0], methods=QUICK, tokens=False, out=tmp_path / "out")
    assert [m.method for m in found.maps] == ["gradcam_attention"]
    assert found.failed == (("relevance", "it <b>broke</b>"),)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "gave no map: it &lt;b&gt;broke&lt;/b&gt;" in page
    with pytest.raises(BadModel, match="no method gave a map: relevance: it"):
        explained(model, lesions[0], methods=["relevance"], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layer": 8}, "blocks of .* are 0 to 7; got layer 8"),
        ({"methods": ["lime"]}, "no method 'lime'"),
        ({"target": "xylophone"}, "no token of .* says 'xylophone'"),
        ({"target": "yes", "contrast": ("yes", "no")}, "not both"),
        ({"contrast": ("yes",)}, "a contrast is of two words"),
        ({"contrast": ("yes", "yes")}, "two different words"),
        ({"begun": " "}, "begun with no words"),
        ({"choices": Choices(closed=True)}, "needs one"),
    ],
)
def test_bad_input(model, lesions, changed, said):
    with pytest.raises(BadInput, match=said):
        explained(model, lesions[0], **changed)


def test_a_sample_that_no_map_can_lie_on(model, lesions):
    with pytest.raises(BadInput, match="has 0 images; a map lies on one"):
        explained(model, Sample(question="is there a lesion ?"))
    wrong = Sample(image=lesions[0].image, question="is there a lesion ?", regions=[Region("lesion", np.ones((5, 7), bool))])
    with pytest.raises(BadInput, match="the mask of lesion is 7 x 5 pixels, its image 64 x 64"):
        explained(model, wrong)


def test_the_command(tmp_path):
    out = tmp_path / "out"
    command = ["explain", "phantom", "--sample", "5", "--methods", "relevance,edges", "--no-tokens", "--json", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["methods"] == ["relevance", "edges"]
    assert (out / "report.html").is_file()
    refused = CliRunner().invoke(app, ["explain", "phantom", "--sample", "5", "--published", "loud"])
    assert isinstance(refused.exception, BadInput)


def test_a_streamed_model_gives_the_same_map(model, lesions):
    streamed = medlens.load("phantom", memory="100kB")
    here, there = (explained(m, lesions[0], methods=["relevance"], tokens=False).maps[0].values for m in (model, streamed))
    assert np.array_equal(here, there)
