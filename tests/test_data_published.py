"""The published data sets: tiny files of the same layout, and the real ones where they are."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import medlens
from medlens.data.intake import take_in
from medlens.errors import BadData, BadImage, BadInput


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
    with pytest.raises(BadData, match=r"holds 2 sets of questions \(medv2qa_trainset\.json, validation\.json\); name the one"):
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


def about(qid, language="en", **more):
    return {
        "img_id": 7, "img_name": "xmlab7/source.jpg", "question": "Is it the liver?", "answer": "Yes", "q_lang": language,
        "location": "Abdomen", "modality": "CT", "answer_type": "CLOSED", "base_type": "vqa", "triple": ["vhead", "_", "_"],
        "qid": qid, "content_type": "Organ", **more,
    }  # fmt: skip


@pytest.fixture
def slake(tmp_path):
    folder = tmp_path / "slake"
    here = folder / "imgs" / "xmlab7"
    picture(here / "source.jpg")
    labels = np.zeros((20, 30), np.uint8)
    labels[3:5, 6:9], labels[10:12, 1] = 70, 135
    Image.fromarray(labels).save(here / "mask.png")
    (here / "detection.json").write_text(json.dumps([{"Atelectasis": [4.0, 2.0, 10.0, 5.0]}, {"Liver": [0.6, 0, 1.0, 30.0]}]))
    (here / "question.json").write_text(json.dumps([about(99)]))
    (folder / "mask.txt").write_text("70:Liver\n")
    questions = [about(1), about(2, "zh", question="是肝脏吗?", answer="是的"), about(3, answer_type="OPEN")]
    (folder / "test.json").write_text(json.dumps(questions, ensure_ascii=False), encoding="utf-8")
    (folder / "train.json").write_text(json.dumps([about(8)]))
    return folder


def test_slake_reads_the_english_half_of_the_test_set(slake):
    first, third = medlens.read(slake)
    assert (first.id, third.id, first.image_id) == ("1", "3", "7")
    assert first.image == slake / "imgs" / "xmlab7" / "source.jpg"
    assert (first.question, first.answer, first.question_type) == ("Is it the liver?", "Yes", "Organ")
    assert dict(first.tags) == {
        "language": "en", "answer_type": "closed", "modality": "CT", "location": "Abdomen", "base_type": "vqa",
    }  # fmt: skip
    assert third.tags["answer_type"] == "open"
    assert [s.id for s in medlens.read(slake / "train.json")] == ["8"]


def test_slake_in_chinese(slake):
    (sample,) = medlens.read(slake, language="zh")
    assert (sample.id, sample.answer, sample.tags["language"]) == ("2", "是的", "zh")
    with pytest.raises(BadInput, match="languages are en, zh; got 'fr'"):
        medlens.read(slake, language="fr")


def test_only_slake_has_a_language(vqa_rad):
    with pytest.raises(BadInput, match="no option language"):
        medlens.read(vqa_rad, language="zh")


def test_slake_regions(slake):
    sample = medlens.read(slake)[0]
    masks = {r.name: r.array() for r in sample.regions}
    assert list(masks) == ["Atelectasis (box)", "Liver (box)", "Liver", "label 135"]
    assert all(m.shape == (20, 30) and m.dtype == bool for m in masks.values())
    where = {name: {(int(x), int(y)) for y, x in np.argwhere(mask)} for name, mask in masks.items()}
    assert where["Atelectasis (box)"] == {(x, y) for x in range(4, 14) for y in range(2, 7)}
    assert where["Liver (box)"] == {(1, y) for y in range(20)}  # the one column whose centre is in 0.6 .. 1.6, cut at the edge
    assert where["Liver"] == {(x, y) for x in range(6, 9) for y in range(3, 5)}
    assert where["label 135"] == {(1, 10), (1, 11)}
    take_in([sample])
    picture(slake / "imgs" / "xmlab7" / "source.jpg", (40, 20))
    with pytest.raises(BadImage, match="mask of Liver has 30 x 20 pixels, its image 40 x 20"):
        take_in([sample])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("imgs/xmlab7/detection.json", '[{"Liver": [1, 2]}]', "xmlab7/detection.json is not a list of"),
        ("imgs/xmlab7/detection.json", "[", "xmlab7/detection.json is not a list of"),
        ("imgs/xmlab7/mask.png", "no picture", "xmlab7/mask.png is not an image"),
        ("mask.txt", "Liver", "mask.txt is not a list of lines"),
    ],
)
def test_slake_regions_that_cannot_be_read(slake, name, content, says):
    (slake / name).write_text(content)
    with pytest.raises(BadData, match=says):
        medlens.read(slake)


def test_slake_without_its_images(slake):
    (slake / "imgs").rename(slake / "elsewhere")
    with pytest.raises(BadData, match=r"test\.json: no folder imgs/ beside it; unpack"):
        medlens.read(slake)


@pytest.mark.real
def test_slake_for_real(real_data, tmp_path):
    (tmp_path / "test.json").write_bytes((real_data / "slake" / "test.json").read_bytes())
    for k in {row["img_name"] for row in json.loads((tmp_path / "test.json").read_text())}:
        picture(tmp_path / "imgs" / k)
    english, chinese = medlens.read(tmp_path), medlens.read(tmp_path, language="zh")
    assert (len(english), len(chinese)) == (1061, 1033)
    assert Counter(s.tags["modality"] for s in english + chinese) == {"CT": 865, "X-Ray": 740, "MRI": 489}
