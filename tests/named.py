"""Names, dates and numbers planted wherever they come from; and the search for them in all that is written."""

import base64
import json
import re
from io import BytesIO

import polars as pl
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from tools.fuzz.pictures import dicom

from medlens.phantom import questions

HEADERS = ("Zephyrine", "19510607", "MRN-8842117", "Aldhelm", "Oswestry", "51.5072")  # in no name: never written
PATHS = ("ward-paddington",)  # above the data: never written
NAMES = ("quartermain", "1951-06-07", "8842117", "Cholmondeley")  # of files, samples and patients: not with `deidentify`
QUESTION = "is there a lesion ?"


def planted(folder, apart=False):
    """Five images in a folder, and a file of questions. apart: each of a patient of its own, all to be read, of two answers."""
    folder.mkdir(parents=True)
    drawn = [sample.image for sample in questions.samples(40, 0)][::9]
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x0132] = "Zephyrine", "Oswestry", "1951:06:07 19510607"
    exif.get_ifd(0x8825)[1] = "51.5072"
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "Zephyrine MRN-8842117")
    text.add_itxt("Author", "Oswestry")
    text.add_text("Deep", "Aldhelm", zip=True)
    drawn[0].save(folder / "quartermain_a.png", pnginfo=text, exif=exif, icc_profile=b"Aldhelm" * 40)
    drawn[1].save(folder / "quartermain_b.jpg", exif=exif, comment=b"Zephyrine", icc_profile=b"Aldhelm" * 40, quality=95)
    drawn[2].save(folder / "quartermain_c.tiff", description="Zephyrine", artist="Oswestry", date_time="19510607")
    written = drawn[3].convert("L").resize((128, 128))
    ImageDraw.Draw(written).text((4, 4), "QUARTERMAIN", fill=255, font=ImageFont.load_default(16))
    written.save(folder / "quartermain_d.png")
    elements = {
        "PatientName": "Zephyrine^Q",
        "PatientID": "MRN-8842117",
        "PatientBirthDate": "19510607",
        "InstitutionName": "Aldhelm",
    }
    (folder / "quartermain_e.dcm").write_bytes(dicom(ReferringPhysicianName="Oswestry", **elements))
    (folder / "quartermain_bad.png").write_text("Zephyrine")
    lines = [
        {
            "image": path.name, "question": QUESTION, "answer": "yes", "id": f"1951-06-07 {path.name}",
            "image_id": f"8842117 {path.stem}", "patient_id": "8842117", "referrer": "Cholmondeley", "organ": "lung",
        }
        for path in sorted(folder.iterdir())
    ]  # fmt: skip
    lines.append(dict(lines[0], image="quartermain_gone.png", id="gone"))
    if apart:
        lines = [line for line in lines if not {"quartermain_bad.png", "quartermain_gone.png"} & {line["image"]}]
        lines = [line | {"patient_id": f"8842117-{k}", "answer": ("yes", "no")[k % 2]} for k, line in enumerate(lines)]
    (folder / "quartermain.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "quartermain.jsonl"


def everything(folder):
    """Every byte of a run: of files as they are, of tables as text, of pages also what is embedded in them, of pictures also their
    metadata."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        found += [path.relative_to(folder).as_posix().encode(), data]
        if path.suffix == ".parquet":
            found.append(pl.read_parquet(path).write_json().encode())
        found += [embedded(data), metadata(data)]
    return b"\n".join(found)


def embedded(page):
    """What a page holds in base64, with the metadata of what is a picture."""
    inside = [base64.b64decode(text) for text in re.findall(rb"base64,([A-Za-z0-9+/=]+)", page)]
    return b"\n".join([*inside, *map(metadata, inside)])


def metadata(data):
    """Of a picture; nothing of anything else."""
    if data[:4] not in (b"\x89PNG", b"\xff\xd8\xff\xe0"):
        return b""
    with Image.open(BytesIO(data)) as opened:
        return repr((opened.info, dict(opened.getexif()))).encode()


def seen(words, data):
    """Those of the words that are in it, in any case and in either encoding."""
    data = data.lower()
    return [w for w in words if w.lower().encode() in data or w.lower().encode("utf-16-le") in data]
