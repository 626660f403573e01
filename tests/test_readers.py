import json

import numpy as np
import pytest
from PIL import Image

import medlens
from medlens.errors import BadData
from medlens.types import Sample


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.jpg", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 30), 9, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    return tmp_path


def test_a_folder(folder):
    samples = medlens.read(folder, question="what ?")
    assert [s.id for s in samples] == ["a.png", "b.jpg", "deep/c.png"]
    assert {s.question for s in samples} == {"what ?"}
    assert all(s.image.is_file() for s in samples)


def test_a_folder_without_question(folder):
    with pytest.raises(BadData, match="--question"):
        medlens.read(folder)


FULL = {
    "id": "q1", "image": "a.png", "question": "where ?", "answer": "left", "mask": "b.jpg", "question_type": "place",
    "image_id": "i1", "patient_id": "p1", "sex": "f",
}  # fmt: skip


def written(folder, kind, records):
    path = folder / f"data.{kind}"
    if kind == "csv":
        fields = list(dict.fromkeys(k for r in records for k in r))
        lines = [",".join(fields), *(",".join(str(r.get(f, "")) for f in fields) for r in records)]
        path.write_text("\n".join(lines) + "\n")
    elif kind == "json":
        path.write_text(json.dumps(records))
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_all_fields_round_trip(folder, kind):
    full, least = medlens.read(written(folder, kind, [FULL, {"image": "b.jpg", "question": "what ?"}]))
    assert (full.id, full.image, full.question, full.answer) == ("q1", folder / "a.png", "where ?", "left")
    assert (full.question_type, full.image_id, full.patient_id) == ("place", "i1", "p1")
    assert (full.regions[0].name, full.regions[0].mask_path) == ("mask", folder / "b.jpg")
    assert dict(full.tags) == {"sex": "f"}
    assert (least.id, least.answer, least.regions, dict(least.tags)) == ("0002", None, (), {})


def test_json_lines_named_json(folder):
    path = written(folder, "jsonl", [FULL]).rename(folder / "lines.json")
    assert [s.id for s in medlens.read(path)] == ["q1"]


def test_integer_answers_and_several_images(folder):
    (sample,) = medlens.read(written(folder, "jsonl", [{"images": ["a.png", "b.jpg"], "question": "how many ?", "answer": 2}]))
    assert sample.answer == "2"
    assert len(sample.images) == 2


def test_question_for_records_without(folder):
    (sample,) = medlens.read(written(folder, "csv", [{"image": "a.png"}]), question="what ?")
    assert sample.question == "what ?"


BAD = {
    "no image": ([{"question": "what ?", "image": ""}], "line 2: no image"),
    "missing image": ([FULL, {**FULL, "image": "zzz.png"}], r"line 3: image zzz\.png does not exist"),
    "missing mask": ([{**FULL, "mask": "zzz.png"}], r"line 2: mask zzz\.png does not exist"),
    "no question": ([{"image": "a.png", "question": ""}], "line 2: no question"),
}


@pytest.mark.parametrize(("records", "says"), BAD.values(), ids=BAD)
def test_a_bad_record_is_named_by_line(folder, records, says):
    with pytest.raises(BadData, match=r"data\.csv " + says):
        medlens.read(written(folder, "csv", records))


def test_bad_records_can_be_left_out(folder):
    errors = []
    path = folder / "d.jsonl"
    path.write_text(
        f'{json.dumps(FULL)}\n\nnot json\n[1]\n{{"image": 5, "question": "what ?"}}\n{json.dumps({**FULL, "id": "q2"})}\n'
    )
    assert [s.id for s in medlens.read(path, bad=errors.append)] == ["q1", "q2"]
    assert [str(e).split(":")[0].removesuffix(" is not JSON") for e in errors] == [
        "d.jsonl line 3",
        "d.jsonl line 4",
        "d.jsonl line 5",
    ]
    with pytest.raises(BadData, match="line 3 is not JSON"):
        medlens.read(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", "", "an empty file"),
        ("x.csv", "image;question\na.png;what\n", "with commas"),
        ("x.csv", "image,question,image\na.png,what,b.jpg\n", "'image' comes twice"),
        ("x.csv", "image,question\nhttp://x/a.png,what\n", "links are not fetched"),
        ("x.jsonl", '{"image": "a.png", "images": ["b.jpg"], "question": "what"}', "both `image` and `images`"),
        ("x.jsonl", '{"image": "a.png", "question": "a \\ud800 b"}', "lone surrogate"),
        ("x.jsonl", '{"image": "a.png", "question": "  \\n "}', "expected text"),
        ("x.jsonl", '{"image": "a.png", "question": "what", "answer": ["yes"]}', "expected text or a number"),
        ("x.jsonl", '{"image": "a.png", "question": "what", "answer": true}', "expected text or a number"),
        ("x.jsonl", '{"image": "a.png", "question": "what", "answer": NaN}', "expected text or a number"),
        ("x.jsonl", "[1, 2]", "line 1: .1, 2. is not an object"),
        ("a.png", "", "is one image; give its folder"),
        ("x.csv", "image,question\n", "no samples"),
        ("x.csv", "picture,question\na.png,what\n", "no column `image`"),
        ("x.csv", "image,question\na.png,what,more\n", "line 2: more fields"),
        ("x.csv", b"image,question\na.png,\xff\xfe\n", "save it as UTF-8"),
        ("x.jsonl", "", "no samples"),
        ("x.jsonl", b"\xff\xfe", "not UTF-8"),
        ("x.json", "[" * 100_000, "not JSON"),
        ("x.json", "[1", "not JSON"),
        ("x.xls", "", "no reader for .xls"),
    ],
)
def test_files_that_cannot_be_read(folder, name, content, says):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadData, match=says) as caught:
        medlens.read(folder / name)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(BadData, match="no data at"):
        medlens.read(tmp_path / "nowhere")
    with pytest.raises(BadData, match=r"no images \(\.bmp"):
        medlens.read(tmp_path, question="what ?")


def test_a_sample_is_one_thing_or_the_other():
    with pytest.raises(TypeError, match="not both"):
        Sample(image="a.png", images=["b.png"], question="what ?")
    with pytest.raises(TypeError, match="ends with a question"):
        Sample(image="a.png", turns=["what ?", "this"])
