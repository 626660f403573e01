"""What a piece of the viewer is made of, and its script: without a run, a server or a browser."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import medlens
from medlens.errors import BadRun
from medlens.viewer import packing
from medlens.viewer.files import MODULES, joined
from medlens.viewer.packing import DROPPED
from medlens.viewer.pieces import opened, packed

ROUNDED = 2.0 ** (DROPPED - 24)  # of the 24 bits that a float32 has


def test_what_is_packed_comes_back():
    given = (([-1, 2**31 - 1], "i4"), ([0.5, -1e30, 0], ">f4"), ([], "f4"), ([65535], "u2"))
    arrays = [np.array(values, kind) for values, kind in given]
    found = opened(packed({"words": ["<é▁", ""], "deep": [{"of": array} for array in arrays]}))
    assert found["words"] == ["<é▁", ""]
    for array, back in zip(arrays, found["deep"], strict=True):
        assert back["of"].tolist() == array.tolist()
    for wrong, raised in ((float("nan"), ValueError), (object(), TypeError)):
        with pytest.raises(raised):
            packed([wrong])


def test_numbers_are_rounded_and_not_cut():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    found = packing.rounded(np.append(values, [0, np.finfo(np.float32).tiny]))
    assert found[:-2] == pytest.approx(values, rel=ROUNDED)
    assert abs(np.mean(found[:-2] / values - 1)) < ROUNDED / 10
    assert found[-2] == 0


def test_lists_of_any_length_are_packed():
    """Positions without a row, empty lists and short ones leave their places free."""
    rows = pl.DataFrame(
        {"layer": 2, "position": [3, 1, 0], "units": [[7], [], [8, 9]], "activations": [[1.0], [], [2.0, 3.0]]},
    )
    found = packing.fires(rows)
    assert (found["count"], found["each"]) == (4, 2)
    assert found["units"].tolist() == [[[8, 9], [-1, -1], [-1, -1], [7, -1]]]
    assert found["activations"][0, 0].tolist() == [2, 3]


def test_lists_that_do_not_fit_each_other_are_refused():
    rows = pl.DataFrame({"layer": 2, "position": [0, 1], "units": [[7], [8, 9]], "activations": [[1.0], [2.0]]})
    with pytest.raises(BadRun, match="different lengths"):
        packing.fires(rows)
    for weights in ([[0.5], [0.5, 0.5]], [[0.5], None]):
        with pytest.raises(BadRun, match="not every token"):
            packing.looks(pl.DataFrame({"position": [0, 1], "weights": weights, "sinks": [[0], [0]]}))
    with pytest.raises(BadRun, match="damaged"):
        packing.fires(rows.with_columns(position=pl.Series([0, 10**6])))


def test_one_script_of_all_modules():
    """Each behind those that it imports; no import and no export is left but what the last one gives."""
    place = Path(medlens.__file__).parent / "viewer" / "static" / "viewer"
    assert sorted(path.stem for path in place.iterdir()) == sorted(MODULES)
    for k, name in enumerate(MODULES):
        asked = re.findall(r'"\./(\w+)\.js"', (place / f"{name}.js").read_text())
        assert set(asked) <= set(MODULES[:k]), name
    script = joined()
    assert not re.findall(r"^import ", script, re.M)
    assert re.findall(r"^export .*", script, re.M) == [
        "export async function mount(element, source) {",
        "export { inside, served };",
        "export default { render: ({ model, el }) => void mount(el, asked(model)) };",
    ]
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", script, re.M)
    assert len(names) == len(set(names)) > 40
