"""The other code that is measured: the study's own functions, and accelerate. Both come with the `bench` extra."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from medlens.errors import BadInput

PEERS = ("llm-microscope", "accelerate")


def versions() -> str:
    """Which of them are here, in which version."""
    return ", ".join(f"{name} {_version(name)}" for name in PEERS)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def microscope() -> ModuleType:
    """llm-microscope's functions, by path: the package fails when it is imported whole. Raises BadInput where it is missing."""
    need("llm_microscope")
    need("matplotlib")
    found = importlib.util.find_spec("llm_microscope")
    assert found is not None
    assert found.submodule_search_locations
    spec = importlib.util.spec_from_file_location("functions", Path(found.submodule_search_locations[0]) / "functions.py")
    assert spec is not None
    assert spec.loader is not None
    functions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(functions)
    return functions


def need(module: str) -> None:
    """Raise BadInput, with the line that installs it, where a peer is missing."""
    if importlib.util.find_spec(module) is None:
        raise BadInput(f"{module} is not installed: `pip install 'medlens[bench]'`")
