"""Names planted wherever they come from, and looked for in all that the commands write and print with `--deidentify`."""

import pytest
from typer.testing import CliRunner

from medlens import _reliance
from medlens._reliance.consistency import consistency
from medlens.cli import app
from medlens.errors import MedlensWarning
from named import HEADERS, NAMES, PATHS, everything, planted, seen


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("base") / "ward-paddington" / "quartermain", apart=True)


@pytest.fixture(autouse=True)
def _little(monkeypatch, tmp_path):
    """Of reliance no more than one of each thing it writes; and a key of our own."""
    monkeypatch.setenv("MEDLENS_KEY", str(tmp_path / "key"))
    monkeypatch.setattr(_reliance, "consistency", lambda model, prompts, **rest: consistency(model, prompts[:1], **rest))
    monkeypatch.setattr(_reliance, "FOLLOWED", 1)
    monkeypatch.setattr(_reliance, "PATHS", ("image to all",))


COMMANDS = {
    "explain": "explain phantom --image {image} --question Q --methods centre --no-tokens --no-card --out {out}",
    "lens": "lens phantom --image {image} --question Q --layer 4 --out {out}",
    "neighbours": "lens neighbours phantom {data} --layer 4 --cap 64 --out {out}",
    "train": "lens train phantom {data} --steps 2 --out {out}/lens.safetensors",
    "answer": "answer phantom {data} --out {out}/answers.jsonl",
    "thin": "thin phantom {data} --what dropped --share 0.5 --draws 1 --out {out}",
    "reliance": "reliance phantom {data} --limit 4 --out {out}",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_name_nobody(name, data, tmp_path):
    out, image = tmp_path / "out", data.parent / "quartermain_d.png"
    out.mkdir()
    asked = COMMANDS[name].format(data=data, image=image, out=out)
    with pytest.warns(MedlensWarning, match="on 1 of [0-9] images something may be written, a name perhaps"):
        ended = CliRunner().invoke(app, [*asked.split(), "--deidentify"])
    assert ended.exit_code == 0, ended.output
    written = everything(out)
    assert len(written) > 500
    told = ended.output.replace("\n", "").replace(str(tmp_path), "")
    assert seen((*HEADERS, *PATHS, *NAMES), written + told.encode()) == []
