"""What is released: the wheel and its contents, what it is made of, and what its dependencies are pinned to."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

import pin_release
import sbom
from medlens.phantom.train import RECIPES

ROOT = Path(__file__).parent.parent
KINDS = {".bib", ".py", ".j2", ".jinja", ".json", ".md", ".txt", ".safetensors", ".css", ".js", ".svg", ".html", ".typed"}
LARGEST = 25 * 2**20  # bytes of the wheel; three phantoms are nearly all of it


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and source archive, as they are released."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def test_what_is_in_the_wheel(built):
    wheel, _ = built
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        assert opened.testzip() is None
        licence = next(name for name in names if name.endswith("licenses/LICENSE"))
        assert opened.read(licence) == (ROOT / "LICENSE").read_bytes()
    about = f"medlens-{version('medlens')}.dist-info/"
    assert {name.split("/")[0] for name in names} == {"medlens", about.rstrip("/")}
    inside = [name for name in names if name.startswith("medlens/")]
    assert {Path(name).suffix for name in inside} <= KINDS
    assert not [name for name in inside if Path(name).name.startswith(("test_", "conftest")) or "__pycache__" in name]
    sources = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*") if p.is_file()}
    assert set(inside) == {name for name in sources if "__pycache__" not in name}
    weights = [name for name in inside if name.endswith(".safetensors")]
    assert {Path(name).parent.name for name in weights} == set(RECIPES)  # our own phantoms; nobody's model and nobody's data
    assert wheel.stat().st_size < LARGEST


def test_the_same_sources_give_the_same_wheel(built, tmp_path):
    """From the source archive, which must hold all that it takes."""
    wheel, source = built
    with tarfile.open(source) as opened:
        opened.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    assert not (root / ".ci").exists()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_a_study_from_the_wheel(built, tmp_path):
    """Installed into an empty folder, away from these sources."""
    target, away = tmp_path / "installed", tmp_path / "away"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(built[0])]
    subprocess.run(command, check=True, capture_output=True)
    away.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    assert (target / "bin" / "medlens").is_file()
    whence = "import medlens, medlens.cli; print(medlens.__file__); medlens.cli.main()"
    study = [sys.executable, "-c", whence, "study", "--limit", "2", "--out", "run", "--instrument", "lens"]
    ended = subprocess.run(study, cwd=away, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert Path(ended.stdout.splitlines()[0]).is_relative_to(target)
    assert json.loads((away / "run" / "manifest.json").read_text())["data"]["samples"] == 2
    assert (away / "run" / "report.html").stat().st_size > 10_000


def test_the_bill_of_materials():
    """Complete, as the packages say themselves: by a walk of our own through what is installed."""
    made = sbom.bill()
    assert json.dumps(made) == json.dumps(sbom.bill())
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.5")
    known = {part["name"]: part for part in made["components"]}
    asked = [Requirement(line).name for line in pin_release.wanted(ROOT)]
    assert asked
    assert set(asked) <= set(known)
    assert all(known[name]["version"] == version(name) for name in known)
    references = {part["bom-ref"] for part in [*made["components"], made["metadata"]["component"]]}
    assert len(references) == len(known) + 1
    assert {line["ref"] for line in made["dependencies"]} == references
    assert {needed for line in made["dependencies"] for needed in line["dependsOn"]} == references - {
        made["metadata"]["component"]["bom-ref"]
    }


def test_the_bill_follows_extras(monkeypatch):
    """Also those of one that was met before without them."""
    needs = {
        "a": ["toolkit", "b"],
        "b": ['toolkit[one,two] ; extra == ""', 'nothing ; extra == "dev"'],
        "toolkit": ['first ; extra == "one"', 'second ; extra == "two"', 'third ; extra == "three"'],
    }
    monkeypatch.setattr(sbom, "distribution", lambda name: SimpleNamespace(requires=needs.get(name)))
    found = {name: needed for name, (_, needed) in sbom.closure("a").items()}
    assert found == {"a": ["b", "toolkit"], "b": ["toolkit"], "toolkit": ["first", "second"], "first": [], "second": []}


def test_pins():
    item = {"metadata": {"name": "Some_Thing", "version": "1.0"}, "download_info": {"archive_info": {"hashes": {"sha256": "ab"}}}}
    assert pin_release.pinned({"install": [item]}) == "some-thing==1.0 \\\n    --hash=sha256:ab\n"
    for bad in ({"metadata": {"name": "x", "version": "1+cpu"}}, {"download_info": {}}):
        with pytest.raises(ValueError, match="this machine alone"):
            pin_release.pinned({"install": [item | bad]})


def test_the_release_pins_what_is_developed_with():
    """Every package that medlens needs, each in the version of constraints.txt, with a hash."""
    text = (ROOT / "requirements-release.txt").read_text()
    pins = dict(line.split(" ")[0].split("==") for line in text.splitlines() if "==" in line)
    ours = dict(line.lower().replace("_", "-").split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    assert {Requirement(line).name for line in pin_release.wanted(ROOT)} <= set(pins)
    assert {name: v for name, v in pins.items() if name in ours} == {name: v for name, v in ours.items() if name in pins}
    assert text.count("--hash=sha256:") == len(pins)
    assert "://" not in text
