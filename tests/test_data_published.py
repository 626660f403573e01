"""The published data sets: tiny files of the same layout, and the real ones where they are."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import medlens
from medlens.errors import BadData


def picture(path, size=(30, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size[::-1], 9, np.uint8)).save(path)


def asked(qid, image="synpic1.jpg", **more):
    return {
        "qid": qid, "image_name": image, "image_organ": "CHEST", "answer": "Yes", "answer_type": "CLOSED",
        "question_type": "PRES", "question": "Is it there?", "phrase_type": "freeform", **more,
    }  # fmt: skip


@pytest.fixture
def vqa_rad(tmp_path):
    folder = tmp_path / "vqa_rad"
    picture(folder / "images" / "synpic1.jpg")
    test = [asked(11), asked(12, answer=3, answer_type="CLOSED ", question_type="PRES, ATTRIB "), asked(13, answer_type="OPEN")]
    (folder / "medv2qa_testset.json").write_text(json.dumps(test))
    (folder / "medv2qa_trainset.json").write_text(json.dumps([asked(1), asked(2)]))
    (folder / "medv2qa_answer_all_list.json").write_text('["yes", "no"]')
    return folder


def test_vqa_rad_reads_the_test_set_of_a_folder(vqa_rad):
    first, second, third = medlens.read(vqa_rad)
    assert (first.id, first.question, first.answer, first.question_type) == ("11", "Is it there?", "Yes", "PRES")
    assert first.image == vqa_rad / "images" / "synpic1.jpg"
    assert first.image_id == "synpic1.jpg"
    assert dict(first.tags) == {"answer_type": "closed", "organ": "CHEST", "phrase_type": "freeform"}
    assert (second.answer, second.question_type, second.tags["answer_type"]) == ("3", "PRES, ATTRIB", "closed")
    assert third.tags["answer_type"] == "open"


def test_vqa_rad_reads_the_file_that_is_named(vqa_rad):
    assert [s.id for s in medlens.read(vqa_rad / "medv2qa_trainset.json")] == ["1", "2"]


def test_vqa_rad_images_alone_are_a_folder_of_images(vqa_rad):
    assert [s.id for s in medlens.read(vqa_rad / "images", question="what ?")] == ["synpic1.jpg"]


def test_vqa_rad_names_the_record_it_cannot_read(vqa_rad):
    lacking = {k: v for k, v in asked(22).items() if k != "image_name"}
    (vqa_rad / "medv2qa_testset.json").write_text(json.dumps([asked(21), asked(20, image="gone.jpg"), lacking]))
    with pytest.raises(BadData, match=r"medv2qa_testset\.json record 2: image images/gone\.jpg does not exist below vqa_rad/"):
        medlens.read(vqa_rad)
    left_out = []
    assert [s.id for s in medlens.read(vqa_rad, bad=left_out.append)] == ["21"]
    assert "record 3: no field 'image_name'" in str(left_out[1])


def test_vqa_rad_with_several_sets_and_no_test(vqa_rad):
    (vqa_rad / "medv2qa_testset.json").rename(vqa_rad / "validation.json")
    with pytest.raises(BadData, match=r"holds 2 sets of questions \(medv2qa_trainset\.json, validation\.json\); name one"):
        medlens.read(vqa_rad)


@pytest.mark.real
def test_vqa_rad_for_real(real_data):
    test = medlens.read(real_data / "vqa_rad")
    train = medlens.read(real_data / "vqa_rad" / "medv2qa_trainset.json")
    assert (len(test), len(train)) == (451, 3064)
    assert Counter(s.tags["answer_type"] for s in train) == {"closed": 1823, "open": 1241}
    assert {s.image_id for s in test} <= {s.image_id for s in train}  # so: split by image
    assert all(isinstance(s.answer, str) for s in train)


def figure_question(number, **more):
    return {
        "question_id": number, "image": "1_F1.jpg", "pair_id": "1_F1", "text": "What is it?\n<image>", "gpt4_answer": "A cell.",
        "fig_caption": "A cell", "in_text_mention": [{"tokens": "See Fig. 1"}], "type": "conversation", "fig_label": "Fig. 1",
        "domain": {"mri": False, "histology": True, "gross": True}, **more,
    }  # fmt: skip


@pytest.fixture
def qa50(tmp_path):
    folder = tmp_path / "qa50"
    picture(folder / "images" / "1_F1.jpg")
    lines = [figure_question(0), figure_question(1, text="<image>\nWhere?")]
    (folder / "llava_med_eval_qa50_qa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "llava_med_eval_qa50_qa_ans.jsonl").write_text("{}")
    return folder


def test_llava_med(qa50):
    for path in (qa50, qa50 / "llava_med_eval_qa50_qa.jsonl"):
        first, second = medlens.read(path)
        assert (first.id, first.question, second.question) == ("0", "What is it?", "Where?")
        assert (first.image, first.image_id) == (qa50 / "images" / "1_F1.jpg", "1_F1.jpg")
        assert (first.answer, first.question_type) == (None, "conversation")
        assert dict(first.tags) == {
            "gpt4_answer": "A cell.", "domain": "histology, gross", "fig_caption": "A cell", "pair_id": "1_F1",
        }  # fmt: skip


def test_llava_med_without_its_images(qa50):
    (qa50 / "images" / "1_F1.jpg").unlink()
    with pytest.raises(BadData, match=r"line 1: image images/1_F1\.jpg does not exist"):
        medlens.read(qa50)
    (qa50 / "images").rmdir()
    for skip in (None, [].append):
        with pytest.raises(BadData, match="fetch them from PubMed Central") as caught:
            medlens.read(qa50, bad=skip)
        assert "\n" not in str(caught.value)


@pytest.mark.real
def test_llava_med_for_real(real_data, tmp_path):
    with pytest.raises(BadData, match="fetch them"):
        medlens.read(real_data / "llava_med")
    questions = (real_data / "llava_med" / "llava_med_eval_qa50_qa.jsonl").read_text()
    (tmp_path / "x_qa50_qa.jsonl").write_text(questions)
    for line in questions.splitlines():
        picture(tmp_path / "images" / json.loads(line)["image"])
    samples = medlens.read(tmp_path)
    assert (len(samples), len({s.image for s in samples})) == (193, 50)
    assert not any("<" in s.question or s.question != s.question.strip() for s in samples)
