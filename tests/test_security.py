"""The page that says what is promised names tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()


def missing(page):
    """Tests named on it that no file defines."""
    named = re.findall(r"`(test_\w+)::(test_\w+)`", page)
    assert len(named) > 30
    files = {file: (ROOT / "tests" / f"{file}.py") for file, _ in named}
    text = {file: path.read_text() if path.exists() else "" for file, path in files.items()}
    return [f"{file}::{test}" for file, test in named if not re.search(rf"^def {test}\(", text[file], re.MULTILINE)]


def test_every_test_that_is_named_is_there():
    assert missing(PAGE) == []
    assert missing(PAGE + "`test_hostile::test_nothing`") == ["test_hostile::test_nothing"]


@pytest.mark.parametrize("part", ["## Files", "## Network", "## Patient data", "## The viewer", "## Not promised"])
def test_the_page_has_its_parts(part):
    assert part in PAGE.splitlines()
