"""The documentation's site: it builds without a broken link, says every public name, and its reference is up to date."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import medlens

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_builds_without_a_broken_link(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "site" / "notebooks" / "answer" / "index.html").exists()


def test_every_public_name_is_in_the_reference():
    told = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in medlens.__all__ if f"medlens.{name}\n" not in told and f"`medlens.{name}`" not in told] == []
    assert [name for name in re.findall(r"^::: medlens\.(\w+)$", told, re.MULTILINE) if name not in medlens.__all__] == []


def test_the_commands_are_those_of_today():
    assert script("cli_page").page() == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), "run scripts/cli_page.py"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path):
    book = script("notebooks").run(path)
    said = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert said
    assert not [output for output in said if output.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_name_no_place_of_ours(path):
    told = path.read_text(encoding="utf-8")
    assert not re.search(r'"/(home|root|tmp|work|Users)/|\\\\Users', told)
