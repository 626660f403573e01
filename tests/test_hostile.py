"""Files that are made to harm: each threat of docs/security.md by itself. (`tools/fuzz` tries what nobody thought of.)"""

import contextlib
import gzip
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

import medlens
from medlens.data import read
from medlens.data.images import open_image
from medlens.data.intake import take_in
from medlens.data.masks import labels_of, regions_of
from medlens.errors import LONGEST, BadData, BadImage, BadModel, BadRun, MedlensError
from medlens.jsontext import parse
from medlens.models.asked import check_asked
from medlens.models.phantom import folder_of
from medlens.models.shards import check_shards
from medlens.report.parts import inline
from medlens.unfinished import Unfinished, refuse_another
from written import write_run

ROOT = Path(__file__).parent.parent
DEEP = "[" * 10_000 + "]" * 10_000
TENSORS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5)}


class Code:
    """Pickled, it makes a folder where it is opened."""

    def __reduce__(self):
        return os.mkdir, ("code-was-run",)


def png(width=16, height=16):
    buffer = BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


# ---- checkpoints


def rewritten(**changes):
    """A safetensors file with a header of our own."""
    data = save(TENSORS)
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]) | changes).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def told(begin, end, shape=(3, 4)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


DAMAGED = {
    "overlapping": rewritten(a=told(0, 48), b=told(40, 60, (5,))),
    "negative": rewritten(a=told(-48, 0)),
    "beyond the end": rewritten(a=told(0, 2**62, (2**60,))),
    "huge shape": rewritten(a=told(0, 48, (2**32, 2**32))),
    "no list": rewritten(a={"dtype": "F32", "shape": "x", "data_offsets": None}),
    "deep": struct.pack("<Q", len(DEEP)) + DEEP.encode(),
    "huge header": struct.pack("<Q", 2**63 - 1) + b"{}",
    "a name twice": save({"a": torch.ones(1)}).replace(b'{"a":', b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":', 1),
    "empty": b"",
    "a pickle": pickle.dumps(Code()),
    "a pickle behind a length": struct.pack("<Q", 20) + pickle.dumps(Code()),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_safetensors_that_lie_are_refused_and_nothing_in_them_is_run(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(BadModel, match="damaged"):
        check_shards(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "..", "a" * 5000, "a\0b"])
def test_an_index_leads_nowhere_else(tmp_path, name):
    folder, other = tmp_path / "model", tmp_path / "other"
    for place in (folder, other):
        place.mkdir()
        (place / "model.safetensors").write_bytes(save(TENSORS))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": name}}))
    with pytest.raises(BadModel, match=r"does not lie beside it|lacks the shard"):
        check_shards(folder)


def test_an_index_nested_too_deep(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(save(TENSORS))
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": ' + DEEP + "}")
    with pytest.raises(BadModel, match="is no index of weights"):
        check_shards(tmp_path)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folder_of("phantom"), folder)
    return folder


def test_code_in_a_checkpoint_is_not_run(checkpoint, monkeypatch):
    """`auto_map` names classes in the folder; what it names is there, and would leave a trace."""
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint / "code.py").write_text("import os\nos.mkdir('code-was-run')\nclass A: pass\n")
    classes = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        path = checkpoint / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": dict.fromkeys(classes, "code.A")}))
    with contextlib.suppress(BadModel):  # to refuse it is as well
        assert medlens.load(checkpoint).checks
    assert not (checkpoint.parent / "code-was-run").exists()


def test_a_template_cannot_leave_its_sandbox(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint / "chat_template.jinja").write_text("{{ cycler.__init__.__globals__.os.mkdir('code-was-run') }}")
    with pytest.raises(BadModel):
        medlens.load(checkpoint)
    assert not (checkpoint.parent / "code-was-run").exists()


@pytest.mark.parametrize(
    ("part", "key"), [("text_config", "num_hidden_layers"), ("text_config", "vocab_size"), ("vision_config", "hidden_size")]
)
def test_a_configuration_asks_for_no_more_than_its_weights(checkpoint, part, key):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    check_asked(checkpoint, check_shards(checkpoint))  # as it is, it may
    config[part][key] = 10**9
    path.write_text(json.dumps(config))
    with pytest.raises(BadModel, match=rf"config.json says {key} = 1000000000, the weights beside it allow \d+ at most"):
        medlens.load(checkpoint)


# ---- pictures


def test_pictures_of_other_kinds_are_not_handed_to_other_programs(tmp_path, monkeypatch):
    """Pillow gives EPS to Ghostscript, whatever the file's name is."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n(/etc/passwd) run\n%%EOF\n")
    for open_ in (lambda: open_image(path), lambda: medlens.Region("m", mask_path=path).array(), lambda: labels_of(path, {})):
        with pytest.raises(BadImage, match="not an image that can be read"):
            open_()


def bomb(width, height):
    """A PNG of some hundred bytes that claims to be so large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000, 2**31 - 1])
def test_bombs_are_refused_before_they_go_off(tmp_path, side):
    path = tmp_path / "x.png"
    path.write_bytes(bomb(side, side))
    for open_ in (lambda: open_image(path), lambda: medlens.Region("m", mask_path=path).array(), lambda: labels_of(path, {})):
        with pytest.raises(BadImage, match="megapixels"):
            open_()


def test_masks_that_claim_to_be_huge(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    header = nibabel.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 1))
    header.set_data_dtype(np.uint8)
    (tmp_path / "m.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(1000)))
    coco = {
        "images": [{"id": 1, "file_name": "i.png", "height": 10**6, "width": 10**6}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}],
    }
    (tmp_path / "m.json").write_text(json.dumps(coco))
    for name in ("m.nii.gz", "m.json"):
        with pytest.raises(BadImage, match="megapixels"):
            regions_of(tmp_path / name, tmp_path / "i.png")[0].array()


def test_a_deflated_dicom_file_is_no_bomb(tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID, data.PatientName = CTImageStorage, "1.2.3", "A" * 10_000
    data.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(BadImage, match="without pixel data"):
        open_image(tmp_path / "x.dcm")
    monkeypatch.setattr("medlens.data.dicom.INFLATED", 9_000)
    with pytest.raises(BadImage, match="when it is inflated"):
        open_image(tmp_path / "x.dcm")


# ---- data sets


def test_pipes_devices_and_links(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImage, match="no ordinary file"):
        take_in(read(tmp_path, "q"))
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with pytest.raises(BadImage, match="no ordinary file"):
        take_in(read(tmp_path, "q"))
    (tmp_path / "zero.png").unlink()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(BadImage, match=r"nowhere\.png does not exist"):
        take_in(read(tmp_path, "q"))


HURTING = [
    ("q.json", DEEP, "not JSON"),
    ("q.jsonl", DEEP, "not JSON"),
    ("q.jsonl", '{"image": ' + DEEP + "}", "not JSON"),
    ("q.jsonl", '{"image": ' + "9" * 5000 + "}", "not JSON"),
    ("q.jsonl", '{"image": "' + "9" * 5000 + '"}', "does not exist"),
    ("q.jsonl", '{"image": "i.png", "question": "\\ud800"}', "lone surrogate"),
    ("q.csv", "image,question\n" + "a" * 5000 + ".png,q\n", "does not exist"),
    ("q.csv", "image,question\n\0.png,q\n", "NUL|exist"),
    ("q.csv", 'image,question\n"' + "a" * 200_000 + '",q\n', "field larger"),
    ("q.csv", "image,question\n=cmd|x!A0,q\n", "does not exist"),
]


def test_a_name_that_no_file_system_takes():
    with pytest.raises(BadImage, match="cannot be read: File name too long"):
        open_image("a" * 5000)


@pytest.mark.parametrize(("name", "text", "says"), HURTING)
def test_questions_that_hurt(tmp_path, name, text, says):
    (tmp_path / "i.png").write_bytes(png())
    (tmp_path / name).write_text(text)
    with pytest.raises(BadData, match=says):
        read(tmp_path / name, "q")


def test_formulas_stay_text(tmp_path):
    (tmp_path / "i.png").write_bytes(png())
    (tmp_path / "q.csv").write_text("image,question,answer\ni.png,=1+1,@SUM(A1)\n")
    (sample,) = read(tmp_path / "q.csv")
    assert (sample.question, sample.answer) == ("=1+1", "@SUM(A1)")


def test_errors_are_one_line_that_steers_no_terminal(tmp_path):
    (tmp_path / "a\n\x1b[2J\u202e.png").write_text("no picture")
    with pytest.raises(BadImage) as caught:
        take_in(read(tmp_path, "q"))
    assert str(caught.value).isprintable()
    assert r"a\n\x1b[2J\u202e.png" in str(caught.value)
    assert str(MedlensError("a ü")) == "a ü"
    assert len(str(MedlensError("a" * 10**7))) == LONGEST + 1


def test_deep_json_is_a_value_error():
    with pytest.raises(ValueError, match="nested too deep"):
        parse(DEEP)
    assert parse("[1]") == [1]


# ---- runs


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", {"anisotropy/image": np.ones((5, 9))})


def test_tables_of_another_form(run):
    import polars as pl

    path = run.path / "rows.parquet"
    frame = pl.read_parquet(path)
    for changed in (frame.drop("value"), frame.with_columns(pl.col("value").cast(pl.String))):
        changed.write_parquet(path)
        with pytest.raises(BadRun, match="column value"):
            _ = medlens.open_run(run.path).rows
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadRun, match="missing or damaged"):
        _ = medlens.open_run(run.path).rows


def test_a_manifest_nested_too_deep(run):
    (run.path / "manifest.json").write_text(DEEP)
    with pytest.raises(BadRun, match="damaged: nested too deep"):
        medlens.open_run(run.path)


def test_pictures_of_a_run_lie_in_it(run, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (run.path / "pictures").mkdir()
    (run.path / "pictures/link.png").symlink_to(tmp_path / "secret.png")
    (run.path / "pictures/own.png").write_bytes(b"own")
    assert inline(run.path, "pictures/own.png") == "data:image/png;base64,b3du"
    for name in ("../secret.png", str(tmp_path / "secret.png"), "pictures/link.png", "pictures/none.png", "a\0b", "a" * 5000):
        with pytest.raises(BadRun, match="there is no picture"):
            inline(run.path, name)


@pytest.mark.parametrize("text", ["", "{", DEEP, "[]", "1"])
def test_what_a_killed_study_left_was_changed(tmp_path, text):
    for name in ("identity.json", "progress.json"):
        (tmp_path / name).write_text(text)
    (tmp_path / "answers.jsonl").write_text(text + "\n")
    work = Unfinished(tmp_path, tmp_path)
    with pytest.raises(BadRun, match=r"is damaged|another study"):
        refuse_another(tmp_path, {"plan": "a"})
    assert work.progress == {}  # the walk begins again
    assert work.answers() == []


# ---- and what nobody thought of


@pytest.mark.slow
def test_two_thousand_mutated_files():
    """`make fuzz` tries 100,000."""
    command = [sys.executable, "-m", "tools.fuzz", "--inputs", "2000"]
    paths = os.pathsep.join([str(Path(medlens.__file__).parent.parent), str(ROOT)])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    target, inputs, _read, refused, _died, wrong, _seconds = done.stdout.splitlines()[-1].split()
    assert (target, wrong) == ("all", "0")
    assert int(inputs) >= 2000
    assert int(refused) > 500  # they are hostile
