"""Contextual neighbours against a whole cosine matrix, and against models that know and do not know."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import medlens
from medlens.errors import BadData, BadInput, BadModel
from medlens.instruments.texts import choose, load_texts, sentences_in, sentences_of
from medlens.measures import nearest as nearest_
from medlens.measures.nearest import nearest
from medlens.models.frame import covered, frame
from medlens.phantom.scanner import LESIONS
from medlens.walk.forward import prepare


@pytest.fixture(scope="module")
def model():
    return medlens.load("phantom")


@pytest.fixture(scope="module")
def found(model):
    return medlens.neighbours(model, sick(4), medlens.phantom.samples(60, seed=5), k=3)


def sick(images):
    drawn = [s for s in medlens.phantom.samples(20 * images + 40, seed=9) if s.tags["count"]]
    return list({s.image_id: s for s in drawn}.values())[:images]


def by_hand(queries, library, k):
    """The whole matrix in float64; of rows in one direction the first."""
    q, lib = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries.double().numpy(), library.double().numpy()))
    similarity = q @ lib.T
    for j in range(len(lib)):
        if j and np.abs(lib[:j] - lib[j]).max(1).min() < 1e-12:
            similarity[:, j] = -9
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, 1)


# ---- nearest rows


@pytest.mark.parametrize("block", [3, 10, 1000])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_nearest_is_the_whole_matrix_sorted(monkeypatch, block, scale):
    monkeypatch.setattr(nearest_, "BLOCK", block)
    torch.manual_seed(1)
    queries, library = torch.randn(300, 12) * scale, torch.randn(40, 12) + 1
    rows, similarity = by_hand(queries / scale, library, 7)
    got = nearest(queries, library, 7)
    assert np.array_equal(got.rows, rows)
    assert np.allclose(got.similarity, similarity, atol=1e-7)


@pytest.mark.parametrize("block", [2, 1000])
def test_equal_rows_count_once_and_ties_go_to_the_first(monkeypatch, block):
    monkeypatch.setattr(nearest_, "BLOCK", block)
    library = torch.tensor([[0.0, 1], [1, 0], [2, 0], [0, -1], [0.0, 4], [1, 0]])
    got = nearest(torch.tensor([[1.0, 0], [1, 1], [0, -3]]), library, 9)
    assert got.rows.tolist() == [[1, 0, 3], [0, 1, 3], [3, 1, 0]]
    torch.manual_seed(2)
    rows = torch.randn(7, 16)
    assert nearest(rows, rows.repeat(50, 1), 1).rows[:, 0].tolist() == list(range(7))


def test_close_rows_are_ordered_by_more_digits_than_float32_products_have():
    torch.manual_seed(4)
    row = torch.randn(1, 2000)
    library = row + 3e-5 * torch.randn(8, 2000)
    assert np.array_equal(nearest(row, library, 8).rows, by_hand(row, library, 8)[0])


def test_one_row_and_none():
    assert nearest(torch.ones(2, 3), torch.ones(1, 3), 5).rows.tolist() == [[0], [0]]
    assert nearest(torch.ones(0, 3), torch.ones(1, 3)).rows.shape == (0, 1)
    with pytest.raises(BadInput, match="at least 1 row; got k=5 and 0 rows"):
        nearest(torch.ones(2, 3), torch.ones(0, 3))
    with pytest.raises(BadInput, match=r"rows of one width; got \(2, 3\) and \(1, 4\)"):
        nearest(torch.ones(2, 3), torch.ones(1, 4))


# ---- the library


def words_of(model, sentences, cap=1000, seed=0):
    prompts = [prepare(model, medlens.Sample(question=s.question, id=s.source), s.answer) for s in sentences]
    return choose(prompts, sentences, model.tokenizer, cap, seed)


def test_words_of_the_library_are_the_users_and_no_marks(model):
    sentences = sentences_of([medlens.Sample(question="which is larger , the mass or the cyst ?", answer="mass")])
    words = words_of(model, sentences)
    assert [w.word for w in words] == ["which", "is", "larger", "the", "mass", "or", "the", "cyst", "mass"]
    read = prepare(model, medlens.Sample(question=sentences[0].question), "mass").tokens
    assert [read.texts[w.place] for w in words] == [w.word for w in words]
    assert {w.sentence for w in words} == {"which is larger , the mass or the cyst ? mass"}


class Pieces:
    """A tokenizer of pieces, whose ids are their numbers."""

    pieces = (" pneumo", "thor", "ax", ",", " x", "-", "ray", ".")

    def decode(self, ids, clean_up_tokenization_spaces):
        return "".join(self.pieces[i] for i in ids)


def test_a_word_is_stored_at_its_last_token(model):
    sentences = sentences_of([medlens.Sample(question="one")])
    prompt = prepare(model, medlens.Sample(question="what"))
    tokens = medlens.Tokens(tuple(range(8)), ("text",) * 8, Pieces.pieces)
    words = choose([replace(prompt, tokens=tokens)], sentences, Pieces(), 9, 0)
    assert [(w.word, w.place) for w in words] == [("pneumothorax", 2), ("x", 4), ("ray", 6)]


def test_no_frequent_word_fills_it_and_equal_beginnings_are_one(model):
    sentences = sentences_of(medlens.phantom.samples(200, seed=3))
    every = words_of(model, sentences)
    some = words_of(model, sentences, cap=len({w.word for w in every}) + 5)
    assert len({w.word for w in some}) == len({w.word for w in every})
    assert some != words_of(model, sentences, cap=len(some), seed=1)
    begun = [(sentences[w.prompt].text.split()[: w.place], w.word) for w in every]
    assert len({str(b) for b in begun}) == len(every)


def test_a_file_of_sentences(model, tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("the lesion is a mass\n\nthe lesion is a cyst\nthe lesion is a mass\n", "utf-8")
    assert [s.source for s in sentences_in(path)] == ["corpus.txt, line 1", "corpus.txt, line 3"]
    found = medlens.neighbours(model, sick(1), path)
    assert sorted(found.texts.words) == ["a", "cyst", "is", "lesion", "mass", "the"]
    path.write_text("? ,\n")
    with pytest.raises(BadData, match="1 sentences without a word"):
        medlens.neighbours(model, sick(1), path)
    path.write_text("")
    with pytest.raises(BadData, match="0 sentences without a word"):
        medlens.neighbours(model, sick(1), path)
    with pytest.raises(BadData, match=r"none\.txt cannot be read as text"):
        medlens.neighbours(model, sick(1), tmp_path / "none.txt")
    path.write_text("mass")
    assert set(medlens.neighbours(model, sick(1), path, layers=[0]).table["word"]) == {"mass"}


# ---- neighbours


def test_neighbours_are_those_of_plain_states(model, found):
    """The whole way, from `forward`: states of patches, of words alone, one matrix of cosines."""
    texts, layer = found.texts, 5
    seen = medlens.forward(model, found.samples[2])
    patches = seen.hidden_states[layer][seen.tokens.where("image")]
    rows, similarity = by_hand(patches, texts.states.flatten(0, 1), 3)
    table = found.table.filter((pl.col("layer") == layer) & (pl.col("image") == found.samples[2].image_id))
    assert np.allclose(table["similarity"].to_numpy().reshape(-1, 3), similarity, atol=1e-5)
    words = np.array([texts.words[i % len(texts)] for i in rows.ravel()])
    assert (table["word"].to_numpy() == words).mean() > 0.99  # ties of the fifth digit aside
    assert table["text_layer"].to_list()[0] == texts.layers[rows[0, 0] // len(texts)]


def test_the_last_state_is_raw_and_words_are_read_without_an_image(model, found):
    texts = found.texts
    at = texts.sentences.index(next(s for s in texts.sentences if s.startswith("what kind of image is this")))
    question, answer = texts.sentences[at].rsplit(" ", 1)
    seen = medlens.forward(model, medlens.Sample(question=question), answer)
    written = (*seen.tokens.where("text"), *seen.tokens.where("answer"))
    place = next(i for i in written if seen.tokens.texts[i] == texts.words[at])
    assert (texts.states[-1, at] - seen.raw_last[place]).abs().max() < 1e-4
    assert (texts.states[3, at] - seen.hidden_states[3][place]).abs().max() < 1e-4


def test_streamed_is_resident_and_twice_is_once(model, found):
    streamed = medlens.neighbours(medlens.load("phantom", memory="100MiB"), sick(4), medlens.phantom.samples(60, seed=5), k=3)
    assert streamed.table.equals(found.table)
    assert streamed.null.equals(found.null)


def test_a_library_is_kept_and_belongs_to_its_weights(model, found, tmp_path):
    path = tmp_path / "texts.safetensors"
    found.texts.save(path)
    again = medlens.neighbours(model, sick(4), path, k=3)
    assert again.table.equals(found.table)
    assert torch.equal(load_texts(path, found.texts.fingerprint).states, found.texts.states)
    with pytest.raises(BadModel, match="write its own"):
        medlens.neighbours(medlens.load("phantom:random"), sick(1), path)
    with pytest.raises(BadModel, match="write its own"):
        medlens.neighbours(medlens.load("phantom:random"), sick(1), found.texts)
    path.write_bytes(b"no")
    with pytest.raises(BadData, match="cannot be read"):
        medlens.neighbours(model, sick(1), path)


def test_what_makes_no_sense(model):
    for wrong in ([9], [-1], []):
        with pytest.raises(BadInput, match="layers are states 0 to 8"):
            medlens.neighbours(model, sick(1), layers=wrong)
    with pytest.raises(BadInput, match="at least one image"):
        medlens.neighbours(model, [])
    with pytest.raises(BadInput, match="0 images; neighbours are of samples with one"):
        medlens.neighbours(model, medlens.Sample(question="where ?", id="s"))
    with pytest.raises(BadInput, match="cap=0"):
        medlens.neighbours(model, sick(1), cap=0)


def test_massive_columns_can_be_left_out(model, found, monkeypatch):
    from medlens.instruments import kept
    from medlens.measures.massive import Entry

    monkeypatch.setattr(kept, "massive", lambda state, readings: [Entry(0, 0, 7, 9e3)])
    without = medlens.neighbours(model, sick(4), found.texts, k=3, leave_out_massive=True)
    assert (without.left_out, found.left_out) == ((7,), ())
    rest = [c for c in range(model.width) if c != 7]
    seen = medlens.forward(model, found.samples[0])
    patches = seen.hidden_states[5][seen.tokens.where("image")][:, rest]
    similarity = by_hand(patches, found.texts.states.flatten(0, 1)[:, rest], 3)[1]
    table = without.table.filter((pl.col("layer") == 5) & (pl.col("image") == found.samples[0].image_id))
    assert np.allclose(table["similarity"].to_numpy().reshape(-1, 3), similarity, atol=1e-5)


# ---- are they true?


def test_a_mask_goes_the_way_of_its_image(model):
    sample = sick(1)[0]
    assert isinstance(sample.image, Image.Image)
    mask = sample.regions[0].array()
    assert np.allclose(covered(model, mask, 64), mask.reshape(8, 8, 8, 8).mean((1, 3)).ravel())
    seen = frame(model, sample.image)
    assert np.allclose(seen[..., 0] * 255, np.asarray(sample.image.convert("L")), atol=1)
    with pytest.raises(BadModel, match="not a square grid"):
        covered(model, mask, 63)


def test_shares_of_words_that_are_planted(model, found):
    """Every patch on a lesion is given its name, or another's: the table says so."""
    first = found.table.filter(pl.col("rank") == 1)
    on = {s.image_id: [(r.name, covered(model, r.array(), 64) >= 0.5) for r in s.regions] for s in found.samples}
    names = []
    for image, patch in first.select("image", "patch").iter_rows():
        names.append(next((name for name, patches in on[image] if patches[patch]), "the"))
    right = replace(found, table=first.with_columns(word=pl.Series(names))).true_words(model, LESIONS)
    assert set(right["on"]) == {1.0}
    assert set(right["beside"]) == {0.0}
    wrong = replace(found, table=first.with_columns(word=pl.lit("nowhere"))).true_words(model, LESIONS)
    assert set(wrong["on"]) == set(wrong["specific"].drop_nans()) == {0.0}
    with pytest.raises(BadInput, match="no image has a region named liver"):
        found.true_words(model, ["liver"])


def test_lesions_are_near_their_own_words_and_not_in_a_model_that_knows_nothing(model):
    """The last state, which was chosen beforehand: the right name more often than beside, and than another image's name."""
    words, slices = medlens.phantom.samples(300, seed=5), sick(80)
    assert len(slices) == 80
    shares = {}
    for name in ("phantom", "phantom:random"):
        loaded = model if name == "phantom" else medlens.load(name)
        found = medlens.neighbours(loaded, slices, words, images=80, k=1, layers=[model.depth])
        shares[name] = found.true_words(loaded, LESIONS).filter(name="all").row(0, named=True)
    knows, random = shares["phantom"], shares["phantom:random"]
    assert knows["difference_low"] > 0.05
    assert knows["specific_low"] > 0
    assert random["difference_low"] < 0
    assert random["specific_low"] < 0
    assert knows["specific"] > 2 * abs(random["specific"])


# ---- pictures and the command


def test_a_picture_has_a_word_on_each_patch(model, found):
    page = found.picture(model, 0, 5)
    side = page.width // 8
    words = found.table.filter((pl.col("layer") == 5) & (pl.col("rank") == 1) & (pl.col("image") == found.samples[0].image_id))
    limit = found.null.filter(layer=5)["null_95"][0]
    pixels, blue = np.asarray(page), (0, 114, 178)
    for patch, similarity in words.select("patch", "similarity").iter_rows():
        row, column = divmod(patch, 8)
        top = page.height - page.width + row * side
        cell = pixels[top : top + side, column * side : (column + 1) * side]
        assert (cell == blue).all(2).any() == (similarity > limit)
    for wrong in ((4, 5), (0, 9), (-1, 5)):
        with pytest.raises(BadInput, match="read were images 0 to 3"):
            found.picture(model, *wrong)


def test_the_command(tmp_path):
    from typer.testing import CliRunner

    from medlens.cli import app

    slices = medlens.phantom.samples(1, seed=2)
    picture = slices[0].image
    assert isinstance(picture, Image.Image)
    picture.save(tmp_path / "slice.png")
    (tmp_path / "text.txt").write_text("a mass\na cyst\n")
    said = CliRunner().invoke(app, [
        "lens", "neighbours", "phantom", "--image", str(tmp_path / "slice.png"), "--texts", str(tmp_path / "text.txt"),
        "--layer", "5", "--layer", "8", "--out", str(tmp_path / "out"), "--save-texts", str(tmp_path / "t.safetensors"), "--json",
    ])  # fmt: skip
    assert said.exit_code == 0, said.output
    made = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert made == ["image-00-layer-05.png", "image-00-layer-08.png", "layers.parquet", "neighbours.parquet"]
    assert set(pl.read_parquet(tmp_path / "out" / "neighbours.parquet")["word"]) == {"a", "mass", "cyst"}
    assert (tmp_path / "t.safetensors").exists()
