"""What a changed manifest comes to: one line, at the place that was changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from medlens.errors import BadRun
from medlens.manifest import DEEPEST, SHAPE, read_manifest
from medlens.report import render
from medlens.store import open_run

GOOD: dict[str, Any] = {
    "format": 1,
    "model": {"name": "a", "blocks": 8, "checks": {"logits": 0, "image_effect": 1.5}, "origin": {"anything": [1]}},
    "data": {"skipped": ["x"]},
    "own": {"of": ["another", {"program": None}]},
}


def changed(way: str, value: Any) -> str:
    told = json.loads(json.dumps(GOOD))
    *parts, last = way.split(" / ")
    holder = told
    for part in parts:
        holder = holder.setdefault(part, {})
    holder[last] = value
    return json.dumps(told)


def test_what_medlens_writes_and_what_others_add_is_read():
    assert read_manifest(json.dumps(GOOD)) == GOOD
    assert read_manifest(changed("model", "phantom"))["model"] == "phantom"  # of one sample's maps


@pytest.mark.parametrize(
    ("way", "value"),
    [
        ("model / blocks", -1), ("model / blocks", DEEPEST + 1), ("model / blocks", True), ("model / blocks", 8.0),
        ("model", ["phantom"]), ("model / checks / logits", "0"), ("data / samples", None), ("seconds / walking", {}),
        ("prune / checkpoint / blocks", {}), ("plan", []),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_said_with_its_place(way, value):
    with pytest.raises(ValueError, match=f"{way} is not what medlens writes there"):
        read_manifest(changed(way, value))


def test_in_a_list_its_number_is_the_place():
    with pytest.raises(ValueError, match="neurons / concepts / 1 / word is not"):
        read_manifest(changed("neurons / concepts", [{"word": "yes"}, {"word": 1}]))


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "", "[" * 10_000])
def test_what_is_no_manifest(text):
    with pytest.raises(ValueError):
        read_manifest(text)


def test_what_is_missing_is_said_when_it_is_needed(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(GOOD))
    told = open_run(tmp_path).manifest
    assert told.get("forecast") is None
    assert told["model"].get("width") is None
    for ask in (lambda: told["forecast"], lambda: told["model"]["width"], lambda: render(open_run(tmp_path))):
        with pytest.raises(BadRun, match="says nothing of '"):
            ask()


def test_every_shape_takes_what_it_names():
    """No part of the contract is out of reach."""

    def example(shape: Any) -> Any:
        if isinstance(shape, tuple):
            return example(shape[-1])
        if isinstance(shape, dict):
            return {str(name): example(inner) for name, inner in shape.items()}
        if isinstance(shape, list):
            return [example(shape[0])]
        return 3 if hasattr(shape, "most") else shape()

    told = {name: example(shape) for name, shape in SHAPE.items()}
    assert read_manifest(json.dumps(told)) == told
