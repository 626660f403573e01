"""Parquet, and the folders that `datasets` writes: made here with pyarrow."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import medlens
from medlens.data.images import open_image
from medlens.data.intake import take_in
from medlens.errors import BadData, BadImage

pa = pytest.importorskip("pyarrow", reason="no pyarrow: pip install 'medlens[pandas]'")
GREY = np.arange(600, dtype=np.uint8).reshape(20, 30)


def png(pixels=GREY):
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def embedded(pixels=GREY, path="/home/jane/scans/a.png"):
    return {"bytes": png(pixels), "path": path}


def parquet(path, records):
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
    return path


def saved_to_disk(folder, records):
    """As `datasets.Dataset.save_to_disk` writes it: Arrow streams, named in state.json; other .arrow files are its caches."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(records)
    for name, part in (
        ("data-00000-of-00002.arrow", table[:1]),
        ("data-00001-of-00002.arrow", table[1:]),
        ("cache-1.arrow", table),
    ):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(part)
    names = [{"filename": f"data-0000{k}-of-00002.arrow"} for k in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": names, "_split": None}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


ROWS = [
    {"image": embedded(), "question": "what ?", "answer": "one", "sex": "f"},
    {"image": embedded(), "question": "where ?", "answer": "two", "sex": None},
    {"image": embedded(GREY[::-1], None), "question": "who ?", "answer": None, "sex": "m"},
]


@pytest.mark.parametrize("kind", ["file", "shards", "data folder", "save_to_disk", "dictionary"])
def test_embedded_images(tmp_path, kind):
    path = tmp_path / "set"
    if kind == "file":
        path = parquet(tmp_path / "set.parquet", ROWS)
    elif kind in ("shards", "data folder"):
        inside = path / "data" if kind == "data folder" else path
        parquet(inside / "test-00000-of-00002-1a2b.parquet", ROWS[:1])
        parquet(inside / "test-00001-of-00002-1a2b.parquet", ROWS[1:])
        parquet(inside / "train-00000-of-00001.parquet", ROWS[:1])
    elif kind == "save_to_disk":
        saved_to_disk(path, ROWS)
    else:
        saved_to_disk(path / "train", ROWS[:2])
        saved_to_disk(path / "test", ROWS)
        (path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    samples = medlens.read(path)
    assert [(s.id, s.question, s.answer, s.shown) for s in samples] == [
        ("0001", "what ?", "one", "a.png"), ("0002", "where ?", "two", "a.png"), ("0003", "who ?", None, "image 2"),
    ]  # fmt: skip
    assert [dict(s.tags) for s in samples] == [{"sex": "f"}, {}, {"sex": "m"}]
    assert np.array_equal(np.asarray(open_image(samples[2].image))[..., 0], GREY[::-1])
    assert samples[0].image is samples[1].image
    assert take_in(samples).images[0] == take_in(samples).images[1] != take_in(samples).images[2]


def test_other_ways_to_give_an_image(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "b.png")
    (named,) = medlens.read(parquet(tmp_path / "1.parquet", [{"image": "b.png", "question": "what ?"}]))
    (struct,) = medlens.read(parquet(tmp_path / "2.parquet", [{"image": {"bytes": None, "path": "b.png"}, "question": "what ?"}]))
    (plain,) = medlens.read(parquet(tmp_path / "3.parquet", [{"image": png(), "question": "what ?"}]))
    (many,) = medlens.read(parquet(tmp_path / "4.parquet", [{"images": [embedded(), embedded(GREY[::-1])], "question": "what ?"}]))
    assert named.image == struct.image == tmp_path / "b.png"
    assert np.array_equal(np.asarray(open_image(plain.image))[..., 0], GREY)
    assert len(many.images) == 2


def test_masks_and_bytes_that_are_no_tag(tmp_path):
    row = {"image": embedded(), "question": "what ?", "mask": embedded((GREY > 99).astype(np.uint8) * 255), "thumb": embedded()}
    (sample,) = medlens.read(parquet(tmp_path / "x.parquet", [{**row, "raw": png()}]))
    assert np.array_equal(sample.regions[0].array(), GREY > 99)
    assert dict(sample.tags) == {}
    take_in([sample])


def test_rows_that_cannot_be_read(tmp_path):
    path = parquet(tmp_path / "x.parquet", [*ROWS, {"image": {"bytes": b"no image", "path": None}, "question": "what ?"}])
    with pytest.raises(BadImage, match="sample 0004: image image 3 is not an image"):
        take_in(medlens.read(path))
    with pytest.raises(BadData, match=r"y\.parquet row 2: no image"):
        medlens.read(parquet(tmp_path / "y.parquet", [ROWS[0], {"image": None, "question": "what ?"}]))
    (tmp_path / "z.parquet").write_text("no table")
    with pytest.raises(BadData, match=r"z\.parquet is damaged, or not what its ending \.parquet says"):
        medlens.read(tmp_path / "z.parquet")


def test_several_splits_and_none_called_test(tmp_path):
    for split in ("train", "validation"):
        parquet(tmp_path / f"{split}-00000-of-00001.parquet", ROWS)
    with pytest.raises(BadData, match=r"2 sets of questions \(train, validation\); name the one"):
        medlens.read(tmp_path)


PATH = {
    "answer_type": "other", "img_id": "test_0422", "label": {"in the canals of hering": 1}, "question_id": 100422000,
    "question_type": "where", "sent": "Where are stem cells located?",
}  # fmt: skip


@pytest.fixture
def pvqa(tmp_path):
    (tmp_path / "images" / "test").mkdir(parents=True)
    (tmp_path / "qas").mkdir()
    Image.fromarray(GREY).save(tmp_path / "images" / "test" / "test_0422.jpg")
    return tmp_path


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_path_vqa(pvqa, kind):
    records = [PATH, {**PATH, "question_id": 2, "answer_type": "yes/no", "label": {"no": 0.3, "yes": 1}}]
    file = pvqa / "qas" / f"test_vqa.{kind}"
    if kind == "parquet":
        parquet(file, records)
    else:
        file.write_text(json.dumps(records) if kind == "json" else "\n".join(map(json.dumps, records)))
    for path in (pvqa, file):
        first, second = medlens.read(path)
        assert (first.id, first.question, first.answer) == ("100422000", PATH["sent"], "in the canals of hering")
        assert (first.image, first.image_id) == (pvqa / "images" / "test" / "test_0422.jpg", "test_0422")
        assert (first.question_type, dict(first.tags)) == ("where", {"answer_type": "open"})
        assert (second.answer, second.tags["answer_type"]) == ("yes", "closed")


def test_path_vqa_in_its_short_form(pvqa):
    (pvqa / "qas" / "test_qa.json").write_text(json.dumps([{"image": "test_0422", "question": "What?", "answer": "It"}]))
    (sample,) = medlens.read(pvqa)
    assert (sample.id, sample.question, sample.answer, dict(sample.tags)) == ("0001", "What?", "It", {})


def test_pickles_are_not_opened(pvqa):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    import pickle

    file = pvqa / "qas" / "test_vqa.pkl"
    file.write_bytes(pickle.dumps(Bomb()))
    (pvqa / "loose.pkl").write_bytes(file.read_bytes())
    for path in (pvqa, file, pvqa / "loose.pkl"):
        with pytest.raises(BadData, match=r"\.pkl is a pickle, .* parquet form, or .*\.json") as caught:
            medlens.read(path)
        assert "\n" not in str(caught.value)


def test_nothing_heavy_is_imported_by_the_readers():
    import subprocess
    import sys

    heavy = "{'pydicom', 'nibabel', 'pyarrow', 'polars'}"
    code = f"import sys, medlens.data; loaded = {heavy} & set(sys.modules); sys.exit(', '.join(loaded) or 0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_a_shard_that_is_gone(tmp_path):
    (saved_to_disk(tmp_path / "set", ROWS) / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(BadData, match=r"data-00001-of-00002\.arrow does not exist"):
        medlens.read(tmp_path / "set")
