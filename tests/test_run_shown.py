"""Every kind of run shows itself, in a line and in a notebook."""

import json
import shutil

import polars as pl
import pytest

import medlens
from medlens.errors import BadRun
from medlens.store import write_manifest, write_table

KINDS = {  # the command -> the tables that are its own, each with a row; the first is named
    "study": ("rows", "lens"),
    "neurons": ("neurons", "effects", "cards"),
    "reliance": ("reliance", "gates"),
    "prune": ("importance", "pruned"),
    "thin": ("thinned",),
    "benchmark": ("leaderboard", "layers"),
    "probe": ("rows",),
}


@pytest.fixture(scope="module")
def explained(phantom, tmp_path_factory):
    """By the command itself: its manifest is another than those of all others."""
    out = tmp_path_factory.mktemp("explained") / "maps"
    sample = medlens.phantom.samples(6, 0)[5]
    medlens.explain(phantom, sample, methods=["relevance"], tokens=False, card=False, out=out)
    return medlens.open_run(out)


def made(run, folder, tables):
    """With a study's manifest, which all commands but `explain` share, its samples and pictures, and these tables."""
    shutil.copytree(run.path / "pictures", folder / "pictures")
    shutil.copy(run.path / "samples.parquet", folder)
    write_manifest(folder, {name: value for name, value in run.manifest.items() if name != "format"})
    for name in ("claims", "answers"):  # many commands write them without rows
        write_table(folder, name, [])
    for name in tables:
        write_table(folder, name, [{}])
    return medlens.open_run(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_command(kind, looked_at, tmp_path):
    run = made(looked_at, tmp_path / kind, KINDS[kind])
    own = KINDS[kind][0]
    assert repr(run) == f"Run({str(run.path)!r}: phantom, 6 samples, 1 {own})"
    shown = run._repr_html_()
    assert "<b>phantom on phantom</b>" in shown
    for name in KINDS[kind]:
        assert f"{name} (1)" in shown
    assert "claims" not in shown
    assert shown.count("<img ") == 2


def test_of_one_explanation(explained):
    assert repr(explained) == f"Run({str(explained.path)!r}: phantom, 64 maps)"
    shown = explained._repr_html_()
    assert f"<b>phantom, sample {explained.manifest['sample']}</b>" in shown
    assert explained.manifest["question"] in shown
    assert "maps (64)" in shown


def test_of_a_run_of_somebody_else(looked_at, tmp_path):
    """A picture that lies elsewhere is not shown; a damaged table is said in a line."""
    run = made(looked_at, tmp_path / "run", [])
    shutil.copy(next((run.path / "pictures").iterdir()), tmp_path / "secret.png")
    run.samples.with_columns(picture=pl.lit("../secret.png")).write_parquet(run.path / "samples.parquet")
    changed = medlens.open_run(run.path)
    assert "<img" not in changed._repr_html_()
    assert repr(changed).endswith("phantom, 6 samples)")
    (run.path / "rows.parquet").write_bytes(b"PAR1")
    for show in (repr, medlens.Run._repr_html_):
        with pytest.raises(BadRun, match="damaged"):
            show(changed)


def test_its_name_is_escaped(looked_at, tmp_path):
    run = made(looked_at, tmp_path / "run", [])
    told = json.loads((run.path / "manifest.json").read_text())
    told["model"]["name"] = "<script>"
    (run.path / "manifest.json").write_text(json.dumps(told))
    assert "<script>" not in medlens.open_run(run.path)._repr_html_()
