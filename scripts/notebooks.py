"""Run the notebooks of docs/notebooks, in an empty folder each, and keep what they print.

python scripts/notebooks.py [NAME ...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook, run from top to bottom. Raises CellExecutionError where a cell fails."""
    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(book, timeout=300, resources={"metadata": {"path": folder}}).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # when, which is nobody's business
    book.metadata["language_info"] = {"name": "python"}
    return book


if __name__ == "__main__":
    wanted = sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    for name in wanted:
        path = NOTEBOOKS / f"{name}.ipynb"
        nbformat.write(run(path), path)
        print(path.name)
